//! The way to guests' memory: one window that all guests share, a batch at a time, and spare windows for rings.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use common::{BATCH, Content, DomId, Gfn, PAGE_SIZE, Page};
use xen_abi::grant_table::{ENTRIES_PER_FRAME, GrantEntryV1};
use xen_abi::mmu::{MMU_PT_UPDATE_NO_TRANSLATE, MMUEXT_TLB_FLUSH_LOCAL, MmuUpdate, MmuextOp};
use xen_abi::{Errno, PAGE_SHIFT};

use super::error::{Error, Operation, Result};
use super::memory;
use crate::hypercall;
use crate::pte::{read_only, read_write};
use crate::window::{Access, Held, Mapping, Window, copy};

/// An entry that grants nothing.
const NO_GRANT: GrantEntryV1 = GrantEntryV1 { flags: 0, domid: DomId(0), frame: 0 };

/// Windows onto guests. Clones share them: the domain has one thread, and each use ends before the next begins.
#[derive(Clone)]
pub struct Reach(Rc<RefCell<Windows>>);

struct Windows {
    batch: Window,
    spare: Vec<Window>,
}

impl Reach {
    /// One window for batches; as many for rings as guests may arrive at the same time.
    pub fn new(batch: Window, rings: Vec<Window>) -> Self {
        Self(Rc::new(RefCell::new(Windows { batch, spare: rings })))
    }

    /// Copies up to [`BATCH`] pages out; says which could be read.
    pub fn read(&self, domain: DomId, gfns: &[Gfn], into: &mut [Page]) -> Result<u64> {
        let count = gfns.len().min(into.len()).min(BATCH);
        self.mapped(domain, &gfns[..count], Access::Read, |mapping| {
            for (index, page) in into[..count].iter_mut().enumerate() {
                mapping.read(index, page);
            }
            mapping.mask()
        })
    }

    /// Writes up to [`BATCH`] pages; says which could be written.
    pub fn write(&self, domain: DomId, pages: &[(Gfn, Content<'_>)]) -> Result<u64> {
        let pages = &pages[..pages.len().min(BATCH)];
        self.mapped(domain, &numbers(pages)[..pages.len()], Access::Write, |mapping| {
            for (index, page) in pages.iter().enumerate() {
                put(mapping, index, page.1);
            }
            mapping.mask()
        })
    }

    /// Clears up to [`BATCH`] pages and takes them away from the domain, those of them that can be cleared. Xen clears what a domain
    /// leaves when it is destroyed, but not what is taken from it before.
    pub fn free(&self, domain: DomId, gfns: &[Gfn]) -> Result {
        let pages: Vec<_> = gfns.iter().take(BATCH).map(|gfn| (*gfn, Content::Zero)).collect();
        let cleared = self.write(domain, &pages)?;
        let cleared = pages.iter().enumerate().filter(|(index, _)| cleared >> index & 1 == 1);
        let gfns: Vec<Gfn> = cleared.map(|(_, page)| page.0).collect();
        memory::free_some(domain, &gfns)
    }

    /// Maps up to [`BATCH`] pages for as long as `work` takes.
    pub(super) fn mapped<T>(
        &self,
        domain: DomId,
        gfns: &[Gfn],
        access: Access,
        work: impl FnOnce(&mut Mapping<'_>) -> T,
    ) -> Result<T> {
        let mut frames = [0; BATCH];
        let count = gfns.len().min(BATCH);
        for (frame, gfn) in frames.iter_mut().zip(gfns) {
            *frame = gfn.0;
        }
        let mut windows = self.0.borrow_mut();
        let mut mapping = windows.batch.map(domain, &frames[..count], access);
        match mapping.error() {
            // Refusals of the whole guest. Anything else is about single pages: holes, mostly.
            Some(errno @ (Errno::EPERM | Errno::EACCES | Errno::ESRCH)) => Err(operation(access).error(errno)),
            _ => Ok(work(&mut mapping)),
        }
    }

    /// Writes a whole frame of the guest's grant table, a machine frame: the first two entries, and nothing in the others.
    pub(super) fn write_grants(&self, domain: DomId, frame: u64, first: [GrantEntryV1; 2]) -> Result {
        let mut entries = vec![NO_GRANT; ENTRIES_PER_FRAME];
        entries[..first.len()].copy_from_slice(&first);
        // SAFETY: both are one page long, ours and what was just mapped.
        self.with_grants(domain, frame, Access::Write, |page| unsafe { copy(entries.as_ptr().cast(), page, PAGE_SIZE) })
    }

    /// Reads a whole frame of the guest's grant table, a machine frame.
    pub(super) fn read_grants(&self, domain: DomId, frame: u64) -> Result<Vec<GrantEntryV1>> {
        let mut entries = vec![NO_GRANT; ENTRIES_PER_FRAME];
        // SAFETY: as above. Any bytes are an entry.
        self.with_grants(domain, frame, Access::Read, |page| unsafe {
            copy(page, entries.as_mut_ptr().cast(), PAGE_SIZE)
        })?;
        Ok(entries)
    }

    /// Maps a frame of the guest's grant table, a machine frame, for as long as `work` takes.
    fn with_grants(&self, domain: DomId, frame: u64, access: Access, work: impl FnOnce(*mut u8)) -> Result {
        let flags = match access {
            Access::Read => read_only(),
            Access::Write => read_write(),
        };
        let windows = self.0.borrow_mut();
        let (entry, page) = (windows.batch.entry(0), windows.batch.page(0));
        let error = |errno| operation(access).error(errno);
        let map = MmuUpdate { ptr: entry | MMU_PT_UPDATE_NO_TRANSLATE, val: frame << PAGE_SHIFT | flags };
        let unmap = MmuUpdate { ptr: entry, val: 0 };
        let flush = MmuextOp { cmd: MMUEXT_TLB_FLUSH_LOCAL, ..MmuextOp::default() };
        // SAFETY: the window is ours alone while it is borrowed, and empty. Nothing points there when it is unmapped.
        unsafe {
            hypercall::mmu_update(&[map], domain).1.map_err(error)?;
            work(page.as_ptr());
            hypercall::mmu_update(&[unmap], DomId::SELF).1.map_err(error)?;
            hypercall::mmuext_op(&[flush], DomId::SELF).map_err(error)
        }
    }

    /// Maps one page for long.
    pub(super) fn hold(&self, domain: DomId, gfn: Gfn) -> Result<Held> {
        let window = self.0.borrow_mut().spare.pop();
        let window = window.ok_or(Error::Refused("more guests arrive at once than this agent serves"))?;
        window.hold(domain, gfn.0, Access::Write).map_err(|(window, errno)| {
            self.give_back(window);
            Operation::MapWrite.error(errno)
        })
    }

    /// Ends what [`Reach::hold`] began.
    pub(super) fn let_go(&self, held: Held) {
        self.give_back(held.release());
    }

    fn give_back(&self, window: Window) {
        self.0.borrow_mut().spare.push(window);
    }
}

/// The frame numbers of up to [`BATCH`] pages.
pub(super) fn numbers(pages: &[(Gfn, Content<'_>)]) -> [Gfn; BATCH] {
    let mut gfns = [Gfn(0); BATCH];
    for (gfn, page) in gfns.iter_mut().zip(pages) {
        *gfn = page.0;
    }
    gfns
}

/// Writes one page of a mapping.
pub(super) fn put(mapping: &mut Mapping<'_>, index: usize, content: Content<'_>) {
    match content {
        Content::Bytes(page) => mapping.write(index, page),
        Content::Zero => mapping.zero(index),
    }
}

fn operation(access: Access) -> Operation {
    match access {
        Access::Read => Operation::MapRead,
        Access::Write => Operation::MapWrite,
    }
}
