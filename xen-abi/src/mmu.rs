//! Page tables of a paravirtual domain (`xen.h`).

use x86_64::structures::paging::PageTableFlags;

/// One write to a page-table entry (`struct mmu_update`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MmuUpdate {
    /// Machine address of the entry, with the command in the low two bits.
    pub ptr: u64,
    /// Its new value.
    pub val: u64,
}

/// A checked write to an entry; the frame number in `val` belongs to the foreign domain, a gfn if that one is translated.
pub const MMU_NORMAL_PT_UPDATE: u64 = 0;
/// A checked write whose frame number is never translated.
pub const MMU_PT_UPDATE_NO_TRANSLATE: u64 = 3;

/// One extended operation (`struct mmuext_op`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MmuextOp {
    /// Which one.
    pub cmd: u32,
    /// A machine frame or a linear address, after `cmd`.
    pub arg1: u64,
    /// An entry count, a mask's address or a source frame, after `cmd`.
    pub arg2: u64,
}

/// Flushes this processor's translations.
pub const MMUEXT_TLB_FLUSH_LOCAL: u32 = 6;

/// `update_va_mapping`: flush the one entry on this processor.
pub const UVMF_INVLPG: u64 = 2;

/// Page-table entry: present.
pub const PTE_PRESENT: u64 = PageTableFlags::PRESENT.bits();
/// Page-table entry: writable.
pub const PTE_WRITABLE: u64 = PageTableFlags::WRITABLE.bits();
/// Page-table entry: for user mode, where a 64-bit paravirtual kernel runs too.
pub const PTE_USER: u64 = PageTableFlags::USER_ACCESSIBLE.bits();
/// Page-table entry: accessed. Set by hand it saves the processor a write.
pub const PTE_ACCESSED: u64 = PageTableFlags::ACCESSED.bits();
/// Page-table entry: dirty. Set by hand it saves the processor a write.
pub const PTE_DIRTY: u64 = PageTableFlags::DIRTY.bits();
/// Page-table entry: maps a large page instead of naming a table.
pub const PTE_LARGE: u64 = PageTableFlags::HUGE_PAGE.bits();
/// Page-table entry: the bits that hold the machine frame's address.
pub const PTE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Page-table entry: not for execution.
pub const PTE_NO_EXECUTE: u64 = PageTableFlags::NO_EXECUTE.bits();
/// Entries in a page table.
pub const PTES: usize = 512;
