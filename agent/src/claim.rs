//! Which domains are in somebody's hand: two sessions never work on the same one.
//!
//! Pages that are only nominated do not show in what the hypervisor tells of a domain, so nothing but this keeps a guest
//! whose memory is still arriving from being sent on, half of it unread.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::platform::DomId;
use crate::session::{Refusal, SessionError};

/// The domains of this host that a session has in hand.
#[derive(Clone, Default)]
pub(crate) struct Domains(Rc<RefCell<Vec<DomId>>>);

/// One domain, until dropped.
pub(crate) struct Claim {
    domains: Domains,
    domain: DomId,
}

impl Domains {
    /// Takes `domain` in hand, unless somebody has it.
    pub(crate) fn claim(&self, domain: DomId) -> Result<Claim, SessionError> {
        let taken = &mut *self.0.borrow_mut();
        if taken.contains(&domain) {
            return Err(SessionError::Refused(Refusal::InHand));
        }
        taken.push(domain);
        Ok(Claim { domains: self.clone(), domain })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.domains.0.borrow_mut().retain(|taken| *taken != self.domain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_in_one_hand_at_a_time() {
        let domains = Domains::default();
        let claim = domains.claim(DomId(5)).ok();
        assert!(domains.claim(DomId(5)).is_err() && domains.claim(DomId(6)).is_ok());
        drop(claim);
        assert!(domains.claim(DomId(5)).is_ok());
    }
}
