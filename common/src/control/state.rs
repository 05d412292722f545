//! The states of a session that the agent reports, and what it says when a session ends.

use alloc::string::String;
use core::convert::Infallible;
use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

use super::{SessionToken, Size, write_key};
use crate::guest::Gfn;
use crate::key::PublicKey;
use crate::line::{Line, ParseError};

/// Where a session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Both: it has not begun, since others have what it needs; or, at the source, the target's end has not.
    Waiting {
        /// For what, in one line.
        reason: String,
    },
    /// Source: waits for the target's agent to connect.
    Listening {
        /// What the target's agent must show.
        session: SessionToken,
        /// This agent's address.
        address: Ipv4Addr,
        /// The port it listens on.
        port: u16,
        /// Its key; nothing if its connections are plain.
        key: Option<PublicKey>,
        /// What the target's agent must have room for.
        size: Size,
    },
    /// Source: stage 1 runs.
    Copying,
    /// Source: the toolstack must suspend the guest now.
    Suspend,
    /// Source: the guest belongs to the target; it can never run here again.
    Committed,
    /// Target: the guest is built, memory follows. It stays so until [`State::Ready`].
    Built {
        /// xenstore's ring.
        store: Gfn,
        /// The console's ring.
        console: Gfn,
    },
    /// Target: the machine state is loaded; the guest waits for the commit.
    Ready,
    /// Target: the guest is released; missing pages follow.
    Running,
    /// Both: done, nothing is left behind.
    Complete,
    /// Both, after the commit: the agents have lost each other. The target's calls until the source's answers; nothing is
    /// freed meanwhile.
    Interrupted {
        /// Why, in one line.
        reason: String,
    },
    /// Both: given up; the guest is at the source as it was.
    Failed {
        /// Why, for the toolstack.
        cause: FailureCause,
        /// Why, for people, in one line.
        reason: String,
    },
}

/// Why a session failed, as far as the toolstack acts on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureCause {
    /// The session's own toolstack gave it up.
    Cancelled,
    /// Nothing of the guest is left on this host.
    Gone,
    /// What was begun is undone: the guest had not left, or has come back before it ran elsewhere.
    Back,
    /// Anything else, and what an agent of another version says.
    #[default]
    Other,
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "cancelled",
            Self::Gone => "gone",
            Self::Back => "back",
            Self::Other => "other",
        })
    }
}

impl FromStr for FailureCause {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "cancelled" => Self::Cancelled,
            "gone" => Self::Gone,
            "back" => Self::Back,
            _ => Self::Other,
        })
    }
}

impl State {
    /// Whether nothing follows this state.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Complete | Self::Failed { .. })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { reason } => write!(f, "waiting reason={reason}"),
            Self::Listening { session, address, port, key, size } => {
                write!(f, "listening session={session} address={address} port={port} {size}")?;
                write_key(f, key)
            }
            Self::Copying => f.write_str("copying"),
            Self::Suspend => f.write_str("suspend"),
            Self::Committed => f.write_str("committed"),
            Self::Built { store, console } => write!(f, "built store_gfn={} console_gfn={}", store.0, console.0),
            Self::Ready => f.write_str("ready"),
            Self::Running => f.write_str("running"),
            Self::Complete => f.write_str("complete"),
            Self::Interrupted { reason } => write!(f, "interrupted reason={reason}"),
            Self::Failed { cause, reason } => write!(f, "failed cause={cause} reason={reason}"),
        }
    }
}

impl FromStr for State {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let line = Line::new(text);
        Ok(match line.word() {
            "waiting" => Self::Waiting { reason: line.reason()? },
            "listening" => Self::Listening {
                session: line.field("session")?,
                address: line.field("address")?,
                port: line.field("port")?,
                key: line.optional("key")?,
                size: Size::of_line(&line)?,
            },
            "copying" => Self::Copying,
            "suspend" => Self::Suspend,
            "committed" => Self::Committed,
            "built" => Self::Built { store: Gfn(line.field("store_gfn")?), console: Gfn(line.field("console_gfn")?) },
            "ready" => Self::Ready,
            "running" => Self::Running,
            "complete" => Self::Complete,
            "interrupted" => Self::Interrupted { reason: line.reason()? },
            "failed" => Self::Failed { cause: line.optional("cause")?.unwrap_or_default(), reason: line.reason()? },
            _ => return Err(ParseError::Bad("state")),
        })
    }
}
