//! What a target that verifies keeps.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use common::{BATCH, Gfn, PAGE_SIZE, Page, PageSet, cost};

use crate::digest::Kept;
use crate::error::{Refusal, SessionError};
use crate::host::budget::Reservation;

/// What the target knows of the source's memory.
pub(crate) struct Verifier {
    /// Pages that the source has told about.
    pub(crate) told: PageSet,
    /// Those of them that are something else here.
    pub(crate) differing: PageSet,
    /// Of pages that are yet to come.
    pub(crate) kept: Option<Kept>,
    pub(crate) pages: Vec<Page>,
    pub(crate) took: Duration,
    pub(crate) named: u64,
}

impl Verifier {
    /// One for a guest of so many frames, if that is within the budget.
    pub(crate) fn new(frames: u64, memory: &mut Reservation) -> Result<Self, SessionError> {
        let room = memory.add(cost::VERIFIER).and_then(|()| memory.add_sets(frames, cost::VERIFIER_SETS));
        room.map_err(|_| SessionError::Refused(Refusal::NoMemoryToVerify))?;
        let (told, differing) = (PageSet::new(frames), PageSet::new(frames));
        Ok(Self { told, differing, kept: None, pages: vec![[0; PAGE_SIZE]; BATCH], took: Duration::ZERO, named: 0 })
    }

    /// Lets it reach as far as the guest does now.
    pub(crate) fn grow(&mut self, frames: u64, memory: &mut Reservation) -> Result<(), SessionError> {
        let _moving = memory.grow_sets(self.told.frames(), frames, cost::VERIFIER_SETS)?;
        self.told.grow(frames);
        self.differing.grow(frames);
        Ok(())
    }

    /// Nobody compares `gfn`; whether somebody would have.
    pub(crate) fn spare(&mut self, gfn: Gfn) -> bool {
        let unheard_of = self.told.insert(gfn);
        let awaited = self.kept.as_mut().is_some_and(|kept| kept.of(gfn).is_some() && kept.set(gfn, None));
        self.differing.remove(gfn) || awaited || unheard_of
    }
}
