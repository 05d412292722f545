//! What this hypervisor can do for guests, asked without touching any.

use common::DomId;
use xen_abi::Errno;
use xen_abi::domctl::{SHADOW_OP, SHADOW_OP_PEEK, ShadowOp};
use xen_abi::memory::{MemPagingOp, PAGING_OP_NOMINATE, XENMEM_PAGING_OP};

use super::domctl;
use crate::hypercall;

/// A domain number that no domain has: an operation on it that exists says "no such domain".
const NOBODY: DomId = DomId(0x7fef);

/// Domctls have the version this agent speaks, so that the dirty log can be asked.
pub fn has_dirty_log() -> bool {
    let body = ShadowOp {
        op: SHADOW_OP_PEEK,
        mode: 0,
        mb: 0,
        dirty_bitmap: core::ptr::null_mut(),
        pages: 0,
        fault_count: 0,
        dirty_count: 0,
    };
    // SAFETY: a bitmap of no length.
    unsafe { domctl::call(NOBODY, SHADOW_OP, body) }.err() == Some(Errno::ESRCH)
}

/// The hypervisor was built with memory paging.
pub fn has_paging() -> bool {
    let mut op = MemPagingOp { op: PAGING_OP_NOMINATE, domain: NOBODY, buffer: core::ptr::null(), gfn: 0 };
    // SAFETY: the structure that the operation takes.
    unsafe { hypercall::memory_op(XENMEM_PAGING_OP, &mut op) }.err() == Some(Errno::ESRCH)
}
