//! Why a migration does not happen, in one line for the operator.

use std::io;

use common::DomId;
use thiserror::Error;

use crate::identity::KeyError;
use crate::name::AGENT_NAME;
use crate::stream::StreamError;
use crate::xenstore::XenstoreError;

/// Why a migration does not happen. Whose fault it is decides the variant.
#[derive(Debug, Error)]
pub enum Refusal {
    /// No agent runs on this host.
    #[error("no migration agent on this host: no domain is named {AGENT_NAME}")]
    NoAgent,
    /// The agent's domain exists but does not serve yet, or no longer.
    #[error("the migration agent of this host (domain {domain}) is not ready")]
    AgentNotReady {
        /// The agent's domain.
        domain: DomId,
    },
    /// The agent's domain was started with what makes no sense.
    #[error("the migration agent of this host (domain {domain}) refuses its configuration: {reason}")]
    AgentRefuses {
        /// The agent's domain.
        domain: DomId,
        /// What the agent says about it.
        reason: String,
    },
    /// The agent does not answer.
    #[error("the migration agent of this host does not answer")]
    AgentSilent,
    /// The agent's domain went away in the middle.
    #[error("the migration agent of this host died during the migration")]
    AgentLost,
    /// As many guests as the agent has rings for are on their way.
    #[error(
        "the migration agent of this host can be lent no more guests at a time: wait for one of those that are on their way"
    )]
    NoRing,
    /// The rings are not what this program knows.
    #[error(
        "the migration agent of this host comes from another version than these tools, and cannot be lent guests: start the agent \
         that they came with"
    )]
    OtherRing,
    /// The agent says that it is done, but not where the rings are.
    #[error("the migration agent of this host did not say where the guest's rings are")]
    NoRings,
    /// The agent says no.
    #[error("{0}")]
    Agent(String),
    /// libxl wants no more of it.
    #[error("cancelled")]
    Cancelled,
    /// The process that started us is gone.
    #[error("the toolstack process that asked for the migration died")]
    ParentGone,
    /// The other host's side of the stream is gone; the agent may know more.
    #[error("the other host's toolstack gave up; its own messages say why")]
    PeerGone,
    /// libxl refused something it always grants.
    #[error("libxl refused {0}")]
    Libxl(&'static str),
    /// The stream cannot be taken.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// xenstored fails us.
    #[error(transparent)]
    Store(#[from] XenstoreError),
    /// The agent knows no session of this name.
    #[error("no session is named {0}; see 'tsmc status'")]
    NoSession(String),
    /// `xl` knows no such guest.
    #[error("there is no guest {0} here; see 'xl list'")]
    NoGuest(String),
    /// The other host's dom0 cannot be asked.
    #[error("cannot ask {host} whether the guest may come: {reason}")]
    OtherHost {
        /// The other host.
        host: String,
        /// The last that was heard of it.
        reason: String,
    },
    /// What keeps the guest where it is. Nothing was begun.
    #[error("the guest stays here:\n  {}", .0.join("\n  "))]
    Preflight(Vec<String>),
    /// Not what another host's `tsmc` sends.
    #[error("standard input does not say what a guest needs")]
    Needs,
    /// `TSMC_MODE` is no mode.
    #[error("TSMC_MODE is '{0}': choose tsmc, precopy or postcopy")]
    Mode(String),
    /// `TSMC_MAX_DOWNTIME` is no time.
    #[error("TSMC_MAX_DOWNTIME is '{0}': give a number of milliseconds")]
    MaxDowntime(String),
    /// The policy does not do what the lockdown asks of it.
    #[error("the lockdown is not complete: {0}")]
    Lockdown(String),
    /// There is no key, or no module.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// `TSMC_VERIFY` is neither yes nor no.
    #[error("TSMC_VERIFY is '{0}': choose 0 or 1")]
    Verify(String),
    /// The operating system fails us.
    #[error(transparent)]
    System(#[from] io::Error),
}
