//! Datagrams beside the connections: one UDP port for all sessions of an agent.
//!
//! A datagram starts with its session's token (16 bytes) and a counter (8), both in clear: the one says whose it is, the
//! other is what it was sealed with. Whatever is nobody's, too long, not sealed by the peer, or was here before, is dropped
//! and counted; nothing is ever answered that has not been opened. Datagrams may be lost, doubled or overtake each other.

use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::SocketAddrV4;

use crate::control::SessionToken;
use crate::net::Net;
use crate::secure::datagram::Datagrams;
use crate::secure::record::TAG;
use crate::tasks::Timer;
use crate::wire::{RESCUE_LIMIT, Rescue};

/// Token and counter.
const FRONT: usize = 16 + 8;
/// Most bytes of a datagram.
pub(crate) const LONGEST: usize = FRONT + RESCUE_LIMIT + TAG;
/// Datagrams that a session may have unread.
const UNREAD: usize = 96;
/// What they may take.
pub(crate) const MEMORY: usize = UNREAD * LONGEST;

/// The port, and who has a mailbox behind it.
pub(crate) struct Post {
    net: Rc<RefCell<Net>>,
    timer: Timer,
    port: u16,
    mailboxes: RefCell<Vec<Weak<Mailbox>>>,
    /// Datagrams that were nobody's.
    stray: Cell<u64>,
}

struct Mailbox {
    session: SessionToken,
    unread: RefCell<heapless::Deque<Letter, UNREAD>>,
}

struct Letter {
    from: SocketAddrV4,
    counter: u64,
    body: Vec<u8>,
}

impl Post {
    pub(crate) fn new(net: Rc<RefCell<Net>>, timer: Timer, port: u16) -> Self {
        Self { net, timer, port, mailboxes: RefCell::default(), stray: Cell::new(0) }
    }

    /// Opens a session's line to the agent at `peer`, until it is dropped.
    pub(crate) fn line(self: &Rc<Self>, session: SessionToken, sealing: Datagrams, peer: SocketAddrV4) -> Line {
        let mailbox = Rc::new(Mailbox { session, unread: RefCell::default() });
        self.mailboxes.borrow_mut().push(Rc::downgrade(&mailbox));
        self.net.borrow_mut().open_datagrams(self.port);
        Line { post: self.clone(), mailbox, sealing, peer, scratch: Vec::new(), refused: 0 }
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
        let find = |token: &[u8; 16]| {
            mailboxes.iter().rev().filter_map(Weak::upgrade).find(|mailbox| mailbox.session.0 == *token)
        };
        while let Some(()) = net.receive_datagram(|from, bytes| {
            let letter = split(bytes).and_then(|(token, counter, body)| {
                let mailbox = find(token)?;
                // One that overflows is lost like any other.
                let _ = mailbox.unread.borrow_mut().push_back(Letter { from, counter, body: body.to_vec() });
                Some(())
            });
            if letter.is_none() {
                self.stray.set(self.stray.get() + 1);
            }
        }) {}
    }
}

fn split(datagram: &[u8]) -> Option<(&[u8; 16], u64, &[u8])> {
    if datagram.len() > LONGEST {
        return None;
    }
    let (token, rest) = datagram.split_first_chunk()?;
    let (counter, body) = rest.split_first_chunk()?;
    Some((token, u64::from_le_bytes(*counter), body))
}

/// A session's line to the other agent.
pub(crate) struct Line {
    post: Rc<Post>,
    mailbox: Rc<Mailbox>,
    sealing: Datagrams,
    peer: SocketAddrV4,
    scratch: Vec<u8>,
    /// Datagrams that were not the peer's, or made no sense.
    pub(crate) refused: u64,
}

impl Line {
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
        let Some(Letter { from, counter, mut body }) = self.mailbox.unread.borrow_mut().pop_front() else {
            return false;
        };
        let at_home = from.ip() == self.peer.ip();
        let opened = if at_home { self.sealing.open(counter, &self.mailbox.session.0, &mut body) } else { None };
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
        let Self { post, mailbox, sealing, scratch, .. } = self;
        scratch.clear();
        rescue.emit(scratch);
        let counter = sealing.seal(&mailbox.session.0, scratch);
        let mut front = [0; FRONT];
        front[..16].copy_from_slice(&mailbox.session.0);
        front[16..].copy_from_slice(&counter.to_le_bytes());
        post.timer.nudge();
        post.net.borrow_mut().send_datagram(to, [&front, scratch])
    }
}
