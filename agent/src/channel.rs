//! Messages over a connection.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::Poll;

use crate::bitmap::PageSet;
use crate::net::{Connection, LinkError};
use crate::platform::{Gfn, Page, PageMask};
use crate::session::{PeerFault, SessionError};
use crate::wire::{Cause, Header, Kind, Message, Pages, Set};

/// The receiving half of a channel.
pub(crate) struct Inlet {
    connection: Rc<Connection>,
    kinds: &'static [Kind],
    body: Vec<u8>,
}

impl Inlet {
    /// Takes messages of these kinds; whatever else comes is refused before memory is spent on it.
    pub(crate) fn new(connection: Rc<Connection>, kinds: &'static [Kind]) -> Self {
        Self { connection, kinds, body: Vec::new() }
    }

    /// The next message. Its header has been checked before its body was read.
    pub(crate) async fn next(&mut self) -> Result<Message<'_>, SessionError> {
        let mut header = [0; Header::LEN];
        self.connection.read_exact(&mut header).await?;
        let header = Header::parse(&header)?;
        if !self.kinds.contains(&header.kind) {
            return Err(SessionError::Peer(PeerFault::OutOfTurn));
        }
        self.body.resize(header.length, 0);
        self.connection.read_exact(&mut self.body).await?;
        Ok(Message::parse(header.kind, &self.body)?)
    }
}

/// The sending half of a channel that one task sends on. When that task is dropped in the middle of a message, nothing
/// more can be said on the channel: the peer would take it for the message's end.
pub(crate) struct Outlet {
    connection: Rc<Connection>,
    scratch: Vec<u8>,
    torn: bool,
}

impl Outlet {
    pub(crate) fn new(connection: Rc<Connection>) -> Self {
        Self { connection, scratch: Vec::new(), torn: false }
    }

    /// The connection under it.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Sends a message that carries neither sets nor pages.
    pub(crate) async fn send(&mut self, message: Message<'_>) -> Result<(), SessionError> {
        self.begin()?;
        let kind = message.emit(&mut self.scratch);
        let length = self.scratch.len() - Header::LEN;
        self.front(kind, length).await?;
        self.end()
    }

    /// Sends the part of `set` in `first .. first + count`.
    pub(crate) async fn send_set(
        &mut self,
        kind: Kind,
        set: &PageSet,
        first: Gfn,
        count: u64,
    ) -> Result<(), SessionError> {
        self.begin()?;
        Set::emit(set, first, count, &mut self.scratch);
        let length = self.scratch.len() - Header::LEN;
        self.front(kind, length).await?;
        self.end()
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
        self.begin()?;
        batch.emit(&mut self.scratch);
        self.front(Kind::Pages, batch.body_len()).await?;
        let mut index = 0;
        while index < gfns.len() {
            let is_zero = |at: usize| zero >> at & 1 == 1;
            let run = (index..gfns.len()).take_while(|at| !is_zero(*at)).count();
            if run > 0 {
                self.connection.write_all(pages[index..index + run].as_flattened()).await?;
            }
            index += run.max(1);
        }
        self.end()
    }

    fn begin(&mut self) -> Result<(), SessionError> {
        if core::mem::replace(&mut self.torn, true) {
            return Err(LinkError::Lost.into());
        }
        self.scratch.clear();
        self.scratch.resize(Header::LEN, 0);
        Ok(())
    }

    /// Sends the header and what has been gathered.
    async fn front(&mut self, kind: Kind, length: usize) -> Result<(), SessionError> {
        self.scratch[..Header::LEN].copy_from_slice(&Header { kind, length }.emit());
        Ok(self.connection.write_all(&self.scratch).await?)
    }

    fn end(&mut self) -> Result<(), SessionError> {
        self.torn = false;
        Ok(())
    }
}

/// The sending half of a channel that several tasks share, for small messages. One that has been begun is finished before
/// the next begins, whatever becomes of the task that sent it.
pub(crate) struct SharedOutlet {
    connection: Rc<Connection>,
    /// What of the last message has not been handed over.
    rest: RefCell<Vec<u8>>,
}

impl SharedOutlet {
    pub(crate) fn new(connection: Rc<Connection>) -> Self {
        Self { connection, rest: RefCell::default() }
    }

    /// Sends a message that carries neither sets nor pages.
    pub(crate) async fn send(&self, message: Message<'_>) -> Result<(), SessionError> {
        self.flush().await?;
        {
            let rest = &mut *self.rest.borrow_mut();
            rest.resize(Header::LEN, 0);
            let kind = message.emit(rest);
            let length = rest.len() - Header::LEN;
            rest[..Header::LEN].copy_from_slice(&Header { kind, length }.emit());
        }
        Ok(self.flush().await?)
    }

    async fn flush(&self) -> Result<(), LinkError> {
        poll_fn(|_| {
            let rest = &mut *self.rest.borrow_mut();
            match self.connection.write_some(rest) {
                Ok(count) => {
                    rest.drain(..count);
                    if rest.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
                }
                Err(error) => Poll::Ready(Err(error)),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;
    use std::boxed::Box;

    use embassy_futures::join::join;
    use smoltcp::phy::{Loopback, Medium};

    use super::*;
    use crate::config::Config;
    use crate::net::{Buffers, Net};
    use crate::tasks::{SECOND, Timer, poll_once};

    /// Two ends of one connection that holds less than a long message.
    struct Pair {
        net: Rc<RefCell<Net>>,
        device: Loopback,
        ends: [Rc<Connection>; 2],
        clock: Rc<Cell<u64>>,
    }

    impl Pair {
        fn new() -> Self {
            let buffers = Buffers { receive: 256, send: 256 };
            let mut device = Loopback::new(Medium::Ethernet);
            let config = Config::from_command_line("ip=10.0.0.1/24", [2, 0, 0, 0, 0, 1], 0).unwrap();
            let net = Rc::new(RefCell::new(Net::new(&config, &mut device, 1, 0)));
            let clock = Rc::new(Cell::new(0));
            let time = clock.clone();
            let timer = Timer::new(move || time.get());
            let there = Rc::new(Connection::listen(&net, &timer, 7, buffers).unwrap());
            let peer = "10.0.0.1:7".parse().unwrap();
            let mut connecting = Box::pin(Connection::connect(&net, &timer, peer, buffers));
            let here = loop {
                if let Poll::Ready(here) = poll_once(&mut connecting) {
                    break Rc::new(here.unwrap());
                }
                net.borrow_mut().poll(&mut device, 0);
            };
            drop(connecting);
            let mut pair = Self { net, device, ends: [here, there.clone()], clock };
            pair.finish(there.accepted()).unwrap();
            pair
        }

        fn finish<T>(&mut self, future: impl Future<Output = T>) -> T {
            let mut future = Box::pin(future);
            for _ in 0..1000 {
                if let Poll::Ready(value) = poll_once(&mut future) {
                    return value;
                }
                self.net.borrow_mut().poll(&mut self.device, 0);
            }
            panic!("it does not end");
        }
    }

    #[test]
    fn a_message_whose_sender_was_dropped_is_finished_before_the_next() {
        let mut pair = Pair::new();
        let outlet = SharedOutlet::new(pair.ends[0].clone());
        let mut inlet = Inlet::new(pair.ends[1].clone(), &[Kind::Demand, Kind::Complete]);
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
        let mut pair = Pair::new();
        let header = Header { kind: Kind::State, length: Kind::State.limit() }.emit();
        assert_eq!(pair.ends[0].write_some(&header), Ok(Header::LEN));
        let mut inlet = Inlet::new(pair.ends[1].clone(), &[Kind::Hello]);
        assert_eq!(pair.finish(inlet.next()), Err(SessionError::Peer(PeerFault::OutOfTurn)));
        assert_eq!(inlet.body.capacity(), 0);
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up_in_time() {
        let pair = Pair::new();
        pair.ends[0].set_patience(Some(30 * SECOND));
        let mut outlet = Outlet::new(pair.ends[0].clone());
        let mut sending = Box::pin(outlet.send(Message::State(&[1; 5000])));
        for (now, ends) in [(1, false), (29, false), (31, true)] {
            pair.clock.set(now * SECOND);
            assert_eq!(poll_once(&mut sending).is_ready(), ends, "{now}");
        }
    }

    #[test]
    fn nothing_is_said_after_half_a_message() {
        let pair = Pair::new();
        let mut outlet = Outlet::new(pair.ends[0].clone());
        assert!(poll_once(Box::pin(outlet.send(Message::State(&[1; 600])))).is_pending());
        let said = poll_once(Box::pin(outlet.send(Message::Abort("too late"))));
        assert_eq!(said, Poll::Ready(Err(LinkError::Lost.into())));
    }
}
