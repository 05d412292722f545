//! Reaches guests' memory: a batch of pages at a time for all guests, and a few pages for long.
//!
//! By [`foreign`] mappings, or, where the agent may not map, by what dom0's broker has the guest grant ([`granted`]).

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use common::{BATCH, Content, DomId, Gfn, PAGE_SIZE, Page, PageMask};
use xen_abi::Mfn;
use xen_abi::grant_table::{ENTRIES_PER_FRAME, GrantEntryV1};

use super::error::Result;
use super::memory;
use crate::broker;
use crate::window::{Access, Held, Mapping, Window, copy};

mod foreign;
mod granted;

use foreign::Foreign;
use granted::Granted;

/// An entry that grants nothing.
const NO_GRANT: GrantEntryV1 = GrantEntryV1 { flags: 0, domid: DomId(0), frame: 0 };

/// How guests' pages come before us.
trait Provider {
    /// Maps up to [`BATCH`] pages for as long as the result lives, which says what could be mapped. An error is about all of the
    /// guest.
    fn map(&mut self, domain: DomId, gfns: &[Gfn], access: Access) -> Result<Mapping<'_>>;

    /// Maps one page for long, for writing.
    fn hold(&mut self, domain: DomId, gfn: Gfn) -> Result<Held>;

    /// Ends what [`Provider::hold`] began.
    fn let_go(&mut self, held: Held);

    /// Maps a frame of the guest's grant table, which is none of its pages, for as long as `work` takes.
    fn with_grants(&mut self, domain: DomId, frame: Mfn, access: Access, work: impl FnOnce(*mut u8)) -> Result;
}

/// The way to guests' memory. Clones share it: the domain has one thread, and each use ends before the next begins.
#[derive(Clone)]
pub struct Reach {
    foreign: Rc<RefCell<Foreign>>,
    /// Of each guest that a broker lends; none if the agent may map.
    granted: Option<Rc<RefCell<BTreeMap<DomId, Granted>>>>,
}

impl Reach {
    /// One window for batches; as many for rings as guests may arrive at the same time.
    pub fn new(batch: Window, rings: Vec<Window>) -> Self {
        let foreign = Rc::new(RefCell::new(Foreign::new(batch, rings)));
        Self { foreign, granted: broker::is_needed().then(Rc::default) }
    }

    /// Copies up to [`BATCH`] pages out; says which could be read.
    pub fn read(&self, domain: DomId, gfns: &[Gfn], into: &mut [Page]) -> Result<PageMask> {
        let count = gfns.len().min(into.len()).min(BATCH);
        if let Some(granted) = &self.granted {
            let mut granted = granted.borrow_mut();
            return granted.entry(domain).or_default().read(domain, &gfns[..count], &mut into[..count]);
        }
        self.mapped(domain, &gfns[..count], Access::Read, |mapping| {
            for (index, page) in into[..count].iter_mut().enumerate() {
                mapping.read(index, page);
            }
            mapping.mask()
        })
    }

    /// Writes up to [`BATCH`] pages; says which could be written.
    pub fn write(&self, domain: DomId, pages: &[(Gfn, Content<'_>)]) -> Result<PageMask> {
        let pages = &pages[..pages.len().min(BATCH)];
        if let Some(granted) = &self.granted {
            return granted.borrow_mut().entry(domain).or_default().write(domain, pages);
        }
        self.mapped(domain, &numbers(pages)[..pages.len()], Access::Write, |mapping| {
            for (index, page) in pages.iter().enumerate() {
                put(mapping, index, page.1);
            }
            mapping.mask()
        })
    }

    /// Ends what of the guest is granted. Gives the pages that may have been copied wrongly since the last call, or that were not
    /// `logged`; by mappings there are none. `logged` says what is asked of grants from here on.
    pub(super) fn end_grants(&self, domain: DomId, logged: bool) -> Result<Vec<Gfn>> {
        match &self.granted {
            Some(granted) => granted.borrow_mut().entry(domain).or_default().end(domain, logged),
            None => Ok(Vec::new()),
        }
    }

    /// Clears up to [`BATCH`] pages and takes them away from the domain, those of them that can be cleared. Xen clears what a
    /// domain leaves when it is destroyed, but not what is taken from it before.
    pub fn free(&self, domain: DomId, gfns: &[Gfn]) -> Result {
        let pages: Vec<_> = gfns.iter().take(BATCH).map(|gfn| (*gfn, Content::Zero)).collect();
        let cleared = self.write(domain, &pages)?;
        let gfns: Vec<Gfn> = cleared.pick(gfns.iter().copied()).collect();
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
        Ok(work(&mut self.foreign.borrow_mut().map(domain, gfns, access)?))
    }

    /// Writes a whole frame of the guest's grant table: the first two entries, and nothing in the others.
    pub(super) fn write_grants(&self, domain: DomId, frame: Mfn, first: [GrantEntryV1; 2]) -> Result {
        let mut entries = vec![NO_GRANT; ENTRIES_PER_FRAME];
        entries[..first.len()].copy_from_slice(&first);
        // SAFETY: both are one page long, ours and what was just mapped.
        self.foreign.borrow_mut().with_grants(domain, frame, Access::Write, |page| unsafe {
            copy(entries.as_ptr().cast(), page, PAGE_SIZE);
        })
    }

    /// Reads a whole frame of the guest's grant table.
    pub(super) fn read_grants(&self, domain: DomId, frame: Mfn) -> Result<Vec<GrantEntryV1>> {
        let mut entries = vec![NO_GRANT; ENTRIES_PER_FRAME];
        // SAFETY: both are one page long, what was just mapped and ours. Any bytes are an entry.
        self.foreign.borrow_mut().with_grants(domain, frame, Access::Read, |page| unsafe {
            copy(page, entries.as_mut_ptr().cast(), PAGE_SIZE)
        })?;
        Ok(entries)
    }

    /// Maps one page for long, for writing.
    pub(super) fn hold(&self, domain: DomId, gfn: Gfn) -> Result<Held> {
        self.foreign.borrow_mut().hold(domain, gfn)
    }

    /// Ends what [`Reach::hold`] began.
    pub(super) fn let_go(&self, held: Held) {
        self.foreign.borrow_mut().let_go(held);
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
