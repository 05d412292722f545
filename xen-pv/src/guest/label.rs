//! FLASK labels: relabelling a domain is how the source commits, and how the target shuts dom0 out.
//!
//! A label is text of the form `user:role:type`, perhaps with a range behind it. The types of a guest go by their names: what
//! `T_building` or `T_inbound` is made for is a guest of type `T` (`toolstack/flask/tsmc.if`).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::fmt;

use common::DomId;
use xen_abi::Errno;
use xen_abi::flask::*;

use super::error::{Error, Operation, Result};
use crate::hypercall;

/// A label's number in the running policy (`ssidref`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sid(pub u32);

/// A label's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label(String);

/// The label of a guest that has left: only the agent may run or destroy it.
pub const AWAY: &str = "system_u:system_r:tsmc_away_t";
/// The longest label that is understood.
pub const MAX_LABEL: usize = 256;
/// A domain that the toolstack has just made.
const BUILDING: &str = "_building";
/// A domain that the agent fills, out of the toolstack's reach.
const INBOUND: &str = "_inbound";

impl Label {
    /// What another agent says is a label.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = core::str::from_utf8(bytes).ok()?;
        let fits = text.len() <= MAX_LABEL && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
    }

    /// What the running policy calls `sid`.
    pub fn of(sid: Sid) -> Result<Self> {
        let mut text = [0u8; MAX_LABEL];
        let mut op = SidContextOp {
            cmd: SID_TO_CONTEXT,
            interface_version: INTERFACE_VERSION,
            sid: sid.0,
            size: text.len() as u32,
            context: text.as_mut_ptr(),
            rest: [0; 2],
        };
        // SAFETY: a complete operation; Xen writes at most `size` bytes of the label.
        unsafe { hypercall::xsm_op(&mut op) }.map_err(|errno| Operation::FindLabel.error(errno))?;
        let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
        Self::parse(text).ok_or(Error::Refused("the domain has a label that is no text"))
    }

    /// Of a host where guests bear none.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// For a domain that the toolstack has just made: the label under which the agent fills it. Not every type has one.
    pub fn inbound(&self) -> Option<Self> {
        self.renamed(BUILDING, INBOUND)
    }

    /// Whether no guest runs under this label: the toolstack, or the agent, is still filling the domain.
    pub fn is_shell(&self) -> bool {
        [BUILDING, INBOUND].iter().any(|suffix| self.renamed(suffix, "").is_some())
    }

    /// Whether a domain with this label was made for a guest with that one.
    pub fn is_for(&self, guest: &Self) -> bool {
        self == guest || [BUILDING, INBOUND].iter().any(|suffix| self.renamed(suffix, "").as_ref() == Some(guest))
    }

    /// The label whose type ends in `new` where this one's ends in `old`.
    fn renamed(&self, old: &str, new: &str) -> Option<Self> {
        let mut parts = self.0.splitn(4, ':');
        let (user, role, kind) = (parts.next()?, parts.next()?, parts.next()?);
        let stem = kind.strip_suffix(old).filter(|stem| !stem.is_empty())?;
        let range = parts.next().map(|range| format!(":{range}")).unwrap_or_default();
        Some(Self(format!("{user}:{role}:{stem}{new}{range}")))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Looks a label up, such as `system_u:system_r:tsmc_away_t`.
pub fn find(label: &str) -> Result<Sid> {
    look_up(label).map_err(|errno| Operation::FindLabel.error(errno))
}

/// Looks up a label that the policy need not know.
pub fn find_if_known(label: &Label) -> Result<Option<Sid>> {
    match look_up(label.as_str()) {
        Ok(sid) => Ok(Some(sid)),
        Err(Errno::EINVAL) => Ok(None),
        Err(errno) => Err(Operation::FindLabel.error(errno)),
    }
}

fn look_up(label: &str) -> core::result::Result<Sid, Errno> {
    let mut op = SidContextOp {
        cmd: CONTEXT_TO_SID,
        interface_version: INTERFACE_VERSION,
        sid: 0,
        size: label.len() as u32,
        context: label.as_ptr().cast_mut(),
        rest: [0; 2],
    };
    // SAFETY: a complete operation; Xen reads `size` bytes of the label and writes none.
    unsafe { hypercall::xsm_op(&mut op) }?;
    Ok(Sid(op.sid))
}

/// Gives a domain another label.
pub fn relabel(domain: DomId, to: Sid) -> Result {
    let mut op = RelabelOp {
        cmd: RELABEL_DOMAIN,
        interface_version: INTERFACE_VERSION,
        domid: domain.0.into(),
        sid: to.0,
        rest: [0; 3],
    };
    // SAFETY: a complete operation without pointers.
    unsafe { hypercall::xsm_op(&mut op) }.map(drop).map_err(|errno| Operation::Relabel.error(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Label {
        Label::parse(text.as_bytes()).expect("a label")
    }

    #[test]
    fn a_building_label_has_an_inbound_one_beside_it() {
        let inbound = |text| label(text).inbound();
        assert_eq!(inbound("system_u:system_r:secret_t_building"), Some(label("system_u:system_r:secret_t_inbound")));
        assert_eq!(inbound("u:r:t_building:s0:c1,c2"), Some(label("u:r:t_inbound:s0:c1,c2")));
        for other in ["system_u:system_r:domU_t", "u_building:r:t", "u:r:_building", "t_building", ""] {
            assert_eq!(inbound(other), None, "{other}");
        }
    }

    #[test]
    fn a_domain_of_another_type_is_not_for_the_guest() {
        let guest = label("system_u:system_r:secret_t");
        for text in ["secret_t", "secret_t_building", "secret_t_inbound"] {
            assert!(label(&format!("system_u:system_r:{text}")).is_for(&guest), "{text}");
        }
        for text in ["domU_t", "domU_t_building", "secret_t_inbound_building", "secret_", "xsecret_t"] {
            assert!(!label(&format!("system_u:system_r:{text}")).is_for(&guest), "{text}");
        }
        assert!(!label("user_1:vm_r:secret_t").is_for(&guest));
    }

    #[test]
    fn no_guest_runs_under_the_label_of_a_domain_that_is_being_filled() {
        for text in ["system_u:system_r:secret_t_building", "system_u:system_r:secret_t_inbound", "u:r:t_inbound:s0"] {
            assert!(label(text).is_shell(), "{text}");
        }
        for text in ["system_u:system_r:secret_t", "system_u:system_r:inbound_t", "u_building:r:t"] {
            assert!(!label(text).is_shell(), "{text}");
        }
    }

    #[test]
    fn only_short_printable_text_is_a_label() {
        assert_eq!(Label::parse(b"u:r:t\n"), None);
        assert_eq!(Label::parse(&[0xff]), None);
        assert_eq!(Label::parse(&[b'a'; MAX_LABEL + 1]), None);
    }
}
