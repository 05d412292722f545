//! Flags of the domain's page-table entries.

use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU64, Ordering};

use xen_abi::mmu::{PTE_ACCESSED, PTE_DIRTY, PTE_NO_EXECUTE, PTE_PRESENT, PTE_USER, PTE_WRITABLE};

/// Flags of an entry for code and constants. Accessed and dirty are set by hand: the processor need not.
pub(crate) const PTE_CODE: u64 = PTE_PRESENT | PTE_USER | PTE_ACCESSED | PTE_DIRTY;

/// Flags of an entry that keeps a page from being executed; none where the processor cannot.
static NO_EXECUTE: AtomicU64 = AtomicU64::new(0);

/// Finds out what the processor can; before the first entry is written.
pub(crate) fn init() {
    NO_EXECUTE.store(no_execute(), Ordering::Relaxed);
}

/// Flags of an entry for memory that is only read.
pub(crate) fn read_only() -> u64 {
    PTE_CODE | NO_EXECUTE.load(Ordering::Relaxed)
}

/// Flags of an entry for memory that is read and written.
pub(crate) fn read_write() -> u64 {
    read_only() | PTE_WRITABLE
}

fn no_execute() -> u64 {
    const EXTENDED_FEATURES: u32 = 0x8000_0001;
    let has = __cpuid(0x8000_0000).eax >= EXTENDED_FEATURES && __cpuid(EXTENDED_FEATURES).edx >> 20 & 1 != 0;
    if has { PTE_NO_EXECUTE } else { 0 }
}
