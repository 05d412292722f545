//! FLASK labels: relabelling a domain is how the source commits.

use super::abi::flask::*;
use super::error::{Operation, Result};
use crate::abi::DomId;
use crate::hypercall;

/// A label's number in the running policy (`ssidref`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sid(pub u32);

/// Looks a label up, such as `system_u:system_r:tsmc_away_t`.
pub fn find(label: &str) -> Result<Sid> {
    let mut op = SidContextOp {
        cmd: CONTEXT_TO_SID,
        interface_version: INTERFACE_VERSION,
        sid: 0,
        size: label.len() as u32,
        context: label.as_ptr(),
        rest: [0; 2],
    };
    // SAFETY: a complete operation; Xen reads `size` bytes of the label.
    unsafe { hypercall::xsm_op(&mut op) }.map_err(|errno| Operation::FindLabel.error(errno))?;
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
