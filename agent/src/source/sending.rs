//! What a departure sends, and how far it has come at the target.

use common::control::Mode;
use common::{BATCH, PageMask, Span};

use super::{Batch, Departure, verify};
use crate::error::{Refusal, SessionError};
use crate::net::Connection;
use crate::platform::SourceMemory;
use crate::wire::{Cause, Kind, Message};

impl<S: SourceMemory> Departure<S> {
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
    pub(crate) async fn send_as_zeros(&mut self, gfns: &Batch) -> Result<(), SessionError> {
        let (summary, sent) = (&mut self.ledger.summary, gfns.len() as u64);
        (summary.stage3_pages, summary.pushed) = (summary.stage3_pages + sent, summary.pushed + sent);
        let zero = PageMask::first(gfns.len());
        let sending = self.connections.bulk.send_pages(Cause::Push, gfns, &self.batch, zero);
        self.answering.beside(&mut self.source, self.pages.ram(), sending).await
    }

    // What the target is told of pages.

    /// Which frames of a chunk are RAM.
    pub(crate) async fn tell_ram(&mut self, chunk: Span) -> Result<(), SessionError> {
        self.connections.bulk.send_set(Kind::Ram, self.pages.ram(), chunk).await
    }

    /// Which frames were RAM and are no more.
    pub(crate) async fn tell_gone(&mut self, gone: &Batch) -> Result<(), SessionError> {
        let body: heapless::Vec<u8, { 8 * BATCH }> = gone.iter().flat_map(|gfn| gfn.0.to_le_bytes()).collect();
        self.connections.bulk.send(Message::Gone(&body)).await
    }

    /// Which pages follow when the guest runs there.
    pub(crate) async fn tell_dirty(&mut self) -> Result<(), SessionError> {
        self.connections.bulk.send_whole_set(Kind::Dirty, self.pages.left()).await
    }

    // What it is told of the session.

    /// Behind all that was sent in bulk.
    pub(crate) async fn say_in_bulk(&mut self, message: Message<'_>) -> Result<(), SessionError> {
        self.connections.bulk.send(message).await
    }

    /// At once.
    pub(crate) async fn say(&mut self, message: Message<'_>) -> Result<(), SessionError> {
        self.connections.control.send(message).await
    }

    // How far the target is.

    /// The connection for what is sent in bulk.
    pub(crate) fn bulk(&self) -> &Connection {
        self.connections.bulk.connection()
    }

    /// Waits until the target has said that it has heard all, and that there is nothing more; whether it has.
    pub(crate) async fn finished(&self) -> bool {
        self.connections.control.connection().finished().await
    }

    // What the target asks for by datagram.

    /// Answers it from here on.
    pub(crate) fn begin_answering(&mut self) {
        self.answering.begin();
    }

    /// Waits until it demands pages, or less than `ahead` is on its way in bulk, if anything is to follow there; answers meanwhile.
    pub(crate) async fn wait(&mut self, ahead: Option<usize>) {
        let (inbox, bulk) = (&self.inbox, self.connections.bulk.connection());
        let has_room = || ahead.is_some_and(|ahead| bulk.backlog() < ahead);
        let waiting = self.timer.wait_for(|| (inbox.has_demands() || has_room()).then_some(()));
        self.answering.beside(&mut self.source, self.pages.ram(), waiting).await;
    }

    /// Does `work`, and answers meanwhile.
    pub(crate) async fn answering<T>(&mut self, work: impl Future<Output = T>) -> T {
        self.answering.beside(&mut self.source, self.pages.ram(), work).await
    }
}
