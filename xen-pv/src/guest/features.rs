//! What this hypervisor can do for guests, asked without touching any.

use common::XenVersion;
use xen_abi::Errno;
use xen_abi::memory::{MemPagingOp, PAGING_OP_NOMINATE, XENMEM_PAGING_OP};
use xen_abi::version::XENVER_VERSION;

use super::domctl::command::NOBODY;
use crate::hypercall;

/// Which hypervisor this is.
pub fn xen_version() -> XenVersion {
    // SAFETY: the command takes nothing.
    let version = unsafe { hypercall::xen_version(XENVER_VERSION, &mut 0u64) }.unwrap_or_default() as u32;
    XenVersion { major: version >> 16, minor: version & 0xffff }
}

/// The hypervisor was built with memory paging.
pub fn has_paging() -> bool {
    let mut op = MemPagingOp { op: PAGING_OP_NOMINATE, domain: NOBODY, buffer: core::ptr::null(), gfn: 0 };
    // SAFETY: the structure that the operation takes.
    unsafe { hypercall::memory_op(XENMEM_PAGING_OP, &mut op) }.err() == Some(Errno::ESRCH)
}
