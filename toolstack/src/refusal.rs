//! Why a migration does not happen, in one line for the operator.

use std::fmt;
use std::io;

use crate::identity::KeyError;
use crate::name::AGENT_NAME;
use crate::stream::StreamError;
use crate::xenstore::XenstoreError;

/// Why a migration does not happen. Whose fault it is decides the variant.
#[derive(Debug)]
pub enum Refusal {
    /// No agent runs on this host.
    NoAgent,
    /// The agent's domain exists but does not serve yet, or no longer.
    AgentNotReady {
        /// The agent's domain.
        domain: u16,
    },
    /// The agent's domain was started with what makes no sense.
    AgentRefuses {
        /// The agent's domain.
        domain: u16,
        /// What the agent says about it.
        reason: String,
    },
    /// The agent does not answer.
    AgentSilent,
    /// The agent's domain went away in the middle.
    AgentLost,
    /// The agent says that it is done, but not where the rings are.
    NoRings,
    /// The agent says no.
    Agent(String),
    /// libxl wants no more of it.
    Cancelled,
    /// Whoever started us is gone.
    ParentGone,
    /// The other host's side of the stream is gone; the agent may know more.
    PeerGone,
    /// libxl refused something it always grants.
    Libxl(&'static str),
    /// The stream cannot be taken.
    Stream(StreamError),
    /// xenstored fails us.
    Store(XenstoreError),
    /// The agent knows no session of this name.
    NoSession(String),
    /// `TSMC_MODE` is no mode.
    Mode(String),
    /// The policy does not do what the lockdown asks of it.
    Lockdown(String),
    /// There is no key, or no module.
    Key(KeyError),
    /// `TSMC_VERIFY` is neither yes nor no.
    Verify(String),
    /// The operating system fails us.
    System(io::Error),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAgent => write!(f, "no migration agent on this host: no domain is named {AGENT_NAME}"),
            Self::AgentNotReady { domain } => {
                write!(f, "the migration agent of this host (domain {domain}) is not ready")
            }
            Self::AgentRefuses { domain, reason } => {
                write!(f, "the migration agent of this host (domain {domain}) refuses its configuration: {reason}")
            }
            Self::AgentSilent => write!(f, "the migration agent of this host does not answer"),
            Self::AgentLost => write!(f, "the migration agent of this host died during the migration"),
            Self::NoRings => write!(f, "the migration agent of this host did not say where the guest's rings are"),
            Self::Agent(reason) => f.write_str(reason),
            Self::Cancelled => write!(f, "cancelled"),
            Self::ParentGone => write!(f, "the toolstack process that asked for the migration died"),
            Self::PeerGone => write!(f, "the other host's toolstack gave up; its own messages say why"),
            Self::Libxl(what) => write!(f, "libxl refused {what}"),
            Self::Stream(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::NoSession(name) => write!(f, "no session is named {name}; see 'tsmc status'"),
            Self::Mode(mode) => write!(f, "TSMC_MODE is '{mode}': choose tsmc, precopy or postcopy"),
            Self::Lockdown(reason) => write!(f, "the lockdown is not complete: {reason}"),
            Self::Key(error) => error.fmt(f),
            Self::Verify(wish) => write!(f, "TSMC_VERIFY is '{wish}': choose 0 or 1"),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<XenstoreError> for Refusal {
    fn from(error: XenstoreError) -> Self {
        Self::Store(error)
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl From<StreamError> for Refusal {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}
