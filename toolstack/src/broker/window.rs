//! Entries of a guest's own grant table that are the agent's for a while.
//!
//! The guest may use its table meanwhile, even these entries. So only entries that are empty are taken, and each is looked at again
//! when it is taken back: one that still holds what was written there has been the agent's all the time, since a guest grants nothing
//! to the agent by itself. Linux clears no entry that it gives back but its flags (`gnttab_end_foreign_access_ref_v1`), so that an entry
//! which is empty is one that it has never used.
//!
//! A guest that fills an empty entry writes domain, frame and flags one after the other. Of one for dom0, whose number is 0, nothing is
//! to be seen before the frame is there. An entry that is taken in this moment has the agent's number and the guest's frame then; it is
//! mended when it is found.

use common::{DomId, Gfn};
use xen_abi::Errno;
use xen_abi::broker::{NO_GRANT, WINDOW};
use xen_abi::grant_table::{ENTRIES_PER_FRAME, GTF_PERMIT_ACCESS, GTF_READONLY, GrantEntryV1};
use xen_abi::privcmd::{GrantFrames, Privcmd};

/// Frames of the table that are looked at, from the end on. Most are only used if those behind them have no room.
const FRAMES: u32 = 64;
/// Frames of the table after which they end, unless the guest has more itself: Xen's default for a whole table. A table never becomes
/// shorter, and where hundreds of frames are allowed each of them costs Xen 4 KiB.
const USUAL: u32 = 64;
/// Frames that are added to a longer table.
const MORE: u32 = (WINDOW / ENTRIES_PER_FRAME) as u32;

/// The end of a guest's grant table.
pub(super) struct Window {
    frames: GrantFrames,
    /// The reference of the first entry.
    first: u32,
    made: Vec<Made>,
}

/// An entry that the agent may use.
struct Made {
    index: usize,
    entry: u64,
    gfn: Gfn,
    place: usize,
}

/// Pages that were used, and whose grants have ended.
pub(super) struct Ended {
    /// Their entries have been the agent's all the time.
    pub(super) kept: Vec<Gfn>,
    /// The guest has overwritten them.
    pub(super) lost: Vec<Gfn>,
}

impl Window {
    pub(super) fn open(privcmd: &Privcmd, domain: DomId) -> Result<Self, Errno> {
        if privcmd.grant_version(domain)? > 1 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (now, most) = privcmd.grant_frames(domain)?;
        let end = if now > USUAL { now + MORE } else { USUAL }.min(most);
        let count = end.min(FRAMES);
        let first = end - count;
        let frames = GrantFrames::map(privcmd, domain, first, count).map_err(|_| Errno::ENOMEM)?;
        Ok(Self { frames, first: first * ENTRIES_PER_FRAME as u32, made: Vec::new() })
    }

    /// Takes every entry back. `is_used` tells which were, by their places among those that were asked for.
    pub(super) fn clear(&mut self, is_used: impl Fn(usize) -> bool) -> Ended {
        let (kept, lost): (Vec<_>, Vec<Made>) =
            self.made.drain(..).partition(|made| self.frames.exchange(made.index, made.entry, 0));
        lost.iter().for_each(|made| self.mend(made));
        let used = |made: Vec<Made>| made.iter().filter(|made| is_used(made.place)).map(|made| made.gfn).collect();
        Ended { kept: used(kept), lost: used(lost) }
    }

    /// An entry that the guest was just filling when it was taken: only one for dom0 looks empty then.
    fn mend(&self, made: &Made) {
        let now = self.frames.entry(made.index);
        let entry = GrantEntryV1::of_word(now);
        if entry.is_for(GrantEntryV1::of_word(made.entry).domid) {
            self.frames.exchange(made.index, now, GrantEntryV1 { domid: DomId::DOM0, ..entry }.to_word());
        }
    }

    /// Grants `agent` as many of the pages as there are empty entries, the first ones first; their references.
    pub(super) fn fill(&mut self, agent: DomId, gfns: &[Gfn], writable: bool) -> Vec<u32> {
        let flags = if writable { GTF_PERMIT_ACCESS } else { GTF_PERMIT_ACCESS | GTF_READONLY };
        let mut indices = (0..self.frames.entries()).rev();
        let mut grant = |(place, gfn): (usize, &Gfn)| {
            let frame = u32::try_from(gfn.0).ok()?;
            let entry = GrantEntryV1 { flags, domid: agent, frame }.to_word();
            let index = indices.find(|index| self.frames.exchange(*index, 0, entry))?;
            self.made.push(Made { index, entry, gfn: *gfn, place });
            Some(self.first + index as u32)
        };
        gfns.iter().enumerate().map(|page| grant(page).unwrap_or(NO_GRANT)).collect()
    }
}

/// Takes every entry of the guest's table back that `agent` may use, whoever has made it.
pub(super) fn clear_all(privcmd: &Privcmd, domain: DomId, agent: DomId) -> Result<(), Errno> {
    let (count, _) = privcmd.grant_frames(domain)?;
    let table = GrantFrames::map(privcmd, domain, 0, count).map_err(|_| Errno::ENOMEM)?;
    for index in 0..table.entries() {
        let entry = table.entry(index);
        if GrantEntryV1::of_word(entry).is_for(agent) {
            // One that the guest has just changed is its own.
            table.exchange(index, entry, 0);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
