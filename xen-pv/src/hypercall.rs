//! Hypercalls of a 64-bit paravirtual domain: an inline `syscall`, no hypercall page.
//!
//! Xen reads and writes memory through pointers that it is given, and changes address spaces when it is told to: every
//! function here is unsafe, and the modules above decide what is sound.

use core::arch::asm;

use common::DomId;
use xen_abi::Errno;
use xen_abi::hypercall::{
    CONSOLE_IO, DOMCTL, EVENT_CHANNEL_OP, GRANT_TABLE_OP, HVM_OP, MEMORY_OP, MMU_UPDATE, MMUEXT_OP, MULTICALL,
    MulticallEntry, SCHED_OP, UPDATE_VA_MAPPING, XEN_VERSION, XSM_OP, checked,
};
use xen_abi::mmu::{MmuUpdate, MmuextOp};

/// What a hypercall returns: a number that is not negative, or the error.
pub type Result<T = u64> = core::result::Result<T, Errno>;

/// Any hypercall, with up to five arguments; the ones it does not have are 0.
///
/// # Safety
/// `number` and `arguments` must form a call that is sound for this domain.
#[inline]
pub unsafe fn hypercall(number: u64, arguments: [u64; 5]) -> Result {
    #[cfg(any(test, fuzzing))]
    if let Some(result) = fake::call(number, arguments) {
        return checked(result);
    }
    let result: i64;
    // SAFETY: `syscall` of a PV kernel enters Xen and returns here on the same stack; rcx and r11 are gone, and so are the
    // arguments: a preempted call comes back to this instruction with what is left to do in their registers
    // (`hypercall_create_continuation`), and a debugging hypervisor overwrites them (`xen-x86_64.h`). That the call itself
    // is sound is the caller's promise. Memory is clobbered (no `nomem`).
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as i64 => result,
            inlateout("rdi") arguments[0] => _,
            inlateout("rsi") arguments[1] => _,
            inlateout("rdx") arguments[2] => _,
            inlateout("r10") arguments[3] => _,
            inlateout("r8") arguments[4] => _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    checked(result)
}

/// Several hypercalls in one; each entry has its own result.
///
/// # Safety
/// Every entry must be sound by itself and in this order.
pub unsafe fn multicall(calls: &mut [MulticallEntry]) -> Result<()> {
    // SAFETY: the caller's promise; Xen writes only `result` of the entries, which we own.
    unsafe { hypercall(MULTICALL, [calls.as_mut_ptr() as u64, calls.len() as u64, 0, 0, 0]) }.map(drop)
}

/// Operations on event channels.
///
/// # Safety
/// `arg` must be the structure that `cmd` takes.
pub unsafe fn event_channel_op<T>(cmd: u32, arg: &mut T) -> Result {
    // SAFETY: the caller's promise.
    unsafe { hypercall(EVENT_CHANNEL_OP, [cmd.into(), arg as *mut T as u64, 0, 0, 0]) }
}

/// Operations on grant tables; each element has its own status.
///
/// # Safety
/// `args` must be the structures that `cmd` takes, and what they map or unmap must not be in use otherwise.
pub unsafe fn grant_table_op<T>(cmd: u32, args: &mut [T]) -> Result {
    // SAFETY: the caller's promise.
    unsafe { hypercall(GRANT_TABLE_OP, [cmd.into(), args.as_mut_ptr() as u64, args.len() as u64, 0, 0]) }
}

/// Operations on the scheduler.
///
/// # Safety
/// `arg` must be the structure that `cmd` takes.
pub unsafe fn sched_op<T>(cmd: u32, arg: &mut T) -> Result {
    // SAFETY: the caller's promise.
    unsafe { hypercall(SCHED_OP, [cmd.into(), arg as *mut T as u64, 0, 0, 0]) }
}

/// Operations on memory reservations; `cmd` may carry a start extent above bit 6.
///
/// # Safety
/// `arg` must be the structure that `cmd` takes, and no live memory of ours may be given away.
pub unsafe fn memory_op<T>(cmd: u32, arg: &mut T) -> Result {
    // SAFETY: the caller's promise.
    unsafe { hypercall(MEMORY_OP, [cmd.into(), arg as *mut T as u64, 0, 0, 0]) }
}

/// Writes page-table entries; the frames in them belong to `foreign`. Stops at the first bad one: the number of
/// entries done comes back beside the result, also after an error.
///
/// # Safety
/// Only mappings that no reference points into may change.
pub unsafe fn mmu_update(updates: &[MmuUpdate], foreign: DomId) -> (u32, Result<()>) {
    let mut done = 0u32;
    let arguments =
        [updates.as_ptr() as u64, updates.len() as u64, &mut done as *mut u32 as u64, u64::from(foreign.0), 0];
    // SAFETY: the caller's promise; Xen reads `updates` and writes `done`.
    let result = unsafe { hypercall(MMU_UPDATE, arguments) };
    (done, result.map(drop))
}

/// Writes the level-1 entry behind one virtual address of ours.
///
/// # Safety
/// As [`mmu_update`].
pub unsafe fn update_va_mapping(address: u64, entry: u64, flags: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { hypercall(UPDATE_VA_MAPPING, [address, entry, flags, 0, 0]) }.map(drop)
}

/// Extended operations on page tables and translation caches.
///
/// # Safety
/// What they pin, unpin or clear must be the caller's to change.
pub unsafe fn mmuext_op(ops: &[MmuextOp], foreign: DomId) -> Result<()> {
    // SAFETY: the caller's promise; a null pointer means that we do not ask how many were done.
    unsafe { hypercall(MMUEXT_OP, [ops.as_ptr() as u64, ops.len() as u64, 0, foreign.0.into(), 0]) }.map(drop)
}

/// Writes to the hypervisor's own console; most domains' output is dropped or rate-limited there.
pub fn console_write(text: &[u8]) -> Result {
    const WRITE: u64 = 0;
    // SAFETY: Xen only reads `text`.
    unsafe { hypercall(CONSOLE_IO, [WRITE, text.len() as u64, text.as_ptr() as u64, 0, 0]) }
}

/// Operations of the toolstack on a domain.
///
/// # Safety
/// `arg` must be a complete `struct xen_domctl` whose inner pointers are valid for what its command reads and writes.
pub unsafe fn domctl<T>(arg: &mut T) -> Result {
    // SAFETY: the caller's promise.
    unsafe { hypercall(DOMCTL, [arg as *mut T as u64, 0, 0, 0, 0]) }
}

/// Operations on an HVM domain.
///
/// # Safety
/// `arg` must be the structure that `cmd` takes.
pub unsafe fn hvm_op<T>(cmd: u32, arg: &mut T) -> Result {
    // SAFETY: the caller's promise.
    unsafe { hypercall(HVM_OP, [cmd.into(), arg as *mut T as u64, 0, 0, 0]) }
}

/// Operations of the security module (FLASK).
///
/// # Safety
/// `arg` must be a complete `struct xen_flask_op` whose inner pointers are valid.
pub unsafe fn xsm_op<T>(arg: &mut T) -> Result {
    // SAFETY: the caller's promise.
    unsafe { hypercall(XSM_OP, [arg as *mut T as u64, 0, 0, 0, 0]) }
}

/// Asks what the hypervisor is.
///
/// # Safety
/// `arg` must be the structure that `cmd` takes.
pub unsafe fn xen_version<T>(cmd: u32, arg: &mut T) -> Result {
    // SAFETY: the caller's promise.
    unsafe { hypercall(XEN_VERSION, [cmd.into(), arg as *mut T as u64, 0, 0, 0]) }
}

/// A test or a fuzzer is a program: `syscall` would reach its kernel. This stands in for the hypervisor.
#[cfg(any(test, fuzzing))]
pub(crate) mod fake {
    use alloc::boxed::Box;
    use core::cell::RefCell;

    use super::Errno;

    type Hypervisor = Box<dyn FnMut(u64, [u64; 5]) -> i64>;

    std::thread_local! {
        static HYPERVISOR: RefCell<Option<Hypervisor>> = const { RefCell::new(None) };
    }

    /// Lets `hypervisor` answer this thread's hypercalls; without one none is known.
    #[cfg(test)]
    pub fn stand_in(hypervisor: impl FnMut(u64, [u64; 5]) -> i64 + 'static) {
        HYPERVISOR.set(Some(Box::new(hypervisor)));
    }

    pub(super) fn call(number: u64, arguments: [u64; 5]) -> Option<i64> {
        HYPERVISOR.with_borrow_mut(|hypervisor| match hypervisor {
            Some(hypervisor) => Some(hypervisor(number, arguments)),
            None => Some(-i64::from(Errno::ENOSYS.0)),
        })
    }
}
