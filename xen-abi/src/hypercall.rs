//! Numbers of hypercalls and what they return (`xen.h`).

use common::DomId;

use crate::Errno;
use crate::hvm::DmOpBuffer;

/// Writes page-table entries.
pub const MMU_UPDATE: u64 = 1;
/// Operations on memory reservations (`memory.h`).
pub const MEMORY_OP: u64 = 12;
/// Several hypercalls in one.
pub const MULTICALL: u64 = 13;
/// Writes the page-table entry behind one virtual address.
pub const UPDATE_VA_MAPPING: u64 = 14;
/// Says what the hypervisor is (`version.h`).
pub const XEN_VERSION: u64 = 17;
/// The hypervisor's own console.
pub const CONSOLE_IO: u64 = 18;
/// Operations on grant tables (`grant_table.h`).
pub const GRANT_TABLE_OP: u64 = 20;
/// Extended operations on page tables and translation caches.
pub const MMUEXT_OP: u64 = 26;
/// Operations of the security module (`xsm/flask_op.h`).
pub const XSM_OP: u64 = 27;
/// Operations on the scheduler (`sched.h`).
pub const SCHED_OP: u64 = 29;
/// Operations on event channels (`event_channel.h`).
pub const EVENT_CHANNEL_OP: u64 = 32;
/// Operations on an HVM domain (`hvm/hvm_op.h`).
pub const HVM_OP: u64 = 34;
/// Operations of the toolstack on a domain (`domctl.h`).
pub const DOMCTL: u64 = 36;
/// Operations of a device model on a domain (`hvm/dm_op.h`).
pub const DM_OP: u64 = 41;

/// Splits Xen's return value into number and error.
pub fn checked(result: i64) -> Result<u64, Errno> {
    match result {
        0.. => Ok(result as u64),
        -4095..=-1 => Err(Errno(-result as u16)),
        _ => Err(Errno::EINVAL),
    }
}

/// One hypercall of a multicall (`struct multicall_entry`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MulticallEntry {
    /// The hypercall's number.
    pub op: u64,
    /// Out: what it returned.
    pub result: i64,
    /// Its arguments.
    pub args: [u64; 6],
}

impl MulticallEntry {
    /// A `memory_op`; `arg` stays borrowed by nobody: the caller keeps it alive until the multicall is over.
    pub fn memory_op<T>(cmd: u32, arg: *mut T) -> Self {
        Self { op: MEMORY_OP, result: 0, args: [cmd.into(), arg as u64, 0, 0, 0, 0] }
    }

    /// A domctl; what is true of [`MulticallEntry::memory_op`]'s argument is true of this one.
    pub fn domctl<T>(arg: *mut T) -> Self {
        Self { op: DOMCTL, result: 0, args: [arg as u64, 0, 0, 0, 0, 0] }
    }

    /// An operation on an HVM domain; what is true of [`MulticallEntry::memory_op`]'s argument is true of this one.
    pub fn hvm_op<T>(cmd: u32, arg: *mut T) -> Self {
        Self { op: HVM_OP, result: 0, args: [cmd.into(), arg as u64, 0, 0, 0, 0] }
    }

    /// An operation of a device model on a domain; what is true of [`MulticallEntry::memory_op`]'s argument is true of the
    /// buffer and of what is in it.
    pub fn dm_op(domain: DomId, buffer: *mut DmOpBuffer) -> Self {
        Self { op: DM_OP, result: 0, args: [domain.0.into(), 1, buffer as u64, 0, 0, 0] }
    }

    /// What the call returned.
    pub fn outcome(&self) -> Result<u64, Errno> {
        checked(self.result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_negative_results_are_errors() {
        assert_eq!(checked(0), Ok(0));
        assert_eq!(checked(i64::MAX), Ok(i64::MAX as u64));
        assert_eq!(checked(-3), Err(Errno::ESRCH));
        assert_eq!(checked(i64::MIN), Err(Errno::EINVAL));
    }
}
