//! Hypercalls on a guest: by its broker, if the agent has no right of its own.

use common::DomId;
use xen_abi::Errno;
use xen_abi::hypercall::{DOMCTL, GRANT_TABLE_OP, HVM_OP, MEMORY_OP};

use crate::{broker, hypercall};

/// A domctl; `command` is the one in it.
///
/// # Safety
/// As [`hypercall::domctl`].
pub(super) unsafe fn domctl<T>(command: u32, domain: DomId, arg: &mut T) -> Result<u64, Errno> {
    // SAFETY: the caller's promise.
    unsafe { broker::hypercall(DOMCTL, command, domain, arg).unwrap_or_else(|| hypercall::domctl(arg)) }
}

/// An operation on the guest's memory reservation.
///
/// # Safety
/// As [`hypercall::memory_op`].
pub(super) unsafe fn memory_op<T>(command: u32, domain: DomId, arg: &mut T) -> Result<u64, Errno> {
    // SAFETY: the caller's promise.
    unsafe { broker::hypercall(MEMORY_OP, command, domain, arg).unwrap_or_else(|| hypercall::memory_op(command, arg)) }
}

/// An operation on an HVM domain.
///
/// # Safety
/// As [`hypercall::hvm_op`].
pub(super) unsafe fn hvm_op<T>(command: u32, domain: DomId, arg: &mut T) -> Result<u64, Errno> {
    // SAFETY: the caller's promise.
    unsafe { broker::hypercall(HVM_OP, command, domain, arg).unwrap_or_else(|| hypercall::hvm_op(command, arg)) }
}

/// A question about the guest's grant table.
///
/// # Safety
/// As [`hypercall::grant_table_op`].
pub(super) unsafe fn grant_table_op<T>(command: u32, domain: DomId, arg: &mut T) -> Result<u64, Errno> {
    // SAFETY: the caller's promise.
    unsafe {
        broker::hypercall(GRANT_TABLE_OP, command, domain, arg)
            .unwrap_or_else(|| hypercall::grant_table_op(command, core::slice::from_mut(arg)))
    }
}
