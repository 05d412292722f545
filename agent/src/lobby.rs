//! Where arriving connections meet the sessions that expect them.
//!
//! The agent listens only while a session waits for its peer, and a caller is dropped unless its first message names
//! that session.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::channel::Inlet;
use crate::control::SessionToken;
use crate::net::{Buffers, Connection, IN_FLIGHT_BULK, Net};
use crate::tasks::{SECOND, Task, Timer, poll_once};
use crate::wire::{Channel, Hello, Kind, Message};

/// How long a caller may take to say who it is.
const INTRODUCTION: u64 = 5 * SECOND;
/// Callers that are listened to at once.
const CALLERS: usize = 3;
/// The source sends much and is told little.
pub(crate) const BUFFERS: Buffers = Buffers { receive: 64 << 10, send: IN_FLIGHT_BULK };
/// What listening may take.
pub(crate) const MEMORY: usize = CALLERS * BUFFERS.size();

/// Who is expected.
#[derive(Default)]
pub(crate) struct Lobby {
    expected: RefCell<Vec<Expected>>,
}

struct Expected {
    session: SessionToken,
    control: Option<(Hello, Rc<Connection>)>,
    bulk: Option<(Hello, Rc<Connection>)>,
}

/// Both connections of a peer that called.
pub(crate) struct Called {
    pub(crate) hello: Hello,
    pub(crate) control: Rc<Connection>,
    pub(crate) bulk: Rc<Connection>,
}

/// A place kept for a peer, until dropped.
pub(crate) struct Invitation {
    lobby: Rc<Lobby>,
    session: SessionToken,
}

impl Lobby {
    /// Expects a peer that knows `session`.
    pub(crate) fn expect(self: &Rc<Self>, session: SessionToken) -> Invitation {
        self.expected.borrow_mut().push(Expected { session, control: None, bulk: None });
        Invitation { lobby: self.clone(), session }
    }

    fn is_waiting(&self) -> bool {
        self.expected.borrow().iter().any(|peer| peer.control.is_none() || peer.bulk.is_none())
    }

    fn admit(&self, hello: Hello, connection: Rc<Connection>) {
        let mut expected = self.expected.borrow_mut();
        let Some(peer) = expected.iter_mut().find(|peer| peer.session == hello.session) else {
            log::warn!("a caller named a session that nobody expects");
            return;
        };
        let seat = match hello.channel {
            Channel::Control => &mut peer.control,
            Channel::Bulk => &mut peer.bulk,
        };
        if seat.is_none() {
            *seat = Some((hello, connection));
        }
    }
}

impl Invitation {
    /// Waits until the peer has called twice.
    pub(crate) async fn answered(&self, timer: &Timer) -> Called {
        timer
            .wait_for(|| {
                let mut expected = self.lobby.expected.borrow_mut();
                let peer = expected.iter_mut().find(|peer| peer.session == self.session)?;
                if peer.control.is_none() || peer.bulk.is_none() {
                    return None;
                }
                let ((hello, control), (_, bulk)) = (peer.control.take()?, peer.bulk.take()?);
                Some(Called { hello, control, bulk })
            })
            .await
    }
}

impl Drop for Invitation {
    fn drop(&mut self) {
        self.lobby.expected.borrow_mut().retain(|peer| peer.session != self.session);
    }
}

/// Listens while somebody is expected.
pub(crate) struct Door {
    net: Rc<RefCell<Net>>,
    timer: Timer,
    lobby: Rc<Lobby>,
    port: u16,
    callers: Vec<Task>,
}

impl Door {
    pub(crate) fn new(net: Rc<RefCell<Net>>, timer: Timer, lobby: Rc<Lobby>, port: u16) -> Self {
        Self { net, timer, lobby, port, callers: Vec::new() }
    }

    /// Takes a turn.
    pub(crate) fn poll(&mut self) {
        if !self.lobby.is_waiting() {
            self.callers.clear();
            return;
        }
        while self.callers.len() < CALLERS {
            let caller = hear(self.net.clone(), self.timer.clone(), self.lobby.clone(), self.port);
            self.callers.push(Box::pin(caller));
        }
        self.callers.retain_mut(|caller| poll_once(caller).is_pending());
    }
}

/// Waits for one caller and lets it say who it is.
async fn hear(net: Rc<RefCell<Net>>, timer: Timer, lobby: Rc<Lobby>, port: u16) {
    let Ok(connection) = Connection::listen(&net, &timer, port, BUFFERS) else { return };
    if connection.accepted().await.is_err() {
        return;
    }
    let connection = Rc::new(connection);
    let mut inlet = Inlet::new(connection.clone(), &[Kind::Hello]);
    match timer.within(INTRODUCTION, inlet.next()).await {
        Some(Ok(Message::Hello(hello))) => lobby.admit(hello, connection),
        Some(Ok(_)) => log::warn!("a caller did not say who it is"),
        Some(Err(error)) => log::warn!("a caller was not understood: {error}"),
        None => log::warn!("a caller said nothing"),
    }
    timer.nudge();
}
