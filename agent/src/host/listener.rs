//! Where arriving connections meet the sessions that expect them.
//!
//! The agent listens only while a session waits for its peer. A caller is dropped, without a word, unless it names that
//! session, proves that this agent knows it, and shows the session's token where nobody else can read it. Until then it has
//! cost little: callers beyond a few make place for the next, those first that have said nothing, so that strangers who
//! hold their connections open keep nobody out. One host's callers make place for each other before anybody else's do.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::cmp::Reverse;
use core::net::Ipv4Addr;

use crate::config::Config;
use crate::error::{NoPreamble, PeerFault, Refusal, SessionError};
use crate::host::pending::PendingSessions;
use crate::limits::{INTRODUCTION_WAIT, REPORT_EVERY};
use crate::messages::Inlet;
use crate::net::{Buffers, Connection, IN_FLIGHT_BULK, Net};
use crate::secure::handshake::{self, Entropy};
use crate::secure::{Link, Preamble, Security, SessionName};
use crate::tasks::{Instant, Task, Timer, poll_once};
use crate::wire::{Kind, Message};

/// Callers that are listened to at once, and how many of those places are kept free.
const CALLERS: usize = 5;
const FREE: usize = 2;
/// The source sends much and is told little.
pub(crate) const BUFFERS: Buffers = Buffers { receive: 64 << 10, send: IN_FLIGHT_BULK };
/// What listening may take.
pub(crate) const MEMORY: usize = CALLERS * BUFFERS.size();

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
    /// Bytes that may be on their way to it, for all that this end can do.
    window: usize,
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
        let free = self.callers.iter().filter(|caller| caller.is_awaited()).count();
        let room = CALLERS - self.callers.len();
        for _ in free + room..FREE {
            self.make_place();
        }
        self.widen();
        while self.callers.len() < CALLERS {
            if !self.open(IN_FLIGHT_BULK) {
                return;
            }
        }
    }

    /// Opens one more place, with so large a window; whether it could.
    fn open(&mut self, window: usize) -> bool {
        let (stage, address) = (Cell::new(CallerStage::Awaited), Cell::new(Ipv4Addr::UNSPECIFIED));
        let state = Rc::new(CallerState { stage, address });
        let buffers = Buffers { send: window, ..BUFFERS };
        let mut task: Task = Box::pin(accept(self.acceptor.clone(), state.clone(), buffers));
        let opened = poll_once(&mut task).is_pending();
        if opened {
            self.callers.push(Caller { task, state, window });
        }
        opened
    }

    /// While a peer is about to call for bulk, the first free place has the window that the way there asks for. A call takes the
    /// first place in smoltcp's set, and a new one takes the first that is empty there: so the others are opened anew behind it.
    fn widen(&mut self) {
        let has_wide = self.callers.iter().any(|caller| caller.is_awaited() && caller.window > IN_FLIGHT_BULK);
        let window = match self.acceptor.pending.awaits_bulk() {
            Some(round_trip) if !has_wide => self.acceptor.net.borrow().window(round_trip),
            None if has_wide => IN_FLIGHT_BULK,
            _ => return,
        };
        if has_wide || window > IN_FLIGHT_BULK {
            self.callers.retain(|caller| !caller.is_awaited());
            self.open(window);
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

impl Caller {
    /// Nobody has called yet.
    fn is_awaited(&self) -> bool {
        self.state.stage.get() == CallerStage::Awaited
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
async fn accept(acceptor: Rc<Acceptor>, state: Rc<CallerState>, buffers: Buffers) {
    let Ok(connection) = Connection::listen(&acceptor.net, &acceptor.timer, acceptor.config.port, buffers) else {
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
            acceptor.pending.turn_away(SessionName(session), refusal);
            connection.write_all(&Preamble::other_version()).await?;
            connection.finished().await;
            return Err(SessionError::Refused(refusal));
        }
    };
    if !acceptor.pending.expects(preamble.session) {
        return Err(SessionError::Peer(PeerFault::Stranger));
    }
    introduced();
    let admitted = admit(acceptor, connection, preamble).await;
    if let Err(SessionError::Refused(refusal)) = admitted {
        acceptor.pending.turn_away(preamble.session, refusal);
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
    acceptor.pending.admit(preamble.session, hello, link.clone())?;
    link.connection().linger();
    Ok(())
}

#[cfg(test)]
mod tests;
