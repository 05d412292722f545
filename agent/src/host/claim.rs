//! Which session owns which domain: never two at once; one that only waits can be asked to give it up.
//!
//! Pages that are only nominated do not show in what the hypervisor tells of a domain, so nothing but this keeps a guest
//! whose memory is still arriving from being sent on, half of it unread.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use common::DomId;

use crate::error::{Refusal, SessionError};
use crate::tasks::Timer;

/// The domains of this host that a session has in hand.
#[derive(Clone, Default)]
pub(crate) struct Domains(Rc<RefCell<Vec<Taken>>>);

struct Taken {
    domain: DomId,
    /// Somebody else asks for it.
    wanted: bool,
}

/// One domain, until dropped.
pub(crate) struct Claim {
    domains: Domains,
    domain: DomId,
}

impl Domains {
    /// Takes `domain` in hand, unless somebody has it.
    pub(crate) fn claim(&self, domain: DomId) -> Result<Claim, SessionError> {
        let taken = &mut *self.0.borrow_mut();
        if taken.iter().any(|taken| taken.domain == domain) {
            return Err(SessionError::Refused(Refusal::InHand));
        }
        taken.push(Taken { domain, wanted: false });
        Ok(Claim { domains: self.clone(), domain })
    }

    /// Asks whoever has `domain` in hand to let go of it, or asks no more.
    pub(crate) fn want(&self, domain: DomId, wanted: bool) {
        self.0.borrow_mut().iter_mut().filter(|taken| taken.domain == domain).for_each(|taken| taken.wanted = wanted);
    }
}

impl Claim {
    /// Whether no other domain is in anybody's hand.
    pub(crate) fn is_only(&self) -> bool {
        self.domains.0.borrow().len() == 1
    }

    /// Waits until somebody else asks for the domain, who looks again when the caller has let go of it.
    pub(crate) async fn wanted(&self, timer: &Timer) {
        let wanted = || self.domains.0.borrow().iter().any(|taken| taken.domain == self.domain && taken.wanted);
        timer.wait_for(|| wanted().then_some(())).await;
        timer.nudge();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.domains.0.borrow_mut().retain(|taken| taken.domain != self.domain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_in_one_hand_at_a_time() {
        let domains = Domains::default();
        let claim = domains.claim(DomId(5)).ok().unwrap();
        let other = domains.claim(DomId(6)).ok();
        assert!(domains.claim(DomId(5)).is_err() && other.is_some() && !claim.is_only());
        drop(other);
        assert!(claim.is_only());
        drop(claim);
        assert!(domains.claim(DomId(5)).is_ok());
    }
}
