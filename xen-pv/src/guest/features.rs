//! What this hypervisor can do for guests, asked without touching any.

use xen_abi::Errno;
use xen_abi::memory::{MemPagingOp, PAGING_OP_NOMINATE, XENMEM_PAGING_OP};

use super::domctl::command::NOBODY;
use crate::hypercall;

/// The hypervisor was built with memory paging.
pub fn has_paging() -> bool {
    let mut op = MemPagingOp { op: PAGING_OP_NOMINATE, domain: NOBODY, buffer: core::ptr::null(), gfn: 0 };
    // SAFETY: the structure that the operation takes.
    unsafe { hypercall::memory_op(XENMEM_PAGING_OP, &mut op) }.err() == Some(Errno::ESRCH)
}
