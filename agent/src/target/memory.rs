//! How the guest's memory is made at the target: allocated as it is announced, armed where it is stale.

use common::{BATCH, Gfn, PageSet, Span};

use super::Arrival;
use crate::error::{PeerFault, SessionError};
use crate::platform::{Pager, TargetMemory};
use crate::wire::Set;

impl<T: TargetMemory + Pager> Arrival<T> {
    /// Allocates the frames that are RAM.
    pub(crate) fn populate(&self, announced: &Set<'_>) -> Result<(), SessionError> {
        self.reach(announced.first().0 + announced.count())?;
        let sets = &mut *self.sets.borrow_mut();
        let target = &mut *self.target.borrow_mut();
        let begun = self.timer.now();
        let base = announced.first().0;
        let mut fresh = PageSet::new(announced.count());
        fresh.extend(announced.gfns().filter(|gfn| sets.announce(*gfn)).map(|gfn| Gfn(gfn.0 - base)));
        for run in fresh.runs(fresh.bound()) {
            target.populate(Span { first: Gfn(base + run.first.0), ..run })?;
        }
        self.ledger.borrow_mut().steps.populate += self.timer.now() - begun;
        Ok(())
    }

    /// Arms those pages of `set` that are not armed yet and can be; how many.
    pub(crate) fn arm(&self, set: &Set<'_>) -> Result<u64, SessionError> {
        let mut armed = 0;
        let sets = &mut *self.sets.borrow_mut();
        let target = &mut *self.target.borrow_mut();
        let mut gfns = set.gfns();
        loop {
            let mut batch = heapless::Vec::<_, BATCH>::new();
            while batch.len() < BATCH
                && let Some(gfn) = gfns.next()
            {
                if !sets.is_ram(gfn) {
                    return Err(SessionError::Peer(PeerFault::NoSuchPage));
                }
                if !sets.is_armed(gfn) {
                    let _ = batch.push(gfn);
                }
            }
            if batch.is_empty() {
                return Ok(armed);
            }
            let arming = &mut self.ledger.borrow_mut().steps.arm;
            let mask = self.timer.spend(arming, || target.arm(&batch))?;
            sets.arm(mask.pick(batch));
            armed += mask.count() as u64;
        }
    }

    /// What is here of these pages is not what the guest must see.
    pub(crate) fn mark_stale(&self, stale: &Set<'_>) {
        let sets = &mut *self.sets.borrow_mut();
        stale.gfns().for_each(|gfn| sets.mark_stale(gfn));
    }
}
