//! Datagrams beside the connections: one UDP port for all sessions of an agent.
//!
//! A datagram starts with its session's name (16 bytes) and a counter (8), both in clear: the one says whose it is, the
//! other is what it was sealed with. Whatever is nobody's, too long, not sealed by the peer, or was here before, is dropped
//! and counted; nothing is ever answered that has not been opened. Datagrams may be lost, doubled or overtake each other.

use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::SocketAddrV4;

use common::control::SessionToken;

use crate::net::Net;
use crate::secure::SessionName;
use crate::secure::datagram::Datagrams;
use crate::secure::record::TAG;
use crate::tasks::Timer;
use crate::wire::{RESCUE_LIMIT, Rescue};

/// Name and counter.
const FRONT: usize = 16 + 8;
/// Most bytes of a datagram.
pub(crate) const LONGEST: usize = FRONT + RESCUE_LIMIT + TAG;
/// Datagrams that a session may have unread.
const UNREAD: usize = 96;
/// What they may take.
pub(crate) const MEMORY: usize = UNREAD * LONGEST;

/// The port, and who has a mailbox behind it.
pub(crate) struct DatagramPort {
    net: Rc<RefCell<Net>>,
    timer: Timer,
    port: u16,
    mailboxes: RefCell<Vec<Weak<Mailbox>>>,
    /// Datagrams that were nobody's.
    stray: Cell<u64>,
}

/// An end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Target,
}

struct Mailbox {
    /// What stands on a datagram that is for it.
    name: SessionName,
    unread: RefCell<heapless::Deque<Datagram, UNREAD>>,
}

struct Datagram {
    from: SocketAddrV4,
    counter: u64,
    body: Vec<u8>,
}

impl DatagramPort {
    pub(crate) fn new(net: Rc<RefCell<Net>>, timer: Timer, port: u16) -> Self {
        Self { net, timer, port, mailboxes: RefCell::default(), stray: Cell::new(0) }
    }

    /// Opens the socket of this end of a session to the agent at `peer`, until it is dropped.
    pub(crate) fn open(
        self: &Rc<Self>,
        session: SessionToken,
        end: End,
        sealing: Datagrams,
        peer: SocketAddrV4,
    ) -> DatagramSocket {
        let net = &mut *self.net.borrow_mut();
        net.open_datagrams(self.port);
        let session = SessionName::of(session);
        // Two ends in one agent have one port, and need two names.
        let other = SessionName(session.0.map(|byte| !byte));
        let (name, to) = match end {
            _ if net.address() != Some(*peer.ip()) => (session, session),
            End::Source => (session, other),
            End::Target => (other, session),
        };
        let mailbox = Rc::new(Mailbox { name, unread: RefCell::default() });
        self.mailboxes.borrow_mut().push(Rc::downgrade(&mailbox));
        DatagramSocket { datagram_port: self.clone(), mailbox, to, sealing, peer, scratch: Vec::new(), refused: 0 }
    }

    /// Takes a turn: sorts what has come.
    pub(crate) fn poll(&self) {
        let mut mailboxes = self.mailboxes.borrow_mut();
        if mailboxes.is_empty() {
            return;
        }
        mailboxes.retain(|mailbox| mailbox.strong_count() > 0);
        let mut net = self.net.borrow_mut();
        if mailboxes.is_empty() {
            net.close_datagrams();
            let stray = self.stray.take();
            if stray > 0 {
                log::warn!("{stray} datagrams were for nobody here");
            }
            return;
        }
        // A session that a peer called for again has two for a moment: the newer one counts.
        let find =
            |name: &[u8; 16]| mailboxes.iter().rev().filter_map(Weak::upgrade).find(|mailbox| mailbox.name.0 == *name);
        while let Some(()) = net.receive_datagram(|from, bytes| {
            let datagram = split(bytes).and_then(|(name, counter, body)| {
                let mailbox = find(name)?;
                // One that overflows is lost like any other.
                let _ = mailbox.unread.borrow_mut().push_back(Datagram { from, counter, body: body.to_vec() });
                Some(())
            });
            if datagram.is_none() {
                self.stray.set(self.stray.get() + 1);
            }
        }) {}
    }
}

fn split(datagram: &[u8]) -> Option<(&[u8; 16], u64, &[u8])> {
    if datagram.len() > LONGEST {
        return None;
    }
    let (name, rest) = datagram.split_first_chunk()?;
    let (counter, body) = rest.split_first_chunk()?;
    Some((name, u64::from_le_bytes(*counter), body))
}

/// A session's socket to the other agent.
pub(crate) struct DatagramSocket {
    datagram_port: Rc<DatagramPort>,
    mailbox: Rc<Mailbox>,
    /// What stands on a datagram for the other end.
    to: SessionName,
    sealing: Datagrams,
    peer: SocketAddrV4,
    scratch: Vec<u8>,
    /// Datagrams that were not the peer's, or made no sense.
    pub(crate) refused: u64,
}

impl DatagramSocket {
    /// Where the peer's agent listens.
    pub(crate) fn peer(&self) -> SocketAddrV4 {
        self.peer
    }

    /// Whether anything has come.
    pub(crate) fn has_mail(&self) -> bool {
        !self.mailbox.unread.borrow().is_empty()
    }

    /// Takes one datagram; whether there was one. `read` gets it if it is the peer's and makes sense.
    pub(crate) fn receive(&mut self, read: impl FnOnce(&mut Self, SocketAddrV4, Rescue<'_>)) -> bool {
        let Some(Datagram { from, counter, mut body }) = self.mailbox.unread.borrow_mut().pop_front() else {
            return false;
        };
        let at_home = from.ip() == self.peer.ip();
        let opened = if at_home { self.sealing.open(counter, &self.mailbox.name.0, &mut body) } else { None };
        match opened.and_then(|body| Rescue::parse(body).ok()) {
            Some(rescue) => read(self, from, rescue),
            None => self.refused += 1,
        }
        true
    }

    /// Sends to where the peer's agent listens.
    pub(crate) fn send(&mut self, rescue: &Rescue<'_>) -> bool {
        self.send_to(self.peer, rescue)
    }

    /// Sends, if there is room; whether there was.
    pub(crate) fn send_to(&mut self, to: SocketAddrV4, rescue: &Rescue<'_>) -> bool {
        let Self { datagram_port, to: name, sealing, scratch, .. } = self;
        scratch.clear();
        rescue.emit(scratch);
        let counter = sealing.seal(&name.0, scratch);
        let mut front = [0; FRONT];
        front[..16].copy_from_slice(&name.0);
        front[16..].copy_from_slice(&counter.to_le_bytes());
        datagram_port.timer.nudge();
        datagram_port.net.borrow_mut().send_datagram(to, [&front, scratch])
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::secure::{Link, Preamble, Protection};
    use crate::testing::Pair;
    use crate::wire::ConnectionRole;
    use common::Gfn;

    const HOME: &str = "10.0.0.1:7077";
    const SESSION: SessionToken = SessionToken([9; 16]);

    /// What the agent at the other end of `link` sends, as bytes.
    fn sealed(link: &Link, session: SessionToken, rescue: &Rescue<'_>) -> Vec<u8> {
        let (mut body, name) = (Vec::new(), SessionName::of(session));
        rescue.emit(&mut body);
        let counter = link.datagrams().seal(&name.0, &mut body);
        [&name.0[..], &counter.to_le_bytes(), &body].concat()
    }

    /// Lets what was sent leave, and then arrive.
    fn deliver(pair: &mut Pair) {
        let timer = pair.timer.clone();
        pair.finish(async {
            timer.yield_now().await;
            timer.yield_now().await;
        });
    }

    /// Sends datagrams to the port, and says which of them the session reads, by their stamps.
    fn read(
        pair: &mut Pair,
        datagram_port: &DatagramPort,
        socket: &mut DatagramSocket,
        datagrams: &[&[u8]],
    ) -> Vec<u64> {
        let home = HOME.parse().unwrap();
        for datagram in datagrams {
            assert!(pair.net.borrow_mut().send_datagram(home, [datagram, &[]]));
        }
        deliver(pair);
        datagram_port.poll();
        let mut stamps = Vec::new();
        while socket.receive(|_, from, rescue| match rescue {
            Rescue::Probe(stamp) if from == home => stamps.push(stamp),
            other => panic!("{other:?} from {from}"),
        }) {}
        stamps
    }

    #[test]
    fn only_what_the_peer_sent_to_this_session_is_read_and_only_once() {
        let mut pair = Pair::new();
        let preamble = Preamble {
            protection: Protection::Sealed,
            role: ConnectionRole::Control,
            session: SessionName::of(SESSION),
        };
        let wire = pair.wire();
        let ([there, here], _) = pair.shake_hands(wire, preamble);
        let datagram_port = Rc::new(DatagramPort::new(pair.net.clone(), pair.timer.clone(), 7077));
        let mut socket = datagram_port.open(SESSION, End::Source, here.datagrams(), HOME.parse().unwrap());

        let genuine: Vec<Vec<u8>> = (0..3).map(|stamp| sealed(&there, SESSION, &Rescue::Probe(stamp))).collect();
        // Out of order, and one twice.
        let sent = [&genuine[1][..], &genuine[0], &genuine[1]];
        assert_eq!(read(&mut pair, &datagram_port, &mut socket, &sent), [1, 0]);
        assert_eq!(socket.refused, 1);

        let mut changed = genuine[2].clone();
        *changed.last_mut().unwrap() ^= 1;
        let mut renumbered = genuine[2].clone();
        renumbered[16] ^= 8;
        let reflected = sealed(&here, SESSION, &Rescue::Probe(7));
        let short = &genuine[2][..30];
        assert_eq!(read(&mut pair, &datagram_port, &mut socket, &[&changed, &renumbered, &reflected, short]), []);
        assert_eq!((socket.refused, datagram_port.stray.get()), (5, 0));

        let strange = sealed(&there, SessionToken([8; 16]), &Rescue::Probe(7));
        let long = vec![9; LONGEST + 1];
        assert_eq!(read(&mut pair, &datagram_port, &mut socket, &[&strange, &long, &[9; 20], &[]]), []);
        assert_eq!((socket.refused, datagram_port.stray.get()), (5, 4));

        // None of this was in the way of what is genuine.
        assert_eq!(read(&mut pair, &datagram_port, &mut socket, &[&genuine[2]]), [2]);
    }

    #[test]
    fn both_ends_in_one_agent_hear_each_other_and_not_themselves() {
        let (mut pair, [there, here]) = Pair::plain();
        let datagram_port = Rc::new(DatagramPort::new(pair.net.clone(), pair.timer.clone(), 7077));
        let [mut source, mut target] = [(End::Source, &here), (End::Target, &there)]
            .map(|(end, link)| datagram_port.open(SESSION, end, link.datagrams(), HOME.parse().unwrap()));
        assert!(target.send(&Rescue::Probe(5)));
        deliver(&mut pair);
        datagram_port.poll();
        assert!(!target.has_mail());
        let mut heard = None;
        assert!(source.receive(|_, from, rescue| heard = Some((from, rescue == Rescue::Probe(5)))));
        let (from, is_probe) = heard.unwrap();
        assert!(is_probe && source.send_to(from, &Rescue::Echo(5)));
        deliver(&mut pair);
        datagram_port.poll();
        assert!(!source.has_mail() && target.receive(|_, _, rescue| assert_eq!(rescue, Rescue::Echo(5))));
        assert_eq!((source.refused, target.refused), (0, 0));
    }

    #[test]
    fn who_is_not_where_the_peer_is_is_not_read() {
        let (mut pair, [there, here]) = Pair::plain();
        let datagram_port = Rc::new(DatagramPort::new(pair.net.clone(), pair.timer.clone(), 7077));
        let mut socket = datagram_port.open(SESSION, End::Source, here.datagrams(), "10.0.0.2:7077".parse().unwrap());
        let datagram = sealed(&there, SESSION, &Rescue::Probe(1));
        assert_eq!(read(&mut pair, &datagram_port, &mut socket, &[&datagram]), []);
        assert_eq!(socket.refused, 1);
    }

    #[test]
    fn a_flood_costs_no_more_than_a_mailbox() {
        let (mut pair, [there, here]) = Pair::plain();
        let datagram_port = Rc::new(DatagramPort::new(pair.net.clone(), pair.timer.clone(), 7077));
        let mut socket = datagram_port.open(SESSION, End::Source, here.datagrams(), HOME.parse().unwrap());
        for _ in 0..10 {
            let piece = Rescue::Piece { gfn: Gfn(1), index: 0, bytes: &[1; crate::wire::PIECE] };
            let flood: Vec<Vec<u8>> = (0..30).map(|_| sealed(&there, SESSION, &piece)).collect();
            for datagram in &flood {
                pair.net.borrow_mut().send_datagram(HOME.parse().unwrap(), [datagram, &[]]);
            }
            deliver(&mut pair);
            datagram_port.poll();
        }
        let mut unread = 0;
        while socket.receive(|_, _, _| ()) {
            unread += 1;
        }
        assert_eq!(unread, UNREAD);
        drop(socket);
        datagram_port.poll();
        assert!(datagram_port.mailboxes.borrow().is_empty());
    }
}
