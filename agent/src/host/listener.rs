//! Where arriving connections meet the sessions that expect them.
//!
//! The agent listens only while a session waits for its peer. A caller is dropped, without a word, unless it names that
//! session, proves that this agent knows it, and shows the session's token where nobody else can read it. Until then it has
//! cost little: callers beyond a few make place for the next, those first that have said nothing, so that strangers who
//! hold their connections open keep nobody out. One host's callers make place for each other before anybody else's do.
//!
//! The first agent that shows the token is the one that the session is with. If another one shows it, one of them is not
//! meant, and nobody here can tell which.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::cmp::Reverse;
use core::net::Ipv4Addr;

use common::PublicKey;
use common::control::SessionToken;

use crate::config::Config;
use crate::error::{NoPreamble, PeerFault, Refusal, SessionError};
use crate::limits::{INTRODUCTION_WAIT, REPORT_EVERY};
use crate::messages::Inlet;
use crate::net::{Buffers, Connection, IN_FLIGHT_BULK, Net};
use crate::secure::handshake::{self, Entropy};
use crate::secure::{Link, Preamble, Security, SessionName};
use crate::tasks::{Instant, Task, Timer, poll_once};
use crate::wire::{ConnectionRole, Hello, Kind, Message, Purpose};

/// Callers that are listened to at once, and how many of those places are kept free.
const CALLERS: usize = 5;
const FREE: usize = 2;
/// The source sends much and is told little.
pub(crate) const BUFFERS: Buffers = Buffers { receive: 64 << 10, send: IN_FLIGHT_BULK };
/// What listening may take.
pub(crate) const MEMORY: usize = CALLERS * BUFFERS.size();

/// Sessions that wait for their peer.
#[derive(Default)]
pub(crate) struct PendingSessions {
    expected: RefCell<Vec<Expected>>,
}

struct Expected {
    session: SessionToken,
    name: SessionName,
    purpose: Purpose,
    /// Whom it is with, once that is known.
    only: Option<PublicKey>,
    /// Somebody else has shown its token.
    contested: bool,
    control: Option<(Hello, Link)>,
    bulk: Option<(Hello, Link)>,
    /// A peer has said that it will call later.
    postponed: bool,
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
    pending: Rc<PendingSessions>,
    session: SessionToken,
}

impl PendingSessions {
    /// Expects a peer that knows `session`; any that this agent trusts, or the `only` one.
    pub(crate) fn expect(
        self: &Rc<Self>,
        session: SessionToken,
        purpose: Purpose,
        only: Option<PublicKey>,
    ) -> Invitation {
        let name = SessionName::of(session);
        let (contested, control, bulk, postponed, turned_away) = Default::default();
        let expected = Expected { session, name, purpose, only, contested, control, bulk, postponed, turned_away };
        self.expected.borrow_mut().push(expected);
        Invitation { pending: self.clone(), session }
    }

    fn is_waiting(&self) -> bool {
        self.expected.borrow().iter().any(|peer| !peer.is_complete())
    }

    /// Does `work` on who is expected for a session.
    fn find<T>(&self, session: SessionToken, work: impl FnOnce(&mut Expected) -> T) -> Option<T> {
        self.find_by(|peer| peer.session == session, work)
    }

    /// The same, for a caller that has only named it.
    fn find_named<T>(&self, name: SessionName, work: impl FnOnce(&mut Expected) -> T) -> Option<T> {
        self.find_by(|peer| peer.name == name, work)
    }

    fn find_by<T>(&self, is: impl Fn(&Expected) -> bool, work: impl FnOnce(&mut Expected) -> T) -> Option<T> {
        self.expected.borrow_mut().iter_mut().find(|peer| is(peer)).map(work)
    }
}

impl Expected {
    fn is_complete(&self) -> bool {
        self.control.is_some() && self.bulk.is_some()
    }

    /// Takes a caller as one of the two connections. An agent that calls again has lost what it had.
    fn admit(&mut self, hello: Hello, link: Link) -> Result<(), SessionError> {
        if hello.session != self.session {
            return Err(SessionError::Peer(PeerFault::Unbound));
        }
        if self.only.is_some() && link.peer() != self.only {
            self.contested = true;
            return Err(SessionError::Refused(Refusal::Contested));
        }
        let postpones = (hello.purpose, self.purpose) == (Purpose::Postpone, Purpose::Begin);
        if hello.purpose != self.purpose && !postpones {
            return Err(SessionError::Peer(PeerFault::OutOfTurn));
        }
        self.only = link.peer();
        if postpones {
            self.postponed = true;
            return Ok(());
        }
        match (hello.role, &self.control) {
            (ConnectionRole::Control, _) => (self.control, self.bulk) = (Some((hello, link)), None),
            (ConnectionRole::Bulk, Some((_, control))) if control.binding() == hello.binding => {
                self.bulk = Some((hello, link));
            }
            (ConnectionRole::Bulk, _) => return Err(SessionError::Peer(PeerFault::Unbound)),
        }
        Ok(())
    }
}

impl Invitation {
    /// The session that it is for.
    pub(crate) fn session(&self) -> SessionToken {
        self.session
    }

    /// From here on the peer may call only because the agents have lost each other.
    pub(crate) fn expect_again(&self) {
        self.pending.find(self.session, |peer| peer.purpose = Purpose::Recover);
    }

    /// Waits until an agent calls that knows the token as well, and is not the one that the session is with.
    pub(crate) async fn contested(&self, timer: &Timer) {
        timer.wait_for(|| self.pending.find(self.session, |peer| peer.contested).filter(|contested| *contested)).await;
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
        timer.wait_for(|| self.pending.find(self.session, take).flatten()).await
    }

    /// Waits until the peer says that it will call later.
    pub(crate) async fn postponed(&self, timer: &Timer) {
        let take = |peer: &mut Expected| core::mem::take(&mut peer.postponed).then_some(());
        timer.wait_for(|| self.pending.find(self.session, take).flatten()).await;
    }

    /// Waits until the peer has called twice, and leaves it waiting.
    pub(crate) async fn asked(&self, timer: &Timer) {
        timer.wait_for(|| self.pending.find(self.session, |peer| peer.is_complete()).filter(|called| *called)).await;
    }

    /// Why the last caller that named the session was turned away, if one was.
    pub(crate) fn turned_away(&self) -> Option<Refusal> {
        self.pending.find(self.session, |peer| peer.turned_away).flatten()
    }
}

impl Drop for Invitation {
    fn drop(&mut self) {
        self.pending.expected.borrow_mut().retain(|peer| peer.session != self.session);
    }
}

/// Listens while somebody is expected.
pub(crate) struct Listener {
    acceptor: Rc<Acceptor>,
    callers: Vec<Caller>,
}

/// What it takes to accept a caller.
struct Acceptor {
    net: Rc<RefCell<Net>>,
    timer: Timer,
    pending: Rc<PendingSessions>,
    config: Rc<Config>,
    entropy: Box<dyn Fn() -> Entropy>,
    /// When the next caller that is turned away will be reported.
    report_at: Cell<Instant>,
    /// Callers so far.
    arrivals: Cell<u64>,
}

/// Somebody who may call, or has.
struct Caller {
    task: Task,
    state: Rc<CallerState>,
}

/// What is known of a caller.
struct CallerState {
    stage: Cell<CallerStage>,
    address: Cell<Ipv4Addr>,
}

/// How far a caller has come, and its number in the order of their arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CallerStage {
    /// It is only a packet, or a connection on which nothing came.
    Silent(u64),
    /// It has named a session that is expected.
    Introduced(u64),
    /// Nobody has called yet.
    Awaited,
}

impl Listener {
    pub(crate) fn new(
        net: Rc<RefCell<Net>>,
        timer: Timer,
        pending: Rc<PendingSessions>,
        config: Rc<Config>,
        entropy: impl Fn() -> Entropy + 'static,
    ) -> Self {
        let (entropy, report_at, arrivals) = (Box::new(entropy), Cell::default(), Cell::default());
        Self {
            acceptor: Rc::new(Acceptor { net, timer, pending, config, entropy, report_at, arrivals }),
            callers: Vec::new(),
        }
    }

    /// Takes a turn.
    pub(crate) fn poll(&mut self) {
        if !self.acceptor.pending.is_waiting() {
            self.callers.clear();
            return;
        }
        self.callers.retain_mut(|caller| poll_once(&mut caller.task).is_pending());
        let free = self.callers.iter().filter(|caller| caller.state.stage.get() == CallerStage::Awaited).count();
        let room = CALLERS - self.callers.len();
        for _ in free + room..FREE {
            self.make_place();
        }
        while self.callers.len() < CALLERS {
            let (stage, address) = (Cell::new(CallerStage::Awaited), Cell::new(Ipv4Addr::UNSPECIFIED));
            let state = Rc::new(CallerState { stage, address });
            let mut task: Task = Box::pin(accept(self.acceptor.clone(), state.clone()));
            if poll_once(&mut task).is_ready() {
                return;
            }
            self.callers.push(Caller { task, state });
        }
    }

    /// Drops a caller.
    fn make_place(&mut self) {
        let come = self.callers.iter().map(|caller| (caller.state.stage.get(), caller.state.address.get()));
        if let Some(least) = least(come.filter(|(stage, _)| *stage != CallerStage::Awaited)) {
            self.callers.retain(|caller| caller.state.stage.get() != least);
        }
    }
}

/// Of those that have come, who is to go: one of the address from which there are most; of those one that has said nothing,
/// or else the oldest. But not the newest of all, which had no time to say anything.
fn least(come: impl Iterator<Item = (CallerStage, Ipv4Addr)> + Clone) -> Option<CallerStage> {
    let newest = come.clone().max_by_key(|(stage, _)| stage.number());
    let crowd = |address| come.clone().filter(|(_, other)| *other == address).count();
    let others = come.clone().filter(|caller| Some(*caller) != newest);
    others.min_by_key(|(stage, address)| (Reverse(crowd(*address)), *stage)).map(|(stage, _)| stage)
}

impl CallerStage {
    fn number(self) -> Option<u64> {
        match self {
            Self::Silent(number) | Self::Introduced(number) => Some(number),
            Self::Awaited => None,
        }
    }
}

/// Waits for one caller and lets it say who it is.
async fn accept(acceptor: Rc<Acceptor>, state: Rc<CallerState>) {
    let Ok(connection) = Connection::listen(&acceptor.net, &acceptor.timer, acceptor.config.port, BUFFERS) else {
        return;
    };
    connection.approached().await;
    let number = acceptor.arrivals.get();
    acceptor.arrivals.set(number + 1);
    state.stage.set(CallerStage::Silent(number));
    state.address.set(connection.peer().map_or(Ipv4Addr::UNSPECIFIED, |peer| *peer.ip()));
    acceptor.timer.nudge();
    let introduced = acceptor
        .timer
        .within(
            INTRODUCTION_WAIT,
            introduce(&acceptor, connection, || state.stage.set(CallerStage::Introduced(number))),
        )
        .await;
    acceptor.timer.nudge();
    let now = acceptor.timer.now();
    if introduced == Some(Ok(())) || now < acceptor.report_at.get() {
        return;
    }
    // Strangers do not get to fill the log.
    acceptor.report_at.set(now + REPORT_EVERY);
    match introduced {
        Some(Err(error)) => log::warn!("a caller was turned away: {error}"),
        _ => log::warn!("a caller was turned away: it did not say who it is"),
    }
}

/// Lets a caller say who it is.
async fn introduce(acceptor: &Acceptor, connection: Connection, introduced: impl FnOnce()) -> Result<(), SessionError> {
    connection.accepted().await?;
    let mut preamble = [0; Preamble::LEN];
    connection.read_exact(&mut preamble).await?;
    let preamble = match Preamble::parse(&preamble) {
        Ok(preamble) => preamble,
        Err(NoPreamble::Strange) => return Err(SessionError::Peer(PeerFault::Stranger)),
        Err(NoPreamble::Version(mismatch, session)) => {
            let refusal = Refusal::Version(mismatch);
            // Version 1 said the token itself here.
            let is = |peer: &Expected| session == peer.name.0 || session == peer.session.0;
            acceptor.pending.find_by(is, |peer| peer.turned_away = Some(refusal));
            connection.write_all(&Preamble::other_version()).await?;
            connection.finished().await;
            return Err(SessionError::Refused(refusal));
        }
    };
    let expected = acceptor.pending.find_named(preamble.session, |_| ()).is_some();
    if !expected {
        return Err(SessionError::Peer(PeerFault::Stranger));
    }
    introduced();
    let admitted = admit(acceptor, connection, preamble).await;
    if let Err(SessionError::Refused(refusal)) = admitted {
        acceptor.pending.find_named(preamble.session, |peer| peer.turned_away = Some(refusal));
    }
    admitted
}

/// Lets a caller that has named a session prove who it is.
async fn admit(acceptor: &Acceptor, connection: Connection, preamble: Preamble) -> Result<(), SessionError> {
    let link = match &acceptor.config.security {
        security if security.protection() != preamble.protection => {
            return Err(SessionError::Refused(preamble.protection.into()));
        }
        Security::Plain => Link::plain(connection),
        Security::Sealed(identity) => handshake::answer(connection, identity, preamble, (acceptor.entropy)()).await?,
    };
    let mut inlet = Inlet::new(link.clone(), &[Kind::Hello]);
    let Message::Hello(hello) = inlet.next().await? else { return Err(SessionError::Peer(PeerFault::OutOfTurn)) };
    if hello.role != preamble.role {
        return Err(SessionError::Peer(PeerFault::Unbound));
    }
    let connection = link.clone();
    let admitted = acceptor.pending.find_named(preamble.session, |peer| peer.admit(hello, link));
    admitted.unwrap_or(Err(SessionError::Peer(PeerFault::Stranger)))?;
    connection.connection().linger();
    Ok(())
}

#[cfg(test)]
mod tests;
