//! One migration.
//!
//! Both ends go through the same phases, each a function that takes the proof of the one before:
//!
//! ```text
//!  source                                          target
//!  handshake            <-- Hello, Welcome, Built -->            handshake
//!  full_copy::send      --- Ram, Pages, Hints -->                full_copy::take
//!  switchover::leave    --- Dirty, Pages, State, Switch -->      switchover::take
//!                       <-- Ready ---                            switchover::prepare
//!  commit               --- Commit -->                           release
//!  dirty_copy::serve    <-- Demand ---, --- Pages -->            stay
//!  destroy              <-- Complete ---                         finish
//! ```
//!
//! # The commit rule
//!
//! **[`Source::retain`] is the commit.** Before it the guest belongs to the source: whatever fails, at either end or
//! between them, leads through [`departure::give_back`] and the guest runs on at the source, its dirty log off, its
//! suspend (if there was one) cancelled; the target drops what it has, and its guest never ran, because it holds a
//! pause count that only [`Message::Commit`](crate::wire::Message::Commit) gives back. After `retain` has returned the
//! source does not run the guest again, and the hypervisor refuses everybody else. The source keeps every page until the
//! target has said [`Message::Complete`](crate::wire::Message::Complete), and only then destroys the guest. One thing
//! undoes the commit: the target's [`Message::Revoked`](crate::wire::Message::Revoked), which says that its copy never
//! ran and never will, since its domain is dying. Only then is [`Source::release`] called below that line.
//!
//! `Commit` is sent after `retain`, never before; a target that has said `Ready` and hears nothing more does not know
//! on which side of the line the source is, so it neither runs the guest nor drops it: it asks.
//!
//! # Recovery
//!
//! From `Ready` on no broken connection ends a session. The target calls again until the source answers ([`stay`]); the
//! source lets it in ([`departure`]), hears what is missing and goes on. What is still to be said when a session is over
//! is said by [`epilogue`]; what an agent's next life must know stands in a [`note`].
//!
//! [`Source::retain`]: crate::platform::Source::retain
//! [`Source::release`]: crate::platform::Source::release

pub(crate) mod arrival;
pub(crate) mod departure;
pub(crate) mod dialing;
mod epilogue;
pub(crate) mod note;
pub(crate) mod pages;
mod retained;
pub(crate) mod sending;
mod stay;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::cell::RefCell;
use core::fmt;

use embassy_futures::select::{Either, select};

use crate::budget::{Budget, Reservation, Want};
use crate::claim::Domains;
use crate::config::Config;
use crate::control::{Request, SessionToken, State, reason};
use crate::datagram::Post;
use crate::desk::Desk;
use crate::lobby::Lobby;
use crate::net::{LinkError, Net};
use crate::peers::Peers;
use crate::platform::{DomId, Gfn, Platform, PlatformError, Source};
use crate::secure::Protection;
use crate::switchover::Prepared;
use crate::tasks::{SECOND, Timer};
use crate::wire::WireError;
use departure::Departure;
use dialing::Callee;
use note::{Note, Role};

/// How long the other agent may take to call, to answer, or to build.
pub(crate) const PEER_WAIT: u64 = 30 * SECOND;
/// How long nothing may arrive on the bulk connection. The peer's death shows on the control connection much sooner; here
/// packets lost again and again may make smoltcp wait for up to 60 s before it sends one once more.
pub(crate) const BULK_WAIT: u64 = 120 * SECOND;
/// From `Ready` and the commit on: how long nothing may arrive before the connections are given up and made anew.
pub(crate) const LOST: u64 = 10 * SECOND;
/// The same on the bulk connection, where packets that are lost again and again make smoltcp wait.
pub(crate) const BULK_LOST: u64 = 30 * SECOND;
/// How long the target waits before it calls again.
pub(crate) const CALL_AGAIN: u64 = SECOND;
/// How long the toolstack may take to suspend the guest.
pub(crate) const SUSPEND_WAIT: u64 = 60 * SECOND;
/// How long a session may take to let go of a guest that it only keeps.
const LET_GO: u64 = SECOND;
/// How long the target may take to be ready.
pub(crate) const READY_WAIT: u64 = 60 * SECOND;

/// What all sessions share.
pub(crate) struct Host<P> {
    pub(crate) platform: Rc<RefCell<P>>,
    pub(crate) net: Rc<RefCell<Net>>,
    pub(crate) lobby: Rc<Lobby>,
    pub(crate) post: Rc<Post>,
    pub(crate) timer: Timer,
    pub(crate) config: Rc<Config>,
    pub(crate) budget: Budget,
    pub(crate) domains: Domains,
    /// The agents that guests leave for; the budget knows those that they come from.
    pub(crate) peers: Peers,
    /// Sessions that are over, about which a target may still ask.
    pub(crate) epilogues: RefCell<VecDeque<SessionToken>>,
}

/// Serves one request from beginning to end.
pub(crate) async fn serve<P: Platform>(host: Rc<Host<P>>, desk: Rc<Desk>, request: Request) {
    match request {
        Request::Out { domain, mode, verify } => departure::serve(&host, &desk, domain, mode, verify).await,
        Request::In { domain, peer, key, session, size, backends } => {
            let callee = Callee { address: peer, key };
            arrival::serve(&host, &desk, domain, callee, session, size, backends).await;
        }
        Request::Recover { note } => recover(&host, &desk, &note).await,
        Request::Discard { domain } => {
            let outcome = discard(&host, domain).await;
            desk.state(outcome.map_or_else(|error| State::Failed { reason: error.to_string() }, |()| State::Complete));
        }
        Request::Withdraw { domain } => {
            let reason = match host.platform.borrow().has_run(domain) {
                Ok(false) => None,
                Ok(true) => Some(reason::HAS_RUN.to_string()),
                Err(error) => Some(SessionError::from(error).to_string()),
            };
            desk.state(reason.map_or(State::Complete, |reason| State::Failed { reason }));
        }
    }
}

/// Waits for its turn, and says for what. The toolstack may give up meanwhile.
async fn turn<P: Platform>(host: &Host<P>, desk: &Desk, want: Want) -> Result<Reservation, SessionError> {
    let turn = host.budget.queue(want)?;
    if let Some(lack) = turn.lacks() {
        desk.state(State::Waiting { reason: lack.to_string() });
    }
    match select(host.timer.wait_for(|| turn.take()), departure::cancelled(&host.timer, desk)).await {
        Either::First(reservation) => Ok(reservation),
        Either::Second(()) => Err(SessionError::Cancelled),
    }
}

/// Frees what is kept of a guest that has left. A session that has lost the other agent lets go of it; no other does.
async fn discard<P: Platform>(host: &Host<P>, domain: DomId) -> Result<(), SessionError> {
    host.domains.want(domain, true);
    host.timer.nudge();
    let free = host.timer.within(LET_GO, host.timer.wait_for(|| host.domains.claim(domain).ok())).await;
    host.domains.want(domain, false);
    let _claim = free.ok_or(SessionError::Refused(Refusal::InHand))?;
    Ok(host.platform.borrow_mut().discard(domain)?)
}

/// Takes up what an earlier life of this agent left when it died.
async fn recover<P: Platform>(host: &Host<P>, desk: &Rc<Desk>, note: &str) {
    let adopted = match Note::open(&host.config.security, note) {
        Err(error) => Err(error),
        Ok(note) => match note.role {
            Role::Source => retained::adopt(host, desk, &note).await,
            Role::Ready | Role::Running => arrival::adopt(host, desk, &note).await,
        },
    };
    if let Err(error) = adopted {
        desk.state(State::Failed { reason: error.to_string() });
    }
}

/// Why a session ended early, and who is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// This host could not do its part.
    Here(PlatformError),
    /// The connection to the other agent.
    Link(LinkError),
    /// The other agent sent something that no correct agent sends.
    Peer(PeerFault),
    /// The other agent gave up and said why.
    Told(String),
    /// The toolstack gave up.
    Cancelled,
    /// Somebody took too long.
    TimedOut(Wait),
    /// This agent will not move this guest.
    Refused(Refusal),
    /// Verifying found pages that differ, before the commit.
    Differing {
        /// The first of them.
        first: Gfn,
        /// How many.
        pages: u64,
    },
}

/// What a peer must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerFault {
    /// It sent bytes that make no sense.
    Wire(WireError),
    /// It sent a message that has no place at this point.
    OutOfTurn,
    /// It speaks no version that is spoken here.
    Version,
    /// It named a page that the guest does not have.
    NoSuchPage,
    /// It switched over although pages had never been sent.
    MissingPages,
    /// It mixed up connections: what it said where nobody can change it is not what it said before, or elsewhere.
    Unbound,
    /// It is no agent, or none that is expected.
    Stranger,
}

/// Who was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The other agent, to call.
    Call,
    /// The other agent, to build the guest's frame.
    Build,
    /// The toolstack, to suspend the guest.
    Suspend,
    /// The other agent, to be ready for the guest.
    Ready,
    /// This agent's own address.
    Address,
    /// The other agent, to say what it misses.
    Missing,
}

/// Why this agent will not move this guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Dirty pages cannot be logged.
    NoDirtyLog,
    /// Guest memory cannot be mapped.
    NoForeignMap,
    /// Pages of it are still elsewhere.
    PagedOut,
    /// Another session has it in hand.
    InHand,
    /// The other agent has as many sessions here as one may have.
    ManySessions,
    /// This agent's memory will never hold what it would have to know of it.
    NeverFits {
        /// The domain's memory that would do, in MiB.
        memory_mib: u64,
    },
    /// It does not hold what has come to be known of it meanwhile.
    NoMemory,
    /// It does not hold the digests that verifying takes.
    NoMemoryToVerify,
    /// The toolstack said that it could not suspend it.
    NotSuspended,
    /// It crashed, shut down or rebooted by itself.
    Stopped,
    /// Somebody has paused it.
    Paused,
    /// It does not exist, or no more.
    Gone,
    /// Pages of it cannot be read.
    Unreadable,
    /// A page of it cannot be written.
    Unwritable,
    /// A page would have been sent a third time.
    ThirdSend,
    /// The other agent's key is not in this one's list.
    UnknownPeer,
    /// The other agent is of a version that this one does not understand.
    Version,
    /// Two agents have called for the guest.
    Contested,
    /// The other agent's connections are plain, this one's are sealed.
    PeerIsPlain,
    /// The other agent's connections are sealed, this one's are plain.
    PeerIsSealed,
    /// The other agent sends another guest than the toolstack expects here.
    OtherGuest,
    /// The domain that was to be filled is gone before the guest could run in it.
    GoneThere,
    /// The agent was restarted in the middle.
    Restarted,
    /// The same, and the guest had not left.
    GivenBack,
    /// The note of an earlier life is not from this agent, or was changed.
    Note,
    /// The domain is gone, and nobody knows whether the guest ran in it.
    Unknown,
}

impl Refusal {
    /// Why this agent does not talk to a peer whose connections are protected like that.
    pub(crate) fn protection(peer: Protection) -> Self {
        match peer {
            Protection::Plain => Self::PeerIsPlain,
            Protection::Sealed => Self::PeerIsSealed,
        }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(error) => write!(f, "{error}"),
            Self::Link(error) => write!(f, "{error}"),
            Self::Peer(PeerFault::Wire(error)) => write!(f, "the other host's agent sent {error}"),
            Self::Peer(PeerFault::OutOfTurn) => f.write_str("the other host's agent sent a message out of turn"),
            Self::Peer(PeerFault::Version) => f.write_str("the agents share no version of their protocol"),
            Self::Peer(PeerFault::NoSuchPage) => f.write_str("the other host's agent named a page that does not exist"),
            Self::Peer(PeerFault::MissingPages) => f.write_str("the other host's agent left pages out"),
            Self::Peer(PeerFault::Unbound) => f.write_str("the other host's agent mixed up its connections"),
            Self::Peer(PeerFault::Stranger) => f.write_str("it named no session that is expected here"),
            Self::Told(reason) => write!(f, "the other host's agent gave up: {reason}"),
            Self::Cancelled => f.write_str("cancelled by the toolstack"),
            Self::TimedOut(Wait::Call) => f.write_str("the other host's agent did not connect in time"),
            Self::TimedOut(Wait::Build) => f.write_str("the other host's agent did not answer in time"),
            Self::TimedOut(Wait::Suspend) => f.write_str("the guest was not suspended in time"),
            Self::TimedOut(Wait::Ready) => f.write_str("the other host's agent was not ready in time"),
            Self::TimedOut(Wait::Missing) => f.write_str("the other host's agent did not say in time what it misses"),
            Self::TimedOut(Wait::Address) => f.write_str("this agent has no network address"),
            Self::Refused(refusal) => write!(f, "{refusal}"),
            Self::Differing { first, pages: 1 } => {
                write!(f, "verifying found that guest frame {:#x} differs between the hosts", first.0)
            }
            Self::Differing { first, pages } => {
                write!(
                    f,
                    "verifying found {pages} pages that differ between the hosts, first guest frame {:#x}",
                    first.0
                )
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeverFits { memory_mib } => {
                return write!(
                    f,
                    "the memory of this host's agent is too small for a guest of this size: memory = {memory_mib} in its xl.cfg \
                     would do"
                );
            }
            Self::NoDirtyLog => "this hypervisor cannot log which pages a guest dirties",
            Self::NoForeignMap => "this agent cannot map the guest's memory",
            Self::PagedOut => "pages of the guest have not arrived here from an earlier migration",
            Self::InHand => reason::IN_HAND,
            Self::ManySessions => "the other host's agent has as many migrations with this one as one host may have",
            Self::NoMemory => "the agent has too little memory left for what the guest has grown to",
            Self::NoMemoryToVerify => {
                "the agent has too little memory left to verify a guest of this size; migrate without"
            }
            Self::NotSuspended => "the guest did not suspend",
            Self::Stopped => "the guest crashed, shut down or rebooted before it had left",
            Self::Paused => "the guest is paused, and cannot suspend: 'xl unpause' it first, unless it is being destroyed",
            Self::Gone => reason::GONE,
            Self::Unreadable => "pages of the guest cannot be read",
            Self::Unwritable => "pages of the guest cannot be written",
            Self::ThirdSend => "internal error: a page was about to be sent a third time",
            Self::UnknownPeer => "the other host's agent has a key that is not in this agent's list",
            Self::Version => "the agents share no version of their protocol",
            Self::Contested => "two hosts' agents have called for this guest, and only one can be meant",
            Self::PeerIsPlain => "the other host's agent does not encrypt ('plain'), and this one does",
            Self::PeerIsSealed => "the other host's agent encrypts, and this one does not ('plain')",
            Self::OtherGuest => "the other host's agent sends another guest than the one that is expected here",
            Self::GoneThere => "the domain on the other host is gone",
            Self::Restarted => "the agent was restarted",
            Self::GivenBack => reason::HERE,
            Self::Note => "the note was not written by an agent with this agent's key, or it was changed",
            Self::Unknown => {
                "the domain is gone, and it is not known whether the guest ran in it: the other host keeps its copy"
            }
        })
    }
}

impl core::error::Error for SessionError {}

impl From<PlatformError> for SessionError {
    fn from(error: PlatformError) -> Self {
        if error == PlatformError::Gone { Self::Refused(Refusal::Gone) } else { Self::Here(error) }
    }
}

impl From<LinkError> for SessionError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<WireError> for SessionError {
    fn from(error: WireError) -> Self {
        Self::Peer(PeerFault::Wire(error))
    }
}

/// The proof that the source can never run the guest again.
pub(crate) struct Committed(());

/// The commit. Nothing before this line is final, nothing after it can be undone; see the module's commit rule.
pub(crate) fn commit<P: Platform>(
    host: &Host<P>,
    departure: &mut Departure<P::Source>,
    _prepared: Prepared,
) -> Result<Committed, SessionError> {
    host.platform.borrow().can_retain()?;
    departure.source.retain()?;
    departure.inbox.committed.set(true);
    departure.desk.state(State::Committed);
    departure.set_patience(LOST, BULK_LOST);
    Ok(Committed(()))
}

/// The same proof for a guest that an earlier life of this agent retained.
fn is_committed<S: Source>(source: &S) -> Option<Committed> {
    source.is_retained().then_some(Committed(()))
}
