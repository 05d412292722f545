//! Whether the security policy is enforced and keeps dom0 from running or ending a guest that has left: the commit relies on it.

use xen_abi::Errno;
use xen_abi::flask::*;

use super::error::{Error, Operation, Result};
use super::label::{self, Sid};
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
    if dom0_may(label::find(label::AWAY)?, CLASS_DOMAIN, FORBIDDEN)? {
        return Err(Error::Refused("the security policy lets dom0 run or destroy guests that have left (tsmc_away_t)"));
    }
    Ok(())
}

/// Whether dom0 may read the memory of guests with this label.
pub(super) fn dom0_may_read(label: Sid) -> Result<bool> {
    dom0_may(label, CLASS_MMU, MMU_MAP_READ)
}

/// Whether dom0 may do any of this.
fn dom0_may(label: Sid, class: u32, permissions: u32) -> Result<bool> {
    let mut op = AccessOp { ssid: label::find(DOM0_LABEL)?.0, tsid: label.0, ..AccessOp::new(ACCESS) };
    (op.tclass, op.req) = (class, permissions);
    // SAFETY: a complete operation without pointers.
    unsafe { hypercall::xsm_op(&mut op) }.map_err(|errno| Operation::AskPolicy.error(errno))?;
    Ok(op.allowed & permissions != 0)
}

/// What dom0 must not do to a guest that has left.
const FORBIDDEN: u32 = DOMAIN_UNPAUSE | DOMAIN_RESUME | DOMAIN_DESTROY;
