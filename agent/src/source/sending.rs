//! The source's pages: read, told apart, sent, counted.

use common::PageMask;
use common::control::Mode;

use super::{Batch, Departure, is_zero};
use crate::error::{Refusal, SessionError};
use crate::platform::Source;
use crate::verify;
use crate::wire::Cause;

impl<S: Source> Departure<S> {
    /// Reads up to [`BATCH`](common::BATCH) pages and sends them, in bulk or, when demanded, on the control connection. Gives
    /// the pages that could not be read.
    pub(crate) async fn send(&mut self, cause: Cause, gfns: &mut Batch) -> Result<Batch, SessionError> {
        let (zero, unreadable) = self.read(gfns)?;
        if self.pages.count_sends(gfns) > 2 && self.mode != Mode::Precopy {
            return Err(SessionError::Refused(Refusal::ThirdSend));
        }
        if gfns.is_empty() {
            return Ok(unreadable);
        }
        let (sent, summary) = (gfns.len() as u64, &mut self.ledger.summary);
        summary.zero_pages += zero.count() as u64;
        summary.most_sends = self.pages.most_sends();
        match cause {
            Cause::Copy => summary.stage1_pages += sent,
            Cause::Urgent => summary.stage2_pages += sent,
            Cause::Push | Cause::Demand | Cause::Prepull => summary.stage3_pages += sent,
        }
        match cause {
            Cause::Push => summary.pushed += sent,
            Cause::Prepull => summary.prepull_sent += sent,
            Cause::Copy | Cause::Urgent | Cause::Demand => {}
        }
        verify::tell_changed(self, cause, gfns).await?;
        let sending = self.connections.of(cause).send_pages(cause, gfns, &self.batch, zero);
        self.answering.beside(&mut self.source, self.pages.ram(), sending).await?;
        Ok(unreadable)
    }

    /// Sends pages that no longer exist as zeros, so that the target misses nothing it was told of.
    pub(crate) async fn send_as_zeros(&mut self, cause: Cause, gfns: &Batch) -> Result<(), SessionError> {
        let zero = PageMask::first(gfns.len());
        let sending = self.connections.of(cause).send_pages(cause, gfns, &self.batch, zero);
        self.answering.beside(&mut self.source, self.pages.ram(), sending).await
    }

    /// Looks at pages that are not sent now, for those that must never be armed.
    pub(crate) fn look_at(&mut self, gfns: &mut Batch) -> Result<(), SessionError> {
        self.read(gfns).map(|_| ())
    }

    /// Reads pages into the batch buffer. `gfns` keeps those that could be read; gives which of them are zero, and the
    /// others.
    pub(crate) fn read(&mut self, gfns: &mut Batch) -> Result<(PageMask, Batch), SessionError> {
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
            if is_zero(&self.batch[kept]) {
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
}
