//! Which frame numbers of a guest hold RAM.

use alloc::vec::Vec;

use common::{BATCH, DomId, Gfn, Span, bits};
use xen_abi::domctl::{PAGE_FRAME_INFOS, PFINFO_BROKEN, PFINFO_LTAB_MASK, PFINFO_XALLOC, PFINFO_XTAB};
use xen_abi::hvm::MEM_MMIO_DM;

use super::error::{Error, Result};
use super::kind::Kind;
use super::{domctl, memory};

/// A scan for RAM from frame 0 upwards.
///
/// Asking about every number below 4 GiB takes a second and more, and most of them are holes: the scan stops asking when it
/// has found as many pages as the guest owns, and none at the numbers that follow. A guest that has mapped grants of its own has
/// pages at more than one number each: of as many others it would not hear otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    kind: &'static Kind,
    /// The last numbers that were asked about held nothing.
    in_hole: bool,
    /// Where it goes on.
    next: u64,
    /// Pages outside the special range that have not been found yet.
    left: u64,
}

impl Scan {
    pub(super) fn new(kind: &'static Kind) -> Self {
        Self { kind, in_hole: false, next: 0, left: 0 }
    }

    /// Sets the bit of every frame of `span` that holds RAM, clears the others.
    pub(super) fn find(&mut self, domain: DomId, span: Span, ram: &mut [u64]) -> Result {
        let mut next = span.first.0;
        if next == 0 {
            self.begin(domain)?;
        } else if next != self.next {
            self.left = u64::MAX;
        }
        let end = span.end().0.min(ram.len() as u64 * 64);
        while next < end {
            let chunk = (end - next).min(PAGE_FRAME_INFOS as u64);
            self.chunk(domain, next, chunk, ram)?;
            next += chunk;
        }
        self.next = end;
        Ok(())
    }

    fn begin(&mut self, domain: DomId) -> Result {
        let mut in_special = 0;
        for first in self.kind.special.clone().step_by(PAGE_FRAME_INFOS) {
            let types = types(domain, first, PAGE_FRAME_INFOS as u64)?;
            in_special += types.iter().filter(|kind| is_ram(**kind)).count() as u64;
        }
        self.left = domctl::live_info(domain)?.tot_pages.saturating_sub(in_special);
        Ok(())
    }

    fn chunk(&mut self, domain: DomId, first: u64, count: u64, ram: &mut [u64]) -> Result {
        bits::remove_span(ram, Span { first: Gfn(first), count });
        let special = &self.kind.special;
        if self.left == 0 && self.in_hole && (first >= special.end || first + count <= special.start) {
            return Ok(());
        }
        let types = types(domain, first, count)?;
        self.in_hole = !types.iter().any(|kind| is_ram(*kind));
        for (gfn, _) in (first..first + count).zip(types).filter(|(_, kind)| is_ram(*kind)) {
            bits::insert(ram, Gfn(gfn));
            let counts = !special.contains(&gfn);
            self.left = self.left.saturating_sub(counts.into());
        }
        Ok(())
    }
}

/// A frame number among the special pages where nothing stands.
pub(super) fn free_gfn(domain: DomId, kind: &Kind) -> Result<Gfn> {
    for first in kind.special.clone().step_by(PAGE_FRAME_INFOS) {
        for (gfn, kind) in (first..).map(Gfn).zip(types(domain, first, PAGE_FRAME_INFOS as u64)?) {
            // Pages that Xen shares with the guest are not the guest's RAM, and no holes either.
            if kind & PFINFO_LTAB_MASK == PFINFO_XTAB && memory::types(domain, &[gfn])?[0] == MEM_MMIO_DM {
                return Ok(gfn);
            }
        }
    }
    Err(Error::Refused("the guest has filled its address space below 4 GiB: there is no place for the pager's ring"))
}

/// Whether all of up to [`BATCH`] frame numbers hold RAM.
pub(super) fn are_ram(domain: DomId, gfns: &[Gfn]) -> Result<bool> {
    let mut types = [0; BATCH];
    let types = &mut types[..gfns.len().min(BATCH)];
    types.iter_mut().zip(gfns).for_each(|(kind, gfn)| *kind = gfn.0);
    domctl::frame_types(domain, types)?;
    Ok(types.iter().all(|kind| is_ram(*kind)))
}

/// What stands at `count` frame numbers from `first` on.
fn types(domain: DomId, first: u64, count: u64) -> Result<Vec<u64>> {
    let mut types: Vec<u64> = (first..first + count).collect();
    domctl::frame_types(domain, &mut types)?;
    Ok(types)
}

fn is_ram(kind: u64) -> bool {
    !matches!(kind & PFINFO_LTAB_MASK, PFINFO_XTAB | PFINFO_XALLOC | PFINFO_BROKEN)
}
