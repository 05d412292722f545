//! Writes the pages that arrive into the guest's memory.

use core::ops::ControlFlow;

use common::{BATCH, Content, Fault, Gfn, PageMask, cost};

use super::Arrival;
use super::sets::Sets;
use crate::error::{PeerFault, Refusal, SessionError};
use crate::host::toolstack::retry;
use crate::limits::PAGE_RETRY;
use crate::platform::{Pager, TargetMemory};
use crate::tasks::Instant;
use crate::wire::{Arriving, Cause, Demanded};

impl<T: TargetMemory + Pager> Arrival<T> {
    /// Lets the sets reach the frames below `frames`, if that is within the budget.
    pub(crate) fn reach(&self, frames: u64) -> Result<(), SessionError> {
        let sets = &mut *self.sets.borrow_mut();
        if frames > sets.frames() {
            let _moving = self.memory.borrow_mut().grow_sets(sets.frames(), frames, cost::ARRIVAL_SETS)?;
            sets.grow(frames);
            if let Some(verifier) = &mut *self.verifier.borrow_mut() {
                verifier.grow(frames, &mut self.memory.borrow_mut())?;
            }
        }
        Ok(())
    }

    /// Puts pages where they belong: armed ones by a fill, the others by a write, which only happens while the guest
    /// cannot run. A page that is not armed while it runs was given back or replaced; nobody wants it.
    pub(crate) fn place(&self, pages: &Arriving<'_>) -> Result<(), SessionError> {
        let sets = &mut *self.sets.borrow_mut();
        let running = self.is_running();
        let (mut fills, mut writes, mut late) = (Contents::new(), Contents::new(), Contents::new());
        for (gfn, content) in pages.contents() {
            if !sets.is_ram(gfn) {
                return Err(SessionError::Peer(PeerFault::NoSuchPage));
            }
            if sets.is_armed(gfn) {
                let _ = fills.push((gfn, content));
            } else {
                let _ = if running { &mut late } else { &mut writes }.push((gfn, content));
            }
        }
        let target = &mut *self.target.borrow_mut();
        let begun = self.timer.now();
        let written = if writes.is_empty() { PageMask::default() } else { target.write(&writes)? };
        let filled = if fills.is_empty() { PageMask::default() } else { target.fill(&fills)? };
        let now = self.timer.now();
        self.ledger.borrow_mut().steps.write += now - begun;
        for (contents, mask) in [(&writes, written), (&fills, filled)] {
            let done = mask.pick(contents.iter().copied());
            self.check(done.clone())?;
            done.for_each(|(gfn, _)| self.settle(sets, gfn, now));
        }
        self.check_late(&late)?;
        self.timer.nudge();
        if written.count() + filled.count() < writes.len() + fills.len() {
            return Err(SessionError::Refused(Refusal::Unwritable));
        }
        self.count(pages);
        Ok(())
    }

    /// Puts a page where it belongs that came by datagram, unless it has come otherwise. If that fails, TCP brings it still.
    pub(crate) fn place_rescued(&self, gfn: Gfn, content: Content<'_>) {
        let sets = &mut *self.sets.borrow_mut();
        if !self.is_running() || !sets.is_armed(gfn) {
            return;
        }
        match self.target.borrow_mut().fill(&[(gfn, content)]) {
            Ok(done) if !done.is_empty() => {
                self.check_rescued(gfn, content);
                self.settle(sets, gfn, self.timer.now());
                self.ledger.borrow_mut().summary.rescued += 1;
                self.faults.tcp_was_late();
                self.timer.nudge();
            }
            Ok(_) => {}
            Err(error) => log::warn!("{}: a rescued page was not filled: {error}", self.toolstack.id),
        }
    }

    /// As [`Arrival::place`], once the guest may run: then nobody is helped by giving up, and a page that cannot be filled
    /// now is tried again until it can.
    pub(crate) async fn place_for_good(&self, pages: &Arriving<'_>) -> Result<(), SessionError> {
        let once = || match self.place(pages) {
            Err(error @ (SessionError::Here(_) | SessionError::Refused(Refusal::Unwritable))) if self.is_running() => {
                ControlFlow::Continue(error)
            }
            placed => ControlFlow::Break(placed),
        };
        retry(&self.timer, &self.toolstack.id, PAGE_RETRY, once).await
    }

    /// Gives frames back that are RAM no more, before the guest runs here.
    pub(crate) fn give_back(&self, gfns: impl Iterator<Item = Gfn>) -> Result<(), SessionError> {
        let sets = &mut *self.sets.borrow_mut();
        let mut gone: heapless::Vec<Gfn, BATCH> = heapless::Vec::new();
        for gfn in gfns {
            if !sets.remove(gfn) {
                return Err(SessionError::Peer(PeerFault::NoSuchPage));
            }
            let _ = gone.push(gfn);
        }
        Ok(self.target.borrow_mut().free(&gone)?)
    }
}

impl<T> Arrival<T> {
    /// A page that the guest gave back needs no content.
    pub(crate) fn forget(&self, gfn: Gfn) {
        if !self.sets.borrow().is_ram(gfn) {
            return;
        }
        self.settle(&mut self.sets.borrow_mut(), gfn, self.timer.now());
        self.timer.nudge();
    }

    fn settle(&self, sets: &mut Sets, gfn: Gfn, now: Instant) {
        sets.settle(gfn);
        if let Some(since) = self.faults.end(gfn) {
            self.ledger.borrow_mut().waits.add(now - since);
            self.timer.hurry();
        }
    }

    fn count(&self, pages: &Arriving<'_>) {
        let count = pages.gfns().count() as u64;
        let summary = &mut self.ledger.borrow_mut().summary;
        summary.zero_pages += pages.zeros();
        match pages.cause() {
            Cause::Copy => summary.stage1_pages += count,
            Cause::Urgent => summary.stage2_pages += count,
            Cause::Push | Cause::Demand | Cause::Prepull => summary.stage3_pages += count,
        }
        match pages.cause() {
            Cause::Push => summary.pushed += count,
            Cause::Prepull => summary.prepull_sent += count,
            Cause::Copy | Cause::Urgent | Cause::Demand => {}
        }
    }

    /// Notes that somebody waits for a page, which will then be demanded.
    pub(crate) fn note_fault(&self, fault: Fault) {
        let (gfn, sets) = (fault.gfn, &mut *self.sets.borrow_mut());
        if sets.request(gfn) {
            self.faults.begin(gfn, !fault.vcpu_waits, self.timer.now());
        }
    }

    /// The next pages to demand.
    pub(crate) fn take_unsaid(&self) -> heapless::Vec<Demanded, BATCH> {
        self.faults.take_unsaid(self.sets.borrow().requested())
    }

    /// Every page that is RAM must be here or announced as stale, and only stale ones may be armed.
    pub(crate) fn check_nothing_left_out(&self) -> Result<(), SessionError> {
        if self.sets.borrow().are_complete() { Ok(()) } else { Err(SessionError::Peer(PeerFault::MissingPages)) }
    }
}

type Contents<'a> = heapless::Vec<(Gfn, Content<'a>), BATCH>;
