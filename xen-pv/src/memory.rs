//! The domain's own memory: frames, page tables, and addresses for what is mapped later.
//!
//! Xen's domain builder maps frame `n` at `base + n * 4096`, up to a little more than it needs for itself. [`Memory::new`]
//! maps the rest the same way, so that all memory is contiguous; what is left over after start-up is the heap.
//! Everything else (shared info, foreign pages, grants) is mapped into [`Window`]s, above the memory and below the same
//! level-2 table, one level-1 table each.
//!
//! Page tables of a PV domain are read-only to it: Xen checks each write, `mmu_update` carries them in batches.

use core::ptr::NonNull;

use common::{DomId, PAGE_SIZE};
use spin::Once;
use xen_abi::mmu::{MMU_NORMAL_PT_UPDATE, MmuUpdate, PTE_ADDRESS, PTE_PRESENT, PTE_WRITABLE, PTES, UVMF_INVLPG};
use xen_abi::start_info::StartInfo;
use xen_abi::{Errno, Mfn, PAGE_SHIFT, Pfn};

use crate::hypercall;
use crate::pte::{self, PTE_CODE, read_only, read_write};
use crate::window::Window;

/// Bytes that one level-1 table maps.
const TABLE_SPAN: u64 = (PTES * PAGE_SIZE) as u64;

/// Where the domain's frames are; never changes after the start.
struct Frames {
    base: u64,
    mfns: &'static [Mfn],
}

static FRAMES: Once<Frames> = Once::new();

/// The machine frame behind an address of our own memory.
pub fn machine_frame(address: *const u8) -> Option<Mfn> {
    let frames = FRAMES.get()?;
    let pfn = (address as u64).checked_sub(frames.base)? >> PAGE_SHIFT;
    frames.mfns.get(usize::try_from(pfn).ok()?).copied()
}

/// The address at which one of our own machine frames is mapped.
pub fn address_of(mfn: Mfn) -> Option<NonNull<u8>> {
    let frames = FRAMES.get()?;
    let pfn = frames.mfns.iter().position(|&m| m == mfn)?;
    NonNull::new((frames.base + ((pfn as u64) << PAGE_SHIFT)) as *mut u8)
}

/// Pages of our own, contiguous by address, for sharing with others; they are never given back.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    count: usize,
}

// SAFETY: the fuzzer has one thread, and no test lets its pages leave its own.
#[cfg(any(test, fuzzing))]
unsafe impl Send for Pages {}

impl Pages {
    /// Pages that nobody else has.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn leak(count: usize) -> Self {
        #[repr(align(4096))]
        struct Page(#[expect(dead_code)] [u8; PAGE_SIZE]);
        let pages = alloc::boxed::Box::leak((0..count).map(|_| Page([0; PAGE_SIZE])).collect());
        Self { start: NonNull::from(pages).cast(), count }
    }

    /// The first byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How many pages.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Address of one page.
    pub fn page(&self, index: usize) -> NonNull<u8> {
        assert!(index < self.count);
        // SAFETY: inside the range that we own.
        unsafe { self.start.add(index * PAGE_SIZE) }
    }

    /// Machine frame of one page.
    pub fn mfn(&self, index: usize) -> Mfn {
        machine_frame(self.page(index).as_ptr()).expect("our own page has a frame")
    }

    /// Splits off the first `count` pages.
    pub fn split(self, count: usize) -> (Pages, Pages) {
        assert!(count <= self.count);
        // SAFETY: inside the range, or at its end.
        let start = unsafe { self.start.add(count * PAGE_SIZE) };
        (Pages { start: self.start, count }, Pages { start, count: self.count - count })
    }

    /// The same pages once more, for a queue that is built anew on them.
    pub(crate) fn share(&self) -> Pages {
        Pages { start: self.start, count: self.count }
    }
}

/// What is not given away yet: pages and addresses.
pub struct Memory {
    level2: Table,
    level2_mfn: Mfn,
    base: u64,
    total: u64,
    next: u64,
    next_window: u64,
}

impl Memory {
    /// Maps all of the domain's memory.
    ///
    /// # Safety
    /// `info` must be what Xen passed to this domain, `base` where its frame 0 is mapped; once only.
    pub unsafe fn new(info: &StartInfo, base: u64) -> Result<Self, Errno> {
        let total = info.nr_pages;
        // SAFETY: the builder made this list of `nr_pages` frames and mapped it; nobody writes to it.
        let mfns = unsafe { core::slice::from_raw_parts(info.mfn_list as *const Mfn, total as usize) };
        FRAMES.call_once(|| Frames { base, mfns });
        pte::init();

        // SAFETY: `pt_base` is the top-level table; the tables follow it, mapped read-only.
        let tables = unsafe { BootTables::new(info, base) };
        let level3 = tables.below(tables.top(), (base >> 39) as usize % PTES).ok_or(Errno::EINVAL)?;
        let level2 = tables.below(level3, (base >> 30) as usize % PTES).ok_or(Errno::EINVAL)?;
        let level2_mfn = level2.frame()?;

        // After the tables the builder put its boot stack, one page; then free pages.
        let next = ((info.pt_base - base) >> PAGE_SHIFT) + info.nr_pt_frames + 1;
        let next_window = (base + (total << PAGE_SHIFT)).next_multiple_of(TABLE_SPAN);
        let mut memory = Self { level2, level2_mfn, base, total, next, next_window };
        memory.map_the_rest(&tables)?;
        Ok(memory)
    }

    /// Takes pages for good, zeroed.
    pub fn take(&mut self, count: usize) -> Result<Pages, Errno> {
        if count == 0 || count as u64 > self.total - self.next {
            return Err(Errno::ENOMEM);
        }
        let start = NonNull::new(self.address(Pfn(self.next)) as *mut u8).ok_or(Errno::EFAULT)?;
        self.next += count as u64;
        // SAFETY: free pages of ours, mapped for writing.
        unsafe { start.as_ptr().write_bytes(0, count * PAGE_SIZE) };
        Ok(Pages { start, count })
    }

    /// Takes what is left, but `keep` pages.
    pub fn take_all_but(&mut self, keep: usize) -> Result<Pages, Errno> {
        let left = (self.total - self.next) as usize;
        self.take(left.checked_sub(keep).ok_or(Errno::ENOMEM)?)
    }

    /// Pages of the domain.
    pub fn total_pages(&self) -> u64 {
        self.total
    }

    /// Makes a window, up to 512 pages, all of them empty.
    pub fn window(&mut self) -> Result<Window, Errno> {
        let address = self.next_window;
        if address >> 30 != self.base >> 30 {
            return Err(Errno::ENOSPC);
        }
        let table = self.take(1)?;
        let mfn = table.mfn(0);
        self.install(table, address)?;
        self.next_window += TABLE_SPAN;
        Ok(Window::new(address, mfn))
    }

    /// Makes the image's code and constants, whole pages from `start` to `writable`, read-only, and its data, from there to
    /// `end`, not executable.
    ///
    /// # Safety
    /// That must be what is there.
    pub unsafe fn protect(&self, start: u64, writable: u64, end: u64) -> Result<(), Errno> {
        for address in (start..end).step_by(PAGE_SIZE) {
            let mfn = machine_frame(address as *const u8).ok_or(Errno::EFAULT)?;
            let flags = if address < writable { PTE_CODE } else { read_write() };
            // SAFETY: the same frame at the same place; the caller promises that nobody needs what is taken away.
            unsafe { hypercall::update_va_mapping(address, mfn.0 << PAGE_SHIFT | flags, UVMF_INVLPG)? };
        }
        Ok(())
    }

    /// Unmaps one of our own pages, so that touching it ends the domain: a guard below a stack.
    ///
    /// # Safety
    /// Nothing may use the page.
    pub unsafe fn unmap(&self, address: u64) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        unsafe { hypercall::update_va_mapping(address, 0, UVMF_INVLPG) }
    }

    fn address(&self, pfn: Pfn) -> u64 {
        self.base + (pfn.0 << PAGE_SHIFT)
    }

    /// Maps the frames that the builder left unmapped. Page tables come from frames that are mapped already.
    fn map_the_rest(&mut self, tables: &BootTables) -> Result<(), Errno> {
        let mut pfn = self.next;
        while pfn < self.total {
            let slot = (self.address(Pfn(pfn)) >> 21) as usize % PTES;
            let in_table = (self.address(Pfn(pfn)) >> PAGE_SHIFT) as usize % PTES;
            match tables.below(self.level2, slot) {
                // One of the builder's tables: the page may be mapped already, for execution too.
                Some(level1) => {
                    let entry = self.entry(Pfn(pfn))?;
                    write_entry(level1.frame()?, in_table, entry)?;
                    pfn += 1;
                }
                None => {
                    let count = (PTES - in_table).min((self.total - pfn) as usize);
                    let table = self.take(1)?;
                    for i in 0..count {
                        let entry = self.entry(Pfn(pfn + i as u64))?;
                        // SAFETY: a fresh page of ours, not a page table yet.
                        unsafe { table.start.cast::<u64>().add(in_table + i).write(entry) };
                    }
                    self.install(table, self.address(Pfn(pfn)))?;
                    pfn += count as u64;
                }
            }
        }
        Ok(())
    }

    fn entry(&self, pfn: Pfn) -> Result<u64, Errno> {
        let mfn = machine_frame(self.address(pfn) as *const u8).ok_or(Errno::EINVAL)?;
        Ok(mfn.0 << PAGE_SHIFT | read_write())
    }

    /// Makes a page the level-1 table for the 2 MiB around `address`.
    fn install(&self, table: Pages, address: u64) -> Result<(), Errno> {
        let mfn = table.mfn(0);
        let own = table.start.as_ptr() as u64;
        // SAFETY: the page is ours and unused; Xen takes it as a page table only when it cannot be written any more.
        unsafe { hypercall::update_va_mapping(own, mfn.0 << PAGE_SHIFT | read_only(), UVMF_INVLPG)? };
        let slot = (address >> 21) as usize % PTES;
        write_entry(self.level2_mfn, slot, mfn.0 << PAGE_SHIFT | PTE_CODE | PTE_WRITABLE)
    }
}

/// Writes one entry of a page table of ours.
fn write_entry(table: Mfn, index: usize, entry: u64) -> Result<(), Errno> {
    let ptr = (table.0 << PAGE_SHIFT) + (index * size_of::<u64>()) as u64;
    // SAFETY: entries that are empty, or map the same frame at the same place: no reference changes its meaning.
    unsafe { hypercall::mmu_update(&[MmuUpdate { ptr: ptr | MMU_NORMAL_PT_UPDATE, val: entry }], DomId::SELF).1 }
}

/// The page tables that the builder made: frames in a row, mapped read-only.
struct BootTables {
    start: u64,
    first_pfn: u64,
    count: u64,
}

impl BootTables {
    /// # Safety
    /// As [`Memory::new`].
    unsafe fn new(info: &StartInfo, base: u64) -> Self {
        Self { start: info.pt_base, first_pfn: (info.pt_base - base) >> PAGE_SHIFT, count: info.nr_pt_frames }
    }

    /// The top-level table, which comes first.
    fn top(&self) -> Table {
        Table(self.start)
    }

    /// The table that entry `index` of `table` points to.
    fn below(&self, table: Table, index: usize) -> Option<Table> {
        let entry = table.entry(index);
        if entry & PTE_PRESENT == 0 {
            return None;
        }
        let mfn = Mfn((entry & PTE_ADDRESS) >> PAGE_SHIFT);
        let frames = FRAMES.get()?;
        let nth = (0..self.count).find(|n| frames.mfns.get((self.first_pfn + n) as usize) == Some(&mfn))?;
        Some(Table(self.start + (nth << PAGE_SHIFT)))
    }
}

/// The address of a table that the builder made, mapped read-only for the domain's life. Never a reference: our own updates
/// change entries through Xen, and the processor sets bits in them.
#[derive(Clone, Copy)]
struct Table(u64);

impl Table {
    fn entry(self, index: usize) -> u64 {
        assert!(index < PTES);
        // SAFETY: inside a mapped table: only `BootTables` makes them.
        unsafe { (self.0 as *const u64).add(index).read_volatile() }
    }

    fn frame(self) -> Result<Mfn, Errno> {
        machine_frame(self.0 as *const u8).ok_or(Errno::EINVAL)
    }
}
