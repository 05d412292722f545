//! Which frame numbers of a guest hold RAM.

use alloc::vec;
use alloc::vec::Vec;

use common::{BATCH, DomId, Gfn, Span, bits};
use xen_abi::broker::RAM_SPAN;
use xen_abi::domctl::{PAGE_FRAME_INFOS, PFINFO_LTAB_MASK, PFINFO_XTAB, is_ram};
use xen_abi::hvm::MEM_MMIO_DM;

use super::error::{Error, Operation, Result};
use super::kind::Kind;
use super::{domctl, memory};
use crate::broker;

/// A scan for RAM from frame 0 upwards.
///
/// Asking about every number below 4 GiB takes a second and more, and most of them are holes: the scan stops asking when it
/// has found as many pages as the guest owns, and none at the numbers that follow. A guest that has mapped grants of its own has
/// pages at more than one number each: of as many others it would not hear otherwise.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    kind: &'static Kind,
    /// What stands in the special range, while it goes on from where it was.
    special: Option<Vec<Gfn>>,
    /// The last numbers that were asked about held nothing.
    in_hole: bool,
    /// Where it goes on.
    next: u64,
    /// Pages outside the special range that have not been found yet.
    left: u64,
}

impl Scan {
    pub(super) fn new(kind: &'static Kind) -> Self {
        Self { kind, special: None, in_hole: false, next: 0, left: 0 }
    }

    /// Sets the bit of every frame of `span` that holds RAM, clears the others.
    pub(super) fn find(&mut self, domain: DomId, span: Span, ram: &mut [u64]) -> Result {
        let mut next = span.first.0;
        if next == 0 {
            self.begin(domain)?;
        } else if next != self.next {
            (self.special, self.left) = (None, u64::MAX);
        }
        let end = span.end().0.min(ram.len() as u64 * 64);
        while next < end {
            let chunk = Span { first: Gfn(next), count: (end - next).min(at_once()) };
            self.chunk(domain, chunk, ram)?;
            next += chunk.count;
        }
        self.next = end;
        Ok(())
    }

    fn begin(&mut self, domain: DomId) -> Result {
        let mut special = Vec::new();
        for first in self.kind.special.clone().step_by(at_once() as usize) {
            special.extend(in_span(domain, Span { first: Gfn(first), count: at_once() })?);
        }
        self.left = domctl::live_info(domain)?.tot_pages.saturating_sub(special.len() as u64);
        self.special = Some(special);
        Ok(())
    }

    fn chunk(&mut self, domain: DomId, chunk: Span, ram: &mut [u64]) -> Result {
        bits::remove_span(ram, chunk);
        let special = &self.kind.special;
        let is_inside = special.contains(&chunk.first.0) && chunk.end().0 <= special.end;
        let is_outside = chunk.first.0 >= special.end || chunk.end().0 <= special.start;
        match &self.special {
            Some(known) if is_inside => {
                let known = known.iter().filter(|gfn| (chunk.first..chunk.end()).contains(gfn));
                known.for_each(|gfn| bits::insert(ram, *gfn));
                return Ok(());
            }
            _ if is_outside && self.left == 0 && self.in_hole => return Ok(()),
            _ => {}
        }
        self.in_hole = true;
        for gfn in in_span(domain, chunk)? {
            self.in_hole = false;
            bits::insert(ram, gfn);
            let counts = !special.contains(&gfn.0);
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

/// How many frame numbers are asked about at a time: as many as Xen takes, or a broker.
fn at_once() -> u64 {
    if broker::is_needed() { RAM_SPAN } else { PAGE_FRAME_INFOS as u64 }
}

/// The frames of `span`, [`at_once`] at most, that hold RAM.
fn in_span(domain: DomId, span: Span) -> Result<impl Iterator<Item = Gfn>> {
    let ram = match broker::ram(domain, span) {
        Some(ram) => ram.map_err(|errno| Operation::FrameTypes.error(errno))?,
        None => {
            let mut ram = vec![0; span.count.div_ceil(64) as usize];
            let types = types(domain, span.first.0, span.count)?;
            (0..)
                .zip(types)
                .filter(|(_, kind)| is_ram(*kind))
                .for_each(|(place, _)| bits::insert(&mut ram, Gfn(place)));
            ram
        }
    };
    let is_found = move |place: &u64| ram.get((place / 64) as usize).is_some_and(|word| word >> (place % 64) & 1 == 1);
    Ok((0..span.count).filter(is_found).map(move |place| Gfn(span.first.0 + place)))
}

/// What stands at `count` frame numbers from `first` on.
fn types(domain: DomId, first: u64, count: u64) -> Result<Vec<u64>> {
    let mut types: Vec<u64> = (first..first + count).collect();
    domctl::frame_types(domain, &mut types)?;
    Ok(types)
}
