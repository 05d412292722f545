//! Whether the security policy is enforced and keeps dom0 from running or ending a guest that has left: the commit relies on it.

use xen_abi::Errno;
use xen_abi::flask::*;

use super::error::{Error, Operation, Result};
use super::label;
use super::source::AWAY_LABEL;
use crate::{broker, hypercall};

const DOM0_LABEL: &str = "system_u:system_r:dom0_t";

/// Whether this hypervisor has a security policy at all.
pub fn is_there() -> bool {
    // SAFETY: a complete operation without pointers.
    let answer = unsafe { hypercall::xsm_op(&mut AccessOp::new(GETENFORCE)) };
    answer != Err(Errno::ENOSYS)
}

/// Fails with the reason if dom0 could run or destroy a guest that has left. Where a broker lends guests they are dom0's all the time.
pub fn holds_what_has_left() -> Result {
    if broker::is_needed() {
        return Ok(());
    }
    let mut op = AccessOp::new(GETENFORCE);
    // SAFETY: a complete operation without pointers.
    let enforces = unsafe { hypercall::xsm_op(&mut op) }.map_err(|errno| Operation::AskPolicy.error(errno))?;
    if enforces == 0 {
        return Err(Error::Refused(
            "the security policy is not enforced ('xl getenforce'): dom0 could destroy a guest that has left",
        ));
    }
    let mut op =
        AccessOp { ssid: label::find(DOM0_LABEL)?.0, tsid: label::find(AWAY_LABEL)?.0, ..AccessOp::new(ACCESS) };
    (op.tclass, op.req) = (CLASS_DOMAIN, FORBIDDEN);
    // SAFETY: as above.
    unsafe { hypercall::xsm_op(&mut op) }.map_err(|errno| Operation::AskPolicy.error(errno))?;
    if op.allowed & FORBIDDEN != 0 {
        return Err(Error::Refused("the security policy lets dom0 run or destroy guests that have left (tsmc_away_t)"));
    }
    Ok(())
}

/// What dom0 must not do to a guest that has left.
const FORBIDDEN: u32 = DOMAIN_UNPAUSE | DOMAIN_RESUME | DOMAIN_DESTROY;
