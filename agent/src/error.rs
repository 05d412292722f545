//! Every error of this library, a type for each layer, which says who is to blame. What people are told of one is a sentence that
//! an operator can act on.

use alloc::string::{String, ToString};
use core::net::SocketAddrV4;

use common::control::{FailureCause, State};
use common::{Gfn, XenVersion};
use thiserror::Error;

mod refusal;

pub use refusal::Refusal;

/// Why a session ended early, and who is to blame.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SessionError {
    /// This host could not do its part.
    #[error("{0}")]
    Here(PlatformError),
    /// The connection to the other agent.
    #[error("{0}")]
    Link(#[from] LinkError),
    /// The other agent sent something that no correct agent sends.
    #[error("{0}")]
    Peer(PeerFault),
    /// The other agent gave up and said why.
    #[error("the other host's agent gave up: {0}")]
    Told(String),
    /// The toolstack gave up.
    #[error("cancelled by the toolstack")]
    Cancelled,
    /// Somebody took too long.
    #[error("{0}")]
    TimedOut(Wait),
    /// This agent will not move this guest.
    #[error("{0}")]
    Refused(Refusal),
    /// Verifying found pages that differ, before the commit.
    #[error("verifying found pages that differ between the hosts: {pages}, first guest frame {:#x}", .first.0)]
    Differing {
        /// The first of them.
        first: Gfn,
        /// How many.
        pages: u64,
    },
}

impl SessionError {
    /// The last state of a session that ends with it.
    pub(crate) fn failed(&self) -> State {
        State::Failed { cause: self.cause(), reason: self.to_string() }
    }

    /// What the toolstack must know of it besides the text.
    pub(crate) fn cause(&self) -> FailureCause {
        match self {
            Self::Cancelled => FailureCause::Cancelled,
            Self::Refused(Refusal::Gone | Refusal::Lost | Refusal::Discarded) => FailureCause::Gone,
            Self::Refused(Refusal::NotLeft | Refusal::Revoked) => FailureCause::Back,
            _ => FailureCause::Other,
        }
    }
}

impl From<PlatformError> for SessionError {
    fn from(error: PlatformError) -> Self {
        if error == PlatformError::Gone { Self::Refused(Refusal::Gone) } else { Self::Here(error) }
    }
}

impl From<WireError> for SessionError {
    fn from(error: WireError) -> Self {
        Self::Peer(PeerFault::Wire(error))
    }
}

/// What a peer must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PeerFault {
    /// It sent bytes that make no sense.
    #[error("the other host's agent sent {0}")]
    Wire(WireError),
    /// It sent a message that has no place at this point.
    #[error("the other host's agent sent a message out of turn")]
    OutOfTurn,
    /// It named a page that the guest does not have.
    #[error("the other host's agent named a page that does not exist")]
    NoSuchPage,
    /// It switched over although pages had never been sent.
    #[error("the other host's agent left pages out")]
    MissingPages,
    /// It mixed up connections: what it said where nobody can change it is not what it said before, or elsewhere.
    #[error("the other host's agent mixed up its connections")]
    Unbound,
    /// It is no agent, or none that is expected.
    #[error("it named no session that is expected here")]
    Stranger,
}

/// Who was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Wait {
    /// The other agent, to call.
    #[error("the other host's agent did not connect in time")]
    Call,
    /// The other agent, to build the guest.
    #[error("the other host's agent did not answer in time")]
    Build,
    /// The toolstack, to suspend the guest.
    #[error("the guest was not suspended in time")]
    Suspend,
    /// The other agent, to be ready for the guest.
    #[error("the other host's agent was not ready in time")]
    Ready,
    /// This agent's own address.
    #[error("this agent has no network address")]
    Address,
    /// The other agent, to say what it misses.
    #[error("the other host's agent did not say in time what it misses")]
    Missing,
}

/// What the agents speak that share no version of their protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the agents share no version of their protocol: the other host's speaks {theirs}, this one {ours}")]
pub struct VersionMismatch {
    /// The other agent's version.
    pub theirs: u8,
    /// This agent's.
    pub ours: u8,
}

/// Why the machine under the agent did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlatformError {
    /// The security policy forbids it; `permission` is what the policy lacks, as `class { permission }`.
    #[error("{operation} is forbidden: the FLASK policy must allow the agent {permission} on the guest")]
    Denied {
        /// The operation that was refused.
        operation: &'static str,
        /// The FLASK class and permission that would allow it.
        permission: &'static str,
    },
    /// The hypervisor cannot do this for this domain.
    #[error("this hypervisor cannot do {operation} for this guest")]
    Unsupported {
        /// The operation that is missing.
        operation: &'static str,
    },
    /// The host has no memory left for it.
    #[error("the host has too little free memory for {operation}")]
    OutOfMemory {
        /// The operation that needed memory.
        operation: &'static str,
    },
    /// The domain is dying or does not exist.
    #[error("the domain is gone")]
    Gone,
    /// The other side handed over something malformed.
    #[error("malformed {what}")]
    Malformed {
        /// What was wrong with it.
        what: &'static str,
    },
    /// This guest, or this moment, does not allow it; the reason is a sentence.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: &'static str,
    },
    /// The guest was told of a feature that this host does not give it.
    #[error("the target cannot give the guest {name} ({part_of} {index:#x}), which it has at the source")]
    Lacks {
        /// The feature.
        name: &'static str,
        /// What it is part of.
        part_of: &'static str,
        /// Which one.
        index: u32,
    },
    /// The target's hypervisor is older than the source's.
    #[error(
        "the target has Xen {ours}, which is older than the source's Xen {theirs}: a guest moves to the same Xen or to a newer one"
    )]
    OlderXen {
        /// The target's.
        ours: XenVersion,
        /// The source's.
        theirs: XenVersion,
    },
    /// Anything else, with the hypervisor's error number (positive).
    #[error("{operation} failed with error {errno}")]
    Failed {
        /// The operation that failed.
        operation: &'static str,
        /// The hypervisor's error number.
        errno: u16,
    },
}

/// Why a connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// Nobody answers there.
    #[error("no agent answers at {0}")]
    NoAnswer(SocketAddrV4),
    /// The other agent closed the connection.
    #[error("the other host's agent closed the connection")]
    Closed,
    /// The connection broke or fell silent.
    #[error("the connection to the other host's agent is lost")]
    Lost,
    /// A record does not open: somebody between the agents changed it, or put it there.
    #[error("a record from the other host's agent was changed on its way")]
    Changed,
    /// The other agent closed the connection before it had said who it is.
    #[error("the other host's agent turned this one away; is this agent's key in its list? is it as new?")]
    TurnedAway,
    /// It said that it is of another version.
    #[error("{0}")]
    Version(VersionMismatch),
    /// Whoever answers there does not have the key that it should.
    #[error("what answers for the other host's agent does not have that agent's key")]
    Unproven,
    /// This agent cannot open another connection.
    #[error("no further connection can be opened")]
    Full,
}

/// A sealed record, or what is sealed like one, that is not what the other side sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed;

impl From<Changed> for LinkError {
    fn from(_: Changed) -> Self {
        Self::Changed
    }
}

/// What a caller said that is no preamble of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPreamble {
    /// It is none at all.
    Strange,
    /// It is one of another version, and has this where the session's name would be.
    Version(VersionMismatch, [u8; 16]),
}

/// What a peer sent that no correct agent sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// It does not start like a message.
    #[error("something that is not a message")]
    Magic,
    /// Nobody knows this kind.
    #[error("a message of unknown kind {0}")]
    UnknownKind(u16),
    /// Its length is beyond what its kind allows.
    #[error("a message of kind {kind} and {length} bytes")]
    TooLong {
        /// The number of its kind.
        kind: u16,
        /// The length it claims.
        length: usize,
    },
    /// It ends too early.
    #[error("a message that ends too early")]
    Truncated,
    /// It goes on after its end.
    #[error("a message that goes on after its end")]
    Trailing,
    /// Bytes that must be zero are not.
    #[error("a message with reserved bytes set")]
    Reserved,
    /// This value makes no sense.
    #[error("a message with a senseless {0}")]
    Value(&'static str),
}

/// A command line that an image cannot be started with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandLineError {
    /// Nobody knows this word.
    #[error("unknown word '{word}' on the command line; known are: {known}")]
    Unknown {
        /// The word.
        word: String,
        /// All that it could have been.
        known: String,
    },
    /// This word is there again.
    #[error("{0} is on the command line twice")]
    Twice(&'static str),
    /// This word's value cannot be.
    #[error("'{word}' on the command line makes no sense; {name} takes {takes}")]
    Bad {
        /// The word with its value.
        word: String,
        /// The word without it.
        name: &'static str,
        /// What its value can be.
        takes: &'static str,
    },
    /// This word is not there.
    #[error("the command line has no {name}, which takes {takes}")]
    Missing {
        /// The word without its value.
        name: &'static str,
        /// What its value can be.
        takes: &'static str,
    },
    /// None of these words is there, or more than one.
    #[error("the command line must have one of {0}, and only one")]
    NotOne(&'static str),
}
