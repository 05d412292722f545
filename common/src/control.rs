//! What the toolstack and the agent say to each other over xenstore.
//!
//! Every node holds one line: an optional bare first word, then `key=value` pairs with single spaces between them.
//! `reason=` comes last and takes the rest of the line. Both sides use this module: the agent without an operating
//! system, the toolstack in dom0 with one. Paths are relative to the agent's own directory, [`ROOT`].
//!
//! | node | who writes | what |
//! |---|---|---|
//! | `agent` | agent | [`AgentStatus`]: it can serve |
//! | `rings` | agent | [`Ring`]s, with spaces between them: where a broker in dom0 lends it guests, on a hypervisor without FLASK |
//! | `refused` | agent | why it does not start, in one line |
//! | `request/<id>` | dom0 | [`Request`] |
//! | `request/<id>/suspended` | dom0 | `yes` or `no`: the answer to [`State::Suspend`] |
//! | `request/<id>/cancel` | dom0 | anything: give up, if the commit has not happened |
//! | `session/<id>/state` | agent | [`State`] |
//! | `session/<id>/built` | agent | [`State::Built`], to stay |
//! | `session/<id>/note` | agent | what its next life must know, sealed: [`Request::Recover`] |
//! | `session/<id>/progress` | agent | [`Progress`] |
//! | `session/<id>/summary` | agent | [`Summary`], once, at the end |

mod interface;
mod report;
mod request;
mod ring;
mod state;
mod status;

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;

use crate::hex;
use crate::key::PublicKey;
use crate::line::{Line, ParseError};
pub use interface::{Interface, InterfaceKind};
pub use report::{Progress, Summary};
pub use request::{Parameters, Request};
pub use ring::Ring;
pub use state::{FailureCause, State};
pub use status::AgentStatus;

/// The agent's directory, relative to the home of its domain in xenstore.
pub const ROOT: &str = "data/tsmc";
/// Where the agent says that it can serve.
pub const AGENT: &str = "agent";
/// Where the agent says at which rings it waits for brokers.
pub const RINGS: &str = "rings";
/// Where an agent that does not start says why: one line.
pub const REFUSED: &str = "refused";
/// Where dom0 leaves requests.
pub const REQUESTS: &str = "request";
/// Where the agent reports.
pub const SESSIONS: &str = "session";

/// The name of a request and of the session that answers it: 1 to 32 of `a-z`, `0-9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(String);

impl RequestId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The node of the request itself.
    pub fn request(&self) -> String {
        format!("{REQUESTS}/{}", self.0)
    }
    /// The node of the toolstack's answer to [`State::Suspend`].
    pub fn suspended(&self) -> String {
        format!("{REQUESTS}/{}/suspended", self.0)
    }
    /// The node that cancels.
    pub fn cancel(&self) -> String {
        format!("{REQUESTS}/{}/cancel", self.0)
    }
    /// The node above all that the agent reports about this session.
    pub fn session(&self) -> String {
        format!("{SESSIONS}/{}", self.0)
    }
    /// The node of the [`State`].
    pub fn state(&self) -> String {
        format!("{SESSIONS}/{}/state", self.0)
    }
    /// The node that keeps [`State::Built`] when later states have replaced it: a toolstack that looks late still
    /// needs the rings.
    pub fn built(&self) -> String {
        format!("{SESSIONS}/{}/built", self.0)
    }
    /// The node of what a later life of the agent must know of this session: see [`Request::Recover`].
    pub fn note(&self) -> String {
        format!("{SESSIONS}/{}/note", self.0)
    }
    /// The node of the [`Progress`].
    pub fn progress(&self) -> String {
        format!("{SESSIONS}/{}/progress", self.0)
    }
    /// The node of the [`Summary`].
    pub fn summary(&self) -> String {
        format!("{SESSIONS}/{}/summary", self.0)
    }
}

impl FromStr for RequestId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fits = (1..=32).contains(&text.len());
        let clean = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits && clean { Ok(Self(text.to_string())) } else { Err(ParseError::Bad("request id")) }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What names a session to both agents: drawn by the source's agent, shown to the target's through the toolstack.
/// A known agent that says it may have the guest; in clear only a hash of it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionToken(pub [u8; 16]);

impl fmt::Display for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::Shown(&self.0).fmt(f)
    }
}

impl FromStr for SessionToken {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        hex::parse(text).map(Self).ok_or(ParseError::Bad("session"))
    }
}

/// How the memory moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Three stages: full copy, dirty bitmap, dirty pages on demand and by push.
    #[default]
    Tsmc,
    /// Iterate over dirty pages, then stop and copy.
    Precopy,
    /// No full copy: every page follows on demand and by push. To compare with.
    Postcopy,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tsmc => "tsmc",
            Self::Precopy => "precopy",
            Self::Postcopy => "postcopy",
        })
    }
}

impl FromStr for Mode {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "tsmc" => Ok(Self::Tsmc),
            "precopy" => Ok(Self::Precopy),
            "postcopy" => Ok(Self::Postcopy),
            _ => Err(ParseError::Bad("mode")),
        }
    }
}

/// What a migration's memory at both ends depends on: facts of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Its guest frames: one more than the highest in use.
    pub frames: u64,
    /// Pages whose digests may have to be kept; none if it is not verified.
    pub digests: u64,
}

impl Size {
    /// That of a line; what an older agent or helper says nothing of counts as nothing.
    pub fn of_line(line: &Line<'_>) -> Result<Self, ParseError> {
        let field = |key| Ok(line.optional(key)?.unwrap_or(0));
        Ok(Self { frames: field("frames")?, digests: field("digests")? })
    }

    /// That of a guest with so much memory that is not verified. Hypervisor and toolstack put rings and tables below 4 GiB: a
    /// guest has frames there, however small it is, and a hole as large as they may need.
    pub fn of_memory(mib: u64) -> Self {
        Self { frames: (mib * 256 + HOLE).max(BELOW_4_GIB), digests: 0 }
    }

    /// The memory of the largest guest with no more frames, in MiB.
    pub fn memory_mib(&self) -> u64 {
        if self.frames < BELOW_4_GIB { 0 } else { (self.frames - HOLE) / 256 }
    }
}

/// Frames below 4 GiB, and those of them that are no memory.
const BELOW_4_GIB: u64 = 1 << 20;
const HOLE: u64 = 1 << 16;

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, digests } = self;
        write!(f, "frames={frames} digests={digests}")
    }
}

fn write_key(f: &mut fmt::Formatter<'_>, key: &Option<PublicKey>) -> fmt::Result {
    key.iter().try_for_each(|key| write!(f, " key={key}"))
}

#[cfg(test)]
mod tests;
