//! Sending and receiving whole messages over a connection that is [secured](crate::secure).

use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use common::{Gfn, Page, PageMask, PageSet, Span};

use crate::digest::Digest;
use crate::error::{LinkError, PeerFault, SessionError, WireError};
use crate::net::Connection;
use crate::secure::{Heard, Link};
use crate::wire::{CHUNK, Cause, Digests, Header, Kind, Message, Pages, Set};

/// The receiving half of a connection.
pub(crate) struct Inlet {
    link: Link,
    kinds: &'static [Kind],
    message: Heard,
}

impl Inlet {
    /// Takes messages of these kinds; whatever else comes is refused before memory is spent on it.
    pub(crate) fn new(link: Link, kinds: &'static [Kind]) -> Self {
        Self { link, kinds, message: Heard::default() }
    }

    /// The next message that says something. Its header has been checked before the rest of its body was read.
    pub(crate) async fn next(&mut self) -> Result<Message<'_>, SessionError> {
        let kind = loop {
            let kind = self.read().await?;
            if kind != Kind::Nudge {
                break kind;
            }
        };
        Ok(Message::parse(kind, &self.message.bytes()[Header::LEN..])?)
    }

    async fn read(&mut self) -> Result<Kind, SessionError> {
        self.message.clear();
        self.link.read(&mut self.message).await?;
        let front = self.message.bytes().first_chunk().ok_or(WireError::Truncated)?;
        let header = Header::parse(front)?;
        if !self.kinds.contains(&header.kind) && header.kind != Kind::Nudge {
            return Err(SessionError::Peer(PeerFault::OutOfTurn));
        }
        let whole = Header::LEN + header.length;
        self.message.expect(whole);
        while self.message.bytes().len() < whole {
            self.link.read(&mut self.message).await?;
        }
        if self.message.bytes().len() > whole {
            return Err(WireError::Trailing.into());
        }
        Ok(header.kind)
    }
}

/// The sending half of a connection that one task sends on. When that task is dropped in the middle of a message that takes
/// several records, nothing more can be said on the connection.
pub(crate) struct Outlet {
    link: Link,
    scratch: Vec<u8>,
}

impl Outlet {
    pub(crate) fn new(link: Link) -> Self {
        link.reserve();
        Self { link, scratch: Vec::new() }
    }

    /// The connection under it.
    pub(crate) fn connection(&self) -> &Connection {
        self.link.connection()
    }

    /// What sealing took since this was asked last.
    pub(crate) fn take_sealing(&self) -> Duration {
        self.link.take_spent().seal
    }

    /// Sends a message that carries neither sets nor pages.
    pub(crate) async fn send(&mut self, message: Message<'_>) -> Result<(), SessionError> {
        self.begin();
        let kind = message.emit(&mut self.scratch);
        self.front(kind, self.scratch.len() - Header::LEN).await?;
        Ok(self.link.end().await?)
    }

    /// Sends the part of `set` in `span`. The set is looked at now, not while it is sent.
    pub(crate) fn send_set<'a>(
        &'a mut self,
        kind: Kind,
        set: &PageSet,
        span: Span,
    ) -> impl Future<Output = Result<(), SessionError>> + use<'a> {
        self.begin();
        Set::emit(set, span, &mut self.scratch);
        async move {
            self.front(kind, self.scratch.len() - Header::LEN).await?;
            Ok(self.link.end().await?)
        }
    }

    /// Sends digests of pages, ascending and all within the same 64 frames; a page without one is spared.
    pub(crate) async fn send_digests(&mut self, pages: &[(Gfn, Option<Digest>)]) -> Result<(), SessionError> {
        self.begin();
        Digests::emit(pages, &mut self.scratch);
        self.front(Kind::Digests, self.scratch.len() - Header::LEN).await?;
        Ok(self.link.end().await?)
    }

    /// Sends `set`, a message for each part of it that has pages.
    pub(crate) async fn send_whole_set(&mut self, kind: Kind, set: &PageSet) -> Result<(), SessionError> {
        let mut next = Gfn(0);
        while let Some(chunk) = set.next_chunk(next, CHUNK) {
            self.send_set(kind, set, chunk).await?;
            next = chunk.end();
        }
        Ok(())
    }

    /// Sends the pages `gfns`, whose bytes are in `pages`; those in the mask `zero` send none.
    pub(crate) async fn send_pages(
        &mut self,
        cause: Cause,
        gfns: &[Gfn],
        pages: &[Page],
        zero: PageMask,
    ) -> Result<(), SessionError> {
        let batch = Pages { cause, gfns, zero };
        self.begin();
        batch.emit(&mut self.scratch);
        self.front(Kind::Pages, batch.body_len()).await?;
        let mut index = 0;
        while index < gfns.len() {
            let run = (index..gfns.len()).take_while(|at| !zero.contains(*at)).count();
            if run > 0 {
                self.link.write(pages[index..index + run].as_flattened()).await?;
            }
            index += run.max(1);
        }
        Ok(self.link.end().await?)
    }

    fn begin(&mut self) {
        self.scratch.clear();
        self.scratch.resize(Header::LEN, 0);
    }

    /// Sends the header and what has been gathered.
    async fn front(&mut self, kind: Kind, length: usize) -> Result<(), LinkError> {
        self.scratch[..Header::LEN].copy_from_slice(&Header { kind, length }.emit());
        self.link.begin().await?;
        self.link.write(&self.scratch).await
    }
}

/// The sending half of a connection that several tasks share, for messages that fit a record. One that has been begun is
/// finished before the next begins, whatever becomes of the task that sent it.
pub(crate) struct SharedOutlet {
    link: Link,
    scratch: RefCell<Vec<u8>>,
}

impl SharedOutlet {
    pub(crate) fn new(link: Link) -> Self {
        Self { link, scratch: RefCell::default() }
    }

    /// Sends a message that carries neither sets nor pages.
    pub(crate) async fn send(&self, message: Message<'_>) -> Result<(), SessionError> {
        self.link.begin().await?;
        {
            let body = &mut *self.scratch.borrow_mut();
            body.clear();
            let kind = message.emit(body);
            self.link.gather(&Header { kind, length: body.len() }.emit());
            self.link.gather(body);
        }
        Ok(self.link.end().await?)
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use embassy_futures::join::join;

    use super::*;
    use crate::secure::record::MAX_PAYLOAD;
    use crate::tasks::poll_once;
    use crate::testing::Pair;

    #[test]
    fn a_message_whose_sender_was_dropped_is_finished_before_the_next() {
        let (mut pair, [here, there]) = Pair::plain();
        let outlet = SharedOutlet::new(here);
        let mut inlet = Inlet::new(there, &[Kind::Demand, Kind::Complete]);
        let body = [7; 512];
        assert!(poll_once(Box::pin(outlet.send(Message::Demand(&body)))).is_pending());
        let heard = async {
            assert_eq!(inlet.next().await, Ok(Message::Demand(&body)));
            assert_eq!(inlet.next().await, Ok(Message::Complete));
        };
        let (said, ()) = pair.finish(join(outlet.send(Message::Complete), heard));
        assert_eq!(said, Ok(()));
    }

    #[test]
    fn a_message_that_has_no_place_on_a_connection_costs_no_memory() {
        let (mut pair, [here, there]) = Pair::plain();
        let header = Header { kind: Kind::State, length: Kind::State.limit() }.emit();
        pair.finish(async {
            here.begin().await.unwrap();
            here.write(&header).await.unwrap();
            here.end().await.unwrap();
        });
        let mut inlet = Inlet::new(there, &[Kind::Hello]);
        assert_eq!(pair.finish(inlet.next()), Err(SessionError::Peer(PeerFault::OutOfTurn)));
        assert_eq!(inlet.message.capacity(), Header::LEN);
    }

    #[test]
    fn a_record_that_goes_on_after_its_message_is_refused() {
        let (mut pair, [here, there]) = Pair::plain();
        let header = Header { kind: Kind::Built, length: 4 }.emit();
        pair.finish(async {
            here.begin().await.unwrap();
            here.write(&header).await.unwrap();
            here.write(&[0; 5]).await.unwrap();
            here.end().await.unwrap();
        });
        let mut inlet = Inlet::new(there, &[Kind::Built]);
        assert_eq!(pair.finish(inlet.next()), Err(WireError::Trailing.into()));
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up_in_time() {
        let (pair, [here, _there]) = Pair::plain();
        here.connection().set_patience(Some(Duration::from_secs(30)));
        let mut outlet = Outlet::new(here);
        let mut sending = Box::pin(outlet.send(Message::State(&[1; 5000])));
        for (now, ends) in [(1, false), (29, false), (31, true)] {
            pair.clock.set(now * 1_000_000_000);
            assert_eq!(poll_once(&mut sending).is_ready(), ends, "{now}");
        }
    }

    #[test]
    fn nothing_is_said_after_half_a_message() {
        let (mut pair, [here, there]) = Pair::plain();
        let mut outlet = Outlet::new(here);
        let long = std::vec![1; 2 * MAX_PAYLOAD];
        let mut sending = Box::pin(outlet.send(Message::State(&long)));
        assert!(poll_once(&mut sending).is_pending());
        drop(sending);
        let mut record = Heard::default();
        let (said, read) = pair.finish(join(outlet.send(Message::Abort("too late")), there.read(&mut record)));
        assert_eq!((said, read, record.bytes().len()), (Err(LinkError::Lost.into()), Ok(()), MAX_PAYLOAD));
    }
}
