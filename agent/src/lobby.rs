//! Where arriving connections meet the sessions that expect them.
//!
//! The agent listens only while a session waits for its peer. A caller is dropped, without a word, unless it names that
//! session, proves that this agent knows it, and says the same once more where nobody can change it. Until then it has
//! cost little: callers beyond a few make place for the next, those first that have said nothing, so that strangers who
//! hold their connections open keep nobody out.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::channel::Inlet;
use crate::config::Config;
use crate::control::SessionToken;
use crate::net::{Buffers, Connection, IN_FLIGHT_BULK, Net};
use crate::secure::handshake::{self, Entropy};
use crate::secure::{Link, Preamble, PublicKey, Security};
use crate::session::{PeerFault, Refusal, SessionError};
use crate::tasks::{SECOND, Task, Timer, poll_once};
use crate::wire::{Channel, Hello, Kind, Message, Purpose};

/// How long a caller may take to say who it is.
const INTRODUCTION: u64 = 5 * SECOND;
/// Callers that are listened to at once.
const CALLERS: usize = 5;
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
    purpose: Purpose,
    only: Option<PublicKey>,
    control: Option<(Hello, Link)>,
    bulk: Option<(Hello, Link)>,
    /// Why the last caller that named this session was turned away.
    turned_away: Option<Refusal>,
}

/// Both connections of a peer that called: to the same agent, and known to belong together.
pub(crate) struct Called {
    pub(crate) hello: Hello,
    /// Who called; nobody knows on plain connections.
    pub(crate) peer: Option<PublicKey>,
    pub(crate) control: Link,
    pub(crate) bulk: Link,
}

/// A place kept for a peer, until dropped.
pub(crate) struct Invitation {
    lobby: Rc<Lobby>,
    session: SessionToken,
}

impl Lobby {
    /// Expects a peer that knows `session`; any that this agent trusts, or the `only` one.
    pub(crate) fn expect(
        self: &Rc<Self>,
        session: SessionToken,
        purpose: Purpose,
        only: Option<PublicKey>,
    ) -> Invitation {
        let expected = Expected { session, purpose, only, control: None, bulk: None, turned_away: None };
        self.expected.borrow_mut().push(expected);
        Invitation { lobby: self.clone(), session }
    }

    fn is_waiting(&self) -> bool {
        self.expected.borrow().iter().any(|peer| !peer.is_complete())
    }

    /// Does `work` on who is expected for a session.
    fn find<T>(&self, session: SessionToken, work: impl FnOnce(&mut Expected) -> T) -> Option<T> {
        self.expected.borrow_mut().iter_mut().find(|peer| peer.session == session).map(work)
    }
}

impl Expected {
    fn is_complete(&self) -> bool {
        self.control.is_some() && self.bulk.is_some()
    }

    /// Gives a caller its seat. The last one keeps it: an agent that calls again has lost what it had.
    fn admit(&mut self, hello: Hello, link: Link) -> Result<(), SessionError> {
        if self.only.is_some() && link.peer() != self.only {
            return Err(SessionError::Refused(Refusal::UnknownPeer));
        }
        if hello.purpose != self.purpose {
            return Err(SessionError::Peer(PeerFault::OutOfTurn));
        }
        match hello.channel {
            Channel::Control => self.control = Some((hello, link)),
            Channel::Bulk => self.bulk = Some((hello, link)),
        }
        let belong = match (&self.control, &self.bulk) {
            (Some((_, control)), Some((hello, bulk))) => {
                hello.binding == control.binding() && bulk.peer() == control.peer()
            }
            _ => true,
        };
        if belong {
            return Ok(());
        }
        self.bulk = None;
        Err(SessionError::Peer(PeerFault::Unbound))
    }
}

impl Invitation {
    /// The session that it is for.
    pub(crate) fn session(&self) -> SessionToken {
        self.session
    }

    /// From here on only the same peer may call, and only because the agents have lost each other.
    pub(crate) fn expect_again(&self, only: Option<PublicKey>) {
        self.lobby.find(self.session, |peer| (peer.purpose, peer.only) = (Purpose::Recover, only));
    }

    /// Waits until the peer has called twice.
    pub(crate) async fn answered(&self, timer: &Timer) -> Called {
        let take = |peer: &mut Expected| {
            if !peer.is_complete() {
                return None;
            }
            let ((hello, control), (_, bulk)) = (peer.control.take()?, peer.bulk.take()?);
            Some(Called { hello, peer: control.peer(), control, bulk })
        };
        timer.wait_for(|| self.lobby.find(self.session, take).flatten()).await
    }

    /// Waits until the peer has called twice, and leaves it waiting.
    pub(crate) async fn asked(&self, timer: &Timer) {
        timer.wait_for(|| self.lobby.find(self.session, |peer| peer.is_complete()).filter(|called| *called)).await;
    }

    /// Why the last caller that named the session was turned away, if one was.
    pub(crate) fn turned_away(&self) -> Option<Refusal> {
        self.lobby.find(self.session, |peer| peer.turned_away).flatten()
    }
}

impl Drop for Invitation {
    fn drop(&mut self) {
        self.lobby.expected.borrow_mut().retain(|peer| peer.session != self.session);
    }
}

/// Listens while somebody is expected.
pub(crate) struct Door {
    ear: Rc<Ear>,
    callers: Vec<Caller>,
}

/// What it takes to hear a caller.
struct Ear {
    net: Rc<RefCell<Net>>,
    timer: Timer,
    lobby: Rc<Lobby>,
    config: Rc<Config>,
    entropy: Box<dyn Fn() -> Entropy>,
}

/// Somebody who may call, or has.
struct Caller {
    task: Task,
    manners: Rc<Cell<Manners>>,
}

/// How far a caller has come. The further, the later it makes place for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Manners {
    /// It is only a packet, or a connection on which nothing came.
    Silent,
    /// It has named a session that is expected.
    Introduced,
    /// Nobody has called yet.
    Awaited,
}

impl Door {
    pub(crate) fn new(
        net: Rc<RefCell<Net>>,
        timer: Timer,
        lobby: Rc<Lobby>,
        config: Rc<Config>,
        entropy: impl Fn() -> Entropy + 'static,
    ) -> Self {
        Self { ear: Rc::new(Ear { net, timer, lobby, config, entropy: Box::new(entropy) }), callers: Vec::new() }
    }

    /// Takes a turn.
    pub(crate) fn poll(&mut self) {
        if !self.ear.lobby.is_waiting() {
            self.callers.clear();
            return;
        }
        self.callers.retain_mut(|caller| poll_once(&mut caller.task).is_pending());
        let awaited = self.callers.iter().any(|caller| caller.manners.get() == Manners::Awaited);
        if !awaited && self.callers.len() == CALLERS {
            let last = self.callers.iter().enumerate().min_by_key(|(_, caller)| caller.manners.get());
            let last = last.map_or(0, |(index, _)| index);
            self.callers.remove(last);
        }
        while self.callers.len() < CALLERS {
            let manners = Rc::new(Cell::new(Manners::Awaited));
            let mut task: Task = Box::pin(hear(self.ear.clone(), manners.clone()));
            if poll_once(&mut task).is_ready() {
                return;
            }
            self.callers.push(Caller { task, manners });
        }
    }
}

/// Waits for one caller and lets it say who it is.
async fn hear(ear: Rc<Ear>, manners: Rc<Cell<Manners>>) {
    let Ok(connection) = Connection::listen(&ear.net, &ear.timer, ear.config.port, BUFFERS) else { return };
    connection.approached().await;
    manners.set(Manners::Silent);
    ear.timer.nudge();
    match ear.timer.within(INTRODUCTION, introduce(&ear, connection, &manners)).await {
        Some(Ok(())) => {}
        Some(Err(error)) => log::warn!("a caller was turned away: {error}"),
        None => log::warn!("a caller was turned away: it did not say who it is"),
    }
    ear.timer.nudge();
}

/// Lets a caller say who it is.
async fn introduce(ear: &Ear, connection: Connection, manners: &Cell<Manners>) -> Result<(), SessionError> {
    connection.accepted().await?;
    let mut preamble = [0; Preamble::LEN];
    connection.read_exact(&mut preamble).await?;
    let preamble = Preamble::parse(&preamble).ok_or(SessionError::Peer(PeerFault::Stranger))?;
    let expected = ear.lobby.find(preamble.session, |_| ()).is_some();
    if !expected {
        return Err(SessionError::Peer(PeerFault::Stranger));
    }
    manners.set(Manners::Introduced);
    let admitted = admit(ear, connection, preamble).await;
    if let Err(SessionError::Refused(refusal)) = admitted {
        ear.lobby.find(preamble.session, |peer| peer.turned_away = Some(refusal));
    }
    admitted
}

/// Lets a caller that has named a session prove who it is.
async fn admit(ear: &Ear, connection: Connection, preamble: Preamble) -> Result<(), SessionError> {
    let link = match &ear.config.security {
        security if security.protection() != preamble.protection => {
            return Err(SessionError::Refused(Refusal::protection(preamble.protection)));
        }
        Security::Plain => Link::plain(connection),
        Security::Sealed(identity) => handshake::answer(connection, identity, preamble, (ear.entropy)()).await?,
    };
    let mut inlet = Inlet::new(link.clone(), &[Kind::Hello]);
    let Message::Hello(hello) = inlet.next().await? else { return Err(SessionError::Peer(PeerFault::OutOfTurn)) };
    if hello.session != preamble.session || hello.channel != preamble.channel {
        return Err(SessionError::Peer(PeerFault::Unbound));
    }
    link.connection().linger();
    let admitted = ear.lobby.find(preamble.session, |peer| peer.admit(hello, link));
    admitted.unwrap_or(Err(SessionError::Peer(PeerFault::Stranger)))
}
