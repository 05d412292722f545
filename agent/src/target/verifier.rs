//! The target's end of verifying: it compares what it holds with the digests that the source sends.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use common::{BATCH, Content, Gfn, PAGE_SIZE, Page, PageSet, cost};

use super::Arrival;
use crate::digest::{self, Digest, Kept};
use crate::error::{PeerFault, Refusal, SessionError};
use crate::host::budget::Reservation;
use crate::platform::TargetMemory;
use crate::tasks::ms;
use crate::wire::Digests;

/// Differing pages of one migration that are named in the log.
const NAMED: u64 = 16;

/// What the target knows of the source's memory.
pub(crate) struct Verifier {
    /// Pages that the source has told about.
    told: PageSet,
    /// Those of them that are something else here.
    differing: PageSet,
    /// Of pages that are yet to come.
    kept: Option<Kept>,
    /// Those of them that came beside the connections, and differed.
    doubtful: heapless::Vec<Gfn, BATCH>,
    /// What was read back last.
    pages: Vec<Page>,
    took: Duration,
    /// Differing pages so far.
    named: u64,
}

impl Verifier {
    /// One for a guest of so many frames, if that is within the budget.
    pub(crate) fn new(frames: u64, memory: &mut Reservation) -> Result<Self, SessionError> {
        let room = memory.add(cost::VERIFIER).and_then(|()| memory.add_sets(frames, cost::VERIFIER_SETS));
        room.map_err(|_| SessionError::Refused(Refusal::NoMemoryToVerify))?;
        let (told, differing, doubtful) = (PageSet::new(frames), PageSet::new(frames), heapless::Vec::new());
        let (pages, took, named) = (vec![[0; PAGE_SIZE]; BATCH], Duration::ZERO, 0);
        Ok(Self { told, differing, kept: None, doubtful, pages, took, named })
    }

    /// Lets it reach as far as the guest does now.
    pub(super) fn grow(&mut self, frames: u64, memory: &mut Reservation) -> Result<(), SessionError> {
        let _moving = memory.grow_sets(self.told.frames(), frames, cost::VERIFIER_SETS)?;
        self.told.grow(frames);
        self.differing.grow(frames);
        Ok(())
    }

    /// Takes `gfn` out of the doubtful pages; whether it was one.
    fn take_doubtful(&mut self, gfn: Gfn) -> bool {
        let place = self.doubtful.iter().position(|doubtful| *doubtful == gfn);
        place.map(|place| self.doubtful.swap_remove(place)).is_some()
    }

    /// Nobody compares `gfn`; whether somebody would have.
    fn spare(&mut self, gfn: Gfn) -> bool {
        let unheard_of = self.told.insert(gfn);
        let awaited = self.kept.as_mut().is_some_and(|kept| kept.of(gfn).is_some() && kept.set(gfn, None));
        self.differing.remove(gfn) || awaited || unheard_of
    }
}

impl<T: TargetMemory> Arrival<T> {
    /// Takes digests: compares what is here, keeps those of what is not.
    pub(crate) fn take_digests(&self, digests: &Digests<'_>) -> Result<(), SessionError> {
        let verifier = &mut *self.verifier.borrow_mut();
        let Some(verifier) = verifier else {
            // An agent that was started anew knows no digests; the source may not know of that.
            return if self.is_running() { Ok(()) } else { Err(SessionError::Peer(PeerFault::OutOfTurn)) };
        };
        let (began, mut spared) = (self.timer.now(), 0);
        let sets = &*self.sets.borrow();
        let mut here: heapless::Vec<(Gfn, Digest), BATCH> = heapless::Vec::new();
        for (gfn, digest) in digests.each() {
            if !sets.is_ram(gfn) {
                return Err(SessionError::Peer(PeerFault::NoSuchPage));
            }
            let Some(digest) = digest else {
                spared += u64::from(verifier.spare(gfn));
                continue;
            };
            verifier.told.insert(gfn);
            if sets.is_readable(gfn) && !self.is_running() {
                let _ = here.push((gfn, digest));
                continue;
            }
            let kept = match &mut verifier.kept {
                Some(kept) => kept,
                none => none.insert(Kept::new(sets.absent(), &mut self.memory.borrow_mut())?),
            };
            if !kept.set(gfn, Some(digest)) {
                return Err(SessionError::Peer(PeerFault::MissingPages));
            }
        }
        let equal = self.compare(verifier, &here)?;
        verifier.took += self.timer.now() - began;
        let summary = &mut self.ledger.borrow_mut().summary;
        summary.verified += equal;
        summary.spared += spared;
        summary.verify_ms = ms(verifier.took);
        if self.is_running() {
            summary.differing = verifier.differing.count();
        }
        Ok(())
    }

    /// Compares pages that are here with their digests; how many are equal.
    fn compare(&self, verifier: &mut Verifier, here: &[(Gfn, Digest)]) -> Result<u64, SessionError> {
        let gfns: heapless::Vec<_, BATCH> = here.iter().map(|(gfn, _)| *gfn).collect();
        if gfns.is_empty() {
            return Ok(0);
        }
        let read = self.target.borrow_mut().read(&gfns, &mut verifier.pages[..gfns.len()])?;
        if read.count() < gfns.len() {
            return Err(SessionError::Refused(Refusal::Unreadable));
        }
        let mut equal = 0;
        for ((gfn, digest), page) in here.iter().zip(&verifier.pages) {
            if digest::of(page) == *digest {
                verifier.differing.remove(*gfn);
                equal += 1;
            } else if verifier.differing.insert(*gfn) {
                self.name(&mut verifier.named, *gfn);
            }
        }
        Ok(equal)
    }

    /// At the switch: every page must have been told about, and what is here must be the same.
    pub(crate) fn check_digests(&self) -> Result<(), SessionError> {
        let verifier = &*self.verifier.borrow();
        let Some(verifier) = verifier else { return Ok(()) };
        if verifier.told != *self.sets.borrow().ram() {
            return Err(SessionError::Peer(PeerFault::MissingPages));
        }
        match verifier.differing.next_from(Gfn(0)) {
            Some(first) => Err(SessionError::Differing { first, pages: verifier.differing.count() }),
            None => Ok(()),
        }
    }

    /// Compares what pages are filled with. Before the commit a difference ends the migration; after it, it is counted.
    pub(super) fn check<'a>(&self, pages: impl Iterator<Item = (Gfn, Content<'a>)>) -> Result<(), SessionError> {
        let verifier = &mut *self.verifier.borrow_mut();
        let Some(Verifier { kept: Some(kept), differing, took, named, .. }) = verifier else { return Ok(()) };
        let began = self.timer.now();
        let mut equal = 0;
        for (gfn, content) in pages {
            let Some(digest) = kept.of(gfn) else { continue };
            kept.set(gfn, None);
            if digest::of_content(content) == digest {
                equal += 1;
                continue;
            }
            self.name(named, gfn);
            if !self.is_running() {
                return Err(SessionError::Differing { first: gfn, pages: 1 });
            }
            differing.insert(gfn);
        }
        *took += self.timer.now() - began;
        let summary = &mut self.ledger.borrow_mut().summary;
        summary.verified += equal;
        summary.verify_ms = ms(*took);
        if !differing.is_empty() {
            summary.differing = differing.count();
        }
        Ok(())
    }

    /// The same for a page that came beside the connections, in stage 3. One that differs is not judged yet: it may be ahead of the word
    /// that it is to be spared, or a backend may have written to it since it was sent on a connection, from which it is still to come.
    pub(super) fn check_rescued(&self, gfn: Gfn, content: Content<'_>) {
        if let Some(Verifier { kept: Some(kept), doubtful, .. }) = &mut *self.verifier.borrow_mut()
            && kept.of(gfn).is_some_and(|digest| digest != digest::of_content(content))
            && doubtful.push(gfn).is_ok()
        {
            return;
        }
        // Only before the commit is a difference an error.
        let _ = self.check(core::iter::once((gfn, content)));
    }

    /// Judges such pages when they come on a connection: where that is as it should be, a backend has written since, and it is spared.
    pub(super) fn check_late(&self, pages: &[(Gfn, Content<'_>)]) -> Result<(), SessionError> {
        for (gfn, content) in pages {
            let was_doubtful = self.verifier.borrow_mut().as_mut().is_some_and(|verifier| verifier.take_doubtful(*gfn));
            if was_doubtful {
                let equal = self.ledger.borrow().summary.verified;
                self.check(core::iter::once((*gfn, *content)))?;
                let summary = &mut self.ledger.borrow_mut().summary;
                summary.spared += summary.verified - equal;
                summary.verified = equal;
            }
        }
        Ok(())
    }

    /// Counts a page that differs from the source's, and names it.
    fn name(&self, named: &mut u64, gfn: Gfn) {
        *named += 1;
        if *named <= NAMED {
            log::error!("{}: guest frame {:#x} differs from the source's", self.toolstack.id, gfn.0);
        }
    }
}
