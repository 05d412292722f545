//! The source's looks at the guest's memory: what is RAM, what it has dirtied, what its pages hold.

use alloc::vec::Vec;

use common::{Gfn, PageMask, Span, cost};

use super::{Batch, Departure};
use crate::error::{Refusal, SessionError};
use crate::limits::PAUSE_GRACE;
use crate::platform::{DirtyLog, GuestInfo, Result as PlatformResult, SaveMachine, SourceMemory};

impl<S: SourceMemory> Departure<S> {
    /// What the guest is now. It must run, or have suspended: one that stays paused cannot suspend.
    pub(crate) fn check_running(&mut self) -> Result<GuestInfo, SessionError> {
        let info = self.source.info()?;
        if info.stopped {
            return Err(SessionError::Refused(Refusal::Stopped));
        }
        if !info.paused || info.suspended {
            self.paused_since = None;
            return Ok(info);
        }
        let now = self.timer.now();
        match *self.paused_since.get_or_insert(now) + PAUSE_GRACE {
            end if now < end => Ok(info),
            _ => Err(SessionError::Refused(Refusal::Paused)),
        }
    }

    /// Lets every set reach as far as the guest does now.
    pub(crate) fn grow(&mut self) -> Result<(), SessionError> {
        let (before, frames) = (self.pages.frames(), self.source.frames()?);
        if frames > before {
            let _moving = self.memory.grow_sets(before, frames, cost::DEPARTURE_SETS)?;
            self.pages.grow(frames);
        }
        Ok(())
    }

    /// Adds to what is known to be dirty what the log says, of as much of the guest as there is by now.
    pub(crate) fn take_log(&mut self, read: fn(&mut S, &mut [u64]) -> PlatformResult<()>) -> Result<(), SessionError>
    where
        S: DirtyLog,
    {
        self.grow()?;
        Ok(self.pages.take_log(|words| read(&mut self.source, words))?)
    }

    /// Finds out which frames of a chunk are RAM; whether any is.
    pub(crate) fn find_ram(&mut self, chunk: Span) -> PlatformResult<bool> {
        self.pages.find_ram(&mut self.source, chunk)
    }

    /// Looks at a chunk again; whether frames have become RAM.
    pub(crate) fn look_again(&mut self, chunk: Span) -> PlatformResult<bool> {
        self.pages.look_again(&mut self.source, chunk)
    }

    /// Looks whether the guest is what it was found to be: it has as many pages, and has given none back.
    pub(crate) fn is_as_found(&mut self) -> PlatformResult<bool> {
        // Counted, and not remembered: while they were looked at, a page may have gone ahead of the look and another come behind it.
        let (pages, found) = (self.source.info()?.pages, self.pages.ram().count());
        let kept = pages == found && self.pages.are_kept(&mut self.source)?;
        if !kept {
            log::info!(
                "{}: once more for the guest's holes: it has {pages} pages, {found} were found",
                self.toolstack.id
            );
        }
        Ok(kept)
    }

    /// Which of these pages are protected: the log will know of the next write to them.
    pub(crate) fn protected(&mut self, gfns: &[Gfn]) -> PlatformResult<PageMask>
    where
        S: DirtyLog,
    {
        self.timer.spend(&mut self.ledger.steps.ask, || self.source.protected(gfns))
    }

    /// Takes the rest of the dirty log and the machine state.
    pub(crate) fn machine_state(&mut self) -> PlatformResult<Vec<u8>>
    where
        S: SaveMachine,
    {
        self.pages.take_recent(|words| self.source.machine_state(words))
    }

    /// Tells apart which of the pages that could not be read are gone for good; gives first these, then the others.
    pub(crate) fn split_holes(&mut self, unreadable: Batch) -> (Batch, Batch) {
        unreadable.into_iter().partition(|gfn| self.pages.is_hole(&mut self.source, *gfn))
    }

    /// Finds what is still RAM in a chunk, to be freed.
    pub(crate) fn find_to_free(&mut self, chunk: Span) -> PlatformResult<()> {
        self.pages.look(&mut self.source, chunk)
    }

    /// Reads pages into the batch buffer. `gfns` keeps those that could be read; gives which of them are zero, and the
    /// others.
    pub(super) fn read(&mut self, gfns: &mut Batch) -> Result<(PageMask, Batch), SessionError> {
        let (mut zero, mut unreadable) = (PageMask::default(), Batch::new());
        if gfns.is_empty() {
            return Ok((zero, unreadable));
        }
        let steps = &mut self.ledger.steps;
        let mask = self.timer.spend(&mut steps.read, || self.source.read(gfns, &mut self.batch[..gfns.len()]))?;
        let begun = self.timer.now();
        let mut kept = 0;
        for index in 0..gfns.len() {
            let gfn = gfns[index];
            if !mask.contains(index) {
                let _ = unreadable.push(gfn);
                continue;
            }
            if kept != index {
                gfns[kept] = gfn;
                let (to, from) = self.batch.split_at_mut(index);
                to[kept] = from[0];
            }
            if super::is_zero(&self.batch[kept]) {
                zero.insert(kept);
            } else if self.source.is_pinned(&self.batch[kept]) {
                self.pages.pin(gfn);
            }
            kept += 1;
        }
        gfns.truncate(kept);
        self.ledger.steps.scan += self.timer.now() - begun;
        Ok((zero, unreadable))
    }

    /// Reads pages that are not sent now, to find those that must never be armed.
    pub(crate) fn find_pinned(&mut self, gfns: &mut Batch) -> Result<(), SessionError> {
        self.read(gfns).map(|_| ())
    }
}
