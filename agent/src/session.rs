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
//!  dirty_copy::serve    <-- Demand ---, --- Pages -->            dirty_copy::fetch
//!  destroy              <-- Complete ---                         finish
//! ```
//!
//! # The commit rule
//!
//! **[`Source::retain`] is the commit.** Before it the guest belongs to the source: whatever fails, at either end or
//! between them, leads through [`departure::give_back`] and the guest runs on at the source, its dirty log off, its
//! suspend (if there was one) cancelled; the target drops what it has, and its guest never ran, because it holds a
//! pause count that only [`Message::Commit`](crate::wire::Message::Commit) gives back. After `retain` has returned the
//! source never runs the guest again: nothing below that line calls [`Source::release`], and the hypervisor refuses
//! everybody else. The source keeps every page until the target has said
//! [`Message::Complete`](crate::wire::Message::Complete), and only then destroys the guest.
//!
//! `Commit` is sent after `retain`, never before; a target that has said `Ready` and hears nothing more does not know
//! on which side of the line the source is, so it neither runs the guest nor drops it: it waits.
//!
//! [`Source::retain`]: crate::platform::Source::retain
//! [`Source::release`]: crate::platform::Source::release

pub(crate) mod arrival;
pub(crate) mod departure;
pub(crate) mod dialing;
pub(crate) mod pages;
pub(crate) mod sending;

use alloc::rc::Rc;
use alloc::string::String;
use core::cell::RefCell;
use core::fmt;

use crate::budget::Budget;
use crate::claim::Domains;
use crate::config::Config;
use crate::control::{Request, State};
use crate::datagram::Post;
use crate::desk::Desk;
use crate::lobby::Lobby;
use crate::net::{LinkError, Net};
use crate::platform::{Platform, PlatformError, Source};
use crate::secure::Protection;
use crate::switchover::Prepared;
use crate::tasks::{SECOND, Timer};
use crate::wire::{Message, WireError};
use departure::Departure;
use dialing::Callee;

/// How long the other agent may take to call, to answer, or to build.
pub(crate) const PEER_WAIT: u64 = 30 * SECOND;
/// How long nothing may arrive on the bulk connection. The peer's death shows on the control connection much sooner; here
/// packets lost again and again may make smoltcp wait for up to 60 s before it sends one once more.
pub(crate) const BULK_WAIT: u64 = 120 * SECOND;
/// How long the toolstack may take to suspend the guest.
pub(crate) const SUSPEND_WAIT: u64 = 60 * SECOND;
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
}

/// Serves one request from beginning to end.
pub(crate) async fn serve<P: Platform>(host: Rc<Host<P>>, desk: Rc<Desk>, request: Request) {
    match request {
        Request::Out { domain, mode } => departure::serve(&host, &desk, domain, mode).await,
        Request::In { domain, peer, key, session, backends } => {
            let callee = Callee { address: peer, key };
            arrival::serve(&host, &desk, domain, callee, session, backends).await;
        }
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
    /// This agent's memory does not hold what it would have to know of it.
    NoMemory,
    /// The toolstack said that it could not suspend it.
    NotSuspended,
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
    /// The other agent's connections are plain, this one's are sealed.
    PeerIsPlain,
    /// The other agent's connections are sealed, this one's are plain.
    PeerIsSealed,
    /// The other agent sends another guest than the toolstack expects here.
    OtherGuest,
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
            Self::TimedOut(Wait::Address) => f.write_str("this agent has no network address"),
            Self::Refused(refusal) => write!(f, "{refusal}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDirtyLog => "this hypervisor cannot log which pages a guest dirties",
            Self::NoForeignMap => "this agent cannot map the guest's memory",
            Self::PagedOut => "pages of the guest have not arrived here from an earlier migration",
            Self::InHand => "an earlier migration of the guest has not ended here; see 'tsmc status'",
            Self::NoMemory => "the agent has too little memory left for a guest of this size",
            Self::NotSuspended => "the guest did not suspend",
            Self::Gone => "the guest is gone",
            Self::Unreadable => "pages of the guest cannot be read",
            Self::Unwritable => "pages of the guest cannot be written",
            Self::ThirdSend => "internal error: a page was about to be sent a third time",
            Self::UnknownPeer => "the other host's agent has a key that is not in this agent's list",
            Self::PeerIsPlain => "the other host's agent does not encrypt ('plain'), and this one does",
            Self::PeerIsSealed => "the other host's agent encrypts, and this one does not ('plain')",
            Self::OtherGuest => "the other host's agent sends another guest than the one that is expected here",
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
pub(crate) async fn commit<S: Source>(
    departure: &mut Departure<S>,
    _prepared: Prepared,
) -> Result<Committed, SessionError> {
    departure.source.retain()?;
    departure.inbox.committed.set(true);
    departure.desk.state(State::Committed);
    departure.control.connection().set_patience(None);
    departure.bulk.connection().set_patience(None);
    departure.control.send(Message::Commit).await?;
    Ok(Committed(()))
}
