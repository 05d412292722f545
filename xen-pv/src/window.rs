//! A window: addresses behind which other domains' pages are put, in batches, and taken away again.
//!
//! What is behind a window is never a Rust reference: its owner changes it at any time. Bytes are copied in or out.

use core::ptr::NonNull;

use common::{BATCH, DomId, PAGE_SIZE, PageMask};
use xen_abi::mmu::{MMU_NORMAL_PT_UPDATE, MMUEXT_TLB_FLUSH_LOCAL, MmuUpdate, MmuextOp, PTE_ADDRESS, PTES};
use xen_abi::{Errno, Mfn, PAGE_SHIFT};

use crate::hypercall;
use crate::pte::{read_only, read_write};

/// What may be done to mapped pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reading.
    Read,
    /// Reading and writing.
    Write,
}

/// Up to 512 pages of addresses with a level-1 table of their own.
#[derive(Debug)]
pub struct Window {
    address: u64,
    table: Mfn,
}

impl Window {
    pub(crate) fn new(address: u64, table: Mfn) -> Self {
        Self { address, table }
    }

    /// Maps up to [`BATCH`] frames of `owner`: machine frames of ours ([`DomId::SELF`]) or of a PV domain, gfns of a
    /// translated one. What cannot be mapped is left out; the mapping says what could.
    pub fn map(&mut self, owner: DomId, frames: &[u64], access: Access) -> Mapping<'_> {
        let mut updates = [MmuUpdate::default(); BATCH];
        let flags = match access {
            Access::Read => read_only(),
            Access::Write => read_write(),
        };
        let count = frames.len().min(BATCH);
        for (index, (update, frame)) in updates.iter_mut().zip(frames).enumerate() {
            *update = MmuUpdate { ptr: self.entry(index), val: entry_value(*frame, flags) };
        }
        let mut mask = PageMask::default();
        let mut error = None;
        let mut next = 0;
        while next < count {
            // SAFETY: the entries are the window's, empty, and nobody holds a reference into it.
            let (done, result) = unsafe { hypercall::mmu_update(&updates[next..count], owner) };
            let done = (done as usize).min(count - next);
            (next..next + done).for_each(|index| mask.insert(index));
            next += done;
            match result {
                Ok(()) if done > 0 => {}
                // Xen stopped at this entry, which stays empty: go on behind it.
                Err(errno) => {
                    error.get_or_insert(errno);
                    next += 1;
                }
                Ok(()) => break,
            }
        }
        Mapping { window: self, mask, error }
    }

    /// Maps one frame for as long as the result lives.
    pub fn hold(self, owner: DomId, frame: u64, access: Access) -> Result<Held, (Window, Errno)> {
        self.hold_all(owner, &[frame], access)
    }

    /// Maps up to [`BATCH`] frames for as long as the result lives; they are contiguous by address.
    pub fn hold_all(mut self, owner: DomId, frames: &[u64], access: Access) -> Result<Held, (Window, Errno)> {
        let mapping = self.map(owner, frames, access);
        if frames.len() > BATCH || mapping.mask != PageMask::first(frames.len()) {
            let errno = mapping.error.unwrap_or(Errno::E2BIG);
            drop(mapping);
            return Err((self, errno));
        }
        let mask = mapping.mask;
        core::mem::forget(mapping);
        Ok(Held { window: Some(self), mask })
    }

    /// As if a frame were mapped.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn held(self) -> Held {
        Held { window: Some(self), mask: PageMask::first(1) }
    }

    /// Maps up to [`BATCH`] frames for ever; they are contiguous by address.
    pub fn keep(mut self, owner: DomId, frames: &[u64], access: Access) -> Result<NonNull<u8>, Errno> {
        let mapping = self.map(owner, frames, access);
        if frames.len() > BATCH || mapping.mask != PageMask::first(frames.len()) {
            return Err(mapping.error.unwrap_or(Errno::E2BIG));
        }
        core::mem::forget(mapping);
        Ok(self.page(0))
    }

    /// Machine address of the entry of one page, as `mmu_update` and grant mappings take it.
    pub fn entry(&self, index: usize) -> u64 {
        assert!(index < PTES);
        (self.table.0 << PAGE_SHIFT) + (index * size_of::<u64>()) as u64 + MMU_NORMAL_PT_UPDATE
    }

    /// Address of one page, whether something is mapped there or not.
    pub fn page(&self, index: usize) -> NonNull<u8> {
        assert!(index < PTES);
        NonNull::new((self.address + (index * PAGE_SIZE) as u64) as *mut u8).expect("windows are not at address 0")
    }

    fn unmap(&mut self, mask: PageMask) {
        if mask.is_empty() {
            return;
        }
        let mut updates = [MmuUpdate::default(); BATCH];
        for (update, index) in updates.iter_mut().zip(mask.iter()) {
            *update = MmuUpdate { ptr: self.entry(index), val: 0 };
        }
        let flush = MmuextOp { cmd: MMUEXT_TLB_FLUSH_LOCAL, ..MmuextOp::default() };
        // SAFETY: a mapping is the only way to the pages, and it is being dropped. The flush takes the old translations
        // away before the addresses are used again. Neither call can fail for entries of our own.
        unsafe {
            let _ = hypercall::mmu_update(&updates[..mask.count()], DomId::SELF);
            let _ = hypercall::mmuext_op(&[flush], DomId::SELF);
        }
    }
}

/// An entry for a frame. A number too large for one becomes the largest, which no domain has: shifted as it is, part of it
/// would end up among the flags, and the rest would name another frame.
fn entry_value(frame: u64, flags: u64) -> u64 {
    frame.min(PTE_ADDRESS >> PAGE_SHIFT) << PAGE_SHIFT | flags
}

/// Pages behind a window; dropping it takes them away.
#[derive(Debug)]
pub struct Mapping<'a> {
    window: &'a mut Window,
    mask: PageMask,
    error: Option<Errno>,
}

impl Mapping<'_> {
    /// Which frames of the call are mapped.
    pub fn mask(&self) -> PageMask {
        self.mask
    }

    /// Why the first one that is not mapped is not.
    pub fn error(&self) -> Option<Errno> {
        self.error
    }

    /// Copies a page out; nothing happens if it is not mapped.
    pub fn read(&self, index: usize, into: &mut [u8; PAGE_SIZE]) {
        if let Some(page) = self.mapped(index) {
            // SAFETY: a page that this mapping holds, and a page of the caller's.
            unsafe { copy(page.as_ptr(), into.as_mut_ptr(), PAGE_SIZE) };
        }
    }

    /// Copies a page in; the mapping must be for writing. Nothing happens if the page is not mapped.
    pub fn write(&mut self, index: usize, from: &[u8; PAGE_SIZE]) {
        if let Some(page) = self.mapped(index) {
            // SAFETY: a page that this mapping holds, and a page of the caller's.
            unsafe { copy(from.as_ptr(), page.as_ptr(), PAGE_SIZE) };
        }
    }

    /// Clears a page; the mapping must be for writing. Nothing happens if the page is not mapped.
    pub fn zero(&mut self, index: usize) {
        if let Some(page) = self.mapped(index) {
            // SAFETY: a page that this mapping holds.
            unsafe { clear(page.as_ptr(), PAGE_SIZE) };
        }
    }

    /// Address of a page, if it is mapped.
    pub fn mapped(&self, index: usize) -> Option<NonNull<u8>> {
        self.mask.contains(index).then(|| self.window.page(index))
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        self.window.unmap(self.mask);
    }
}

/// Pages mapped for long, a ring for instance; dropping it unmaps them, [`Held::release`] gives the window back.
#[derive(Debug)]
pub struct Held {
    window: Option<Window>,
    mask: PageMask,
}

impl Held {
    /// The first page's address.
    pub fn address(&self) -> NonNull<u8> {
        self.window.as_ref().map(|window| window.page(0)).expect("only `release` takes the window")
    }

    /// Unmaps the pages.
    pub fn release(mut self) -> Window {
        let mut window = self.window.take().expect("only `release` takes the window");
        window.unmap(self.mask);
        window
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(window) = &mut self.window {
            window.unmap(self.mask);
        }
    }
}

/// Copies bytes that another domain may change or read meanwhile: in assembly, which the compiler cannot reason about,
/// 64 at a time with SSE, which an emulator runs several times faster than string instructions.
///
/// # Safety
/// Both must be mapped for `bytes`, and no Rust reference may cover `to`.
pub unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise. Assembly, unlike a Rust copy, may race with the other domain.
    unsafe {
        core::arch::asm!(
            "2:",
            "sub {blocks}, 1",
            "jb 3f",
            "movups {a}, [rsi]",
            "movups {b}, [rsi + 16]",
            "movups {c}, [rsi + 32]",
            "movups {d}, [rsi + 48]",
            "movups [rdi], {a}",
            "movups [rdi + 16], {b}",
            "movups [rdi + 32], {c}",
            "movups [rdi + 48], {d}",
            "add rsi, 64",
            "add rdi, 64",
            "jmp 2b",
            "3:",
            "rep movsb",
            blocks = inout(reg) bytes / 64 => _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            inout("rcx") bytes % 64 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack),
        );
    }
}

/// Clears bytes that another domain may see meanwhile.
///
/// # Safety
/// As [`copy`].
pub unsafe fn clear(at: *mut u8, bytes: usize) {
    // SAFETY: as in `copy`.
    unsafe {
        core::arch::asm!(
            "xorps {zero}, {zero}",
            "2:",
            "sub {blocks}, 1",
            "jb 3f",
            "movups [rdi], {zero}",
            "movups [rdi + 16], {zero}",
            "movups [rdi + 32], {zero}",
            "movups [rdi + 48], {zero}",
            "add rdi, 64",
            "jmp 2b",
            "3:",
            "rep stosb",
            blocks = inout(reg) bytes / 64 => _,
            zero = out(xmm_reg) _,
            inout("rcx") bytes % 64 => _,
            inout("rdi") at => _,
            in("al") 0u8,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_number_never_reaches_the_flags_or_wraps() {
        assert_eq!(entry_value(5, 7), 5 << PAGE_SHIFT | 7);
        for frame in [(1 << 40) + 5, (1 << 51) + 5, (1 << 52) + 5, u64::MAX] {
            assert_eq!(entry_value(frame, 7), PTE_ADDRESS | 7);
        }
    }

    #[test]
    fn copies_reach_the_last_odd_byte() {
        let from: [u8; 150] = core::array::from_fn(|i| i as u8 + 1);
        let mut to = [0; 151];
        // SAFETY: arrays of this function.
        unsafe { copy(from.as_ptr(), to.as_mut_ptr(), 150) };
        assert_eq!(to[..150], from);
        assert_eq!(to[150], 0);
        // SAFETY: as above.
        unsafe { clear(to.as_mut_ptr(), 149) };
        assert_eq!(to[..149], [0; 149]);
        assert_eq!(to[149], 150);
    }
}
