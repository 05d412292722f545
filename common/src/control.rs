//! What the toolstack and the agent say to each other over xenstore.
//!
//! Every node holds one line: an optional bare first word, then `key=value` pairs with single spaces between them.
//! `reason=` comes last and takes the rest of the line. Both sides use this module: the agent without an operating
//! system, the toolstack in dom0 with one. Paths are relative to the agent's own directory, [`ROOT`].
//!
//! | node | who writes | what |
//! |---|---|---|
//! | `agent` | agent | [`AgentStatus`]: it can serve |
//! | `refused` | agent | why it does not start, in one line |
//! | `request/<id>` | dom0 | [`Request`] |
//! | `request/<id>/suspended` | dom0 | `yes` or `no`: the answer to [`State::Suspend`] |
//! | `request/<id>/cancel` | dom0 | anything: give up, if the commit has not happened |
//! | `session/<id>/state` | agent | [`State`] |
//! | `session/<id>/built` | agent | [`State::Built`], to stay |
//! | `session/<id>/note` | agent | what its next life must know, sealed: [`Request::Recover`] |
//! | `session/<id>/progress` | agent | [`Progress`] |
//! | `session/<id>/summary` | agent | [`Summary`], once, at the end |

mod report;

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::str::FromStr;

use crate::guest::{Backends, DomId, Features, Gfn};
use crate::hex;
use crate::key::PublicKey;
use crate::line::{Line, ParseError};
pub use report::{Progress, Summary};

/// The agent's directory, relative to the home of its domain in xenstore.
pub const ROOT: &str = "data/tsmc";
/// Where the agent says that it can serve.
pub const AGENT: &str = "agent";
/// Where an agent that does not start says why: one line.
pub const REFUSED: &str = "refused";
/// Where dom0 leaves requests.
pub const REQUESTS: &str = "request";
/// Where the agent reports.
pub const SESSIONS: &str = "session";

/// Reasons of [`State::Failed`] that the toolstack tells apart.
pub mod reason {
    /// There is no such guest, or no more.
    pub const GONE: &str = "the guest is gone";
    /// Another session has the guest, and goes on.
    pub const IN_HAND: &str = "an earlier migration of the guest has not ended here; see 'tsmc status'";
    /// The guest that was to be recovered had not left: it is whole, and runs on here.
    pub const HERE: &str = "the guest has not left: it runs here";
    /// The commit was undone: the guest's copy on the other host had never run.
    pub const REVOKED: &str = "the guest never ran on the other host; it is back";
    /// What was kept of a guest that has left was destroyed before the target had all of it.
    pub const LOST: &str =
        "what was kept of the guest is gone: somebody destroyed it before the other host had all of it";
    /// The target will never get the rest of the guest: see [`Request::Discard`](super::Request::Discard).
    pub const DISCARDED: &str = "an operator has discarded what was kept of the guest";
    /// A guest that was to be withdrawn has run: see [`Request::Withdraw`](super::Request::Withdraw).
    pub const HAS_RUN: &str = "the guest has run here";
    /// How a session can end that took up what an earlier life of the agent left. For any other reason it took up nothing.
    pub const OF_ENDS: [&str; 5] = [GONE, HERE, REVOKED, LOST, DISCARDED];
}

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
        hex::write(f, &self.0)
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

/// What the toolstack wants of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Send this domain away.
    Out {
        /// The guest on this host.
        domain: DomId,
        /// How.
        mode: Mode,
        /// Whether to compare all memory at the switch.
        verify: bool,
    },
    /// Fill this domain from another agent.
    In {
        /// The empty domain on this host.
        domain: DomId,
        /// The source's agent.
        peer: SocketAddrV4,
        /// The source's agent's key; nothing if its connections are plain.
        key: Option<PublicKey>,
        /// What the source's agent knows the migration by.
        session: SessionToken,
        /// What the source's agent says of the guest.
        size: Size,
        /// Who serves the guest's xenstore and console.
        backends: Backends,
    },
    /// Take up what an earlier life of the agent left when it died.
    Recover {
        /// What it left in [`RequestId::note`], as it was.
        note: String,
    },
    /// Free what is kept of a guest that has left: its operator says that the other host will never call again.
    Discard {
        /// What is left of the guest on this host.
        domain: DomId,
    },
    /// Say whether a guest that arrived, and that its toolstack has paused, may be destroyed here: [`State::Complete`] if it
    /// has never run on this host, so that it goes on where it came from.
    Withdraw {
        /// The guest on this host.
        domain: DomId,
    },
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Out { domain, mode, verify } => {
                let verify = if *verify { " verify=yes" } else { "" };
                write!(f, "out domain={} mode={mode}{verify}", domain.0)
            }
            Self::In { domain, peer, key, session, size, backends } => {
                write!(f, "in domain={} peer={peer} session={session} {size}", domain.0)?;
                write_key(f, key)?;
                let Backends { store_port, store_domain, console_port, console_domain } = backends;
                write!(f, " store_port={store_port} store_domain={}", store_domain.0)?;
                write!(f, " console_port={console_port} console_domain={}", console_domain.0)
            }
            Self::Recover { note } => write!(f, "recover note={note}"),
            Self::Discard { domain } => write!(f, "discard domain={}", domain.0),
            Self::Withdraw { domain } => write!(f, "withdraw domain={}", domain.0),
        }
    }
}

impl FromStr for Request {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let line = Line::new(text);
        match line.word() {
            "out" => Ok(Self::Out {
                domain: DomId(line.field("domain")?),
                mode: line.field("mode")?,
                verify: match line.optional::<String>("verify")?.as_deref() {
                    None | Some("no") => false,
                    Some("yes") => true,
                    Some(_) => return Err(ParseError::Bad("verify")),
                },
            }),
            "in" => Ok(Self::In {
                domain: DomId(line.field("domain")?),
                peer: line.field("peer")?,
                key: line.optional("key")?,
                session: line.field("session")?,
                size: size_of(&line)?,
                backends: Backends {
                    store_port: line.field("store_port")?,
                    store_domain: DomId(line.field("store_domain")?),
                    console_port: line.field("console_port")?,
                    console_domain: DomId(line.field("console_domain")?),
                },
            }),
            "recover" => Ok(Self::Recover { note: line.field("note")? }),
            "discard" => Ok(Self::Discard { domain: DomId(line.field("domain")?) }),
            "withdraw" => Ok(Self::Withdraw { domain: DomId(line.field("domain")?) }),
            _ => Err(ParseError::Bad("request")),
        }
    }
}

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
    /// Target: the frame of the guest stands, memory follows. It stays so until [`State::Ready`].
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
        /// Why, in one line.
        reason: String,
    },
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
            Self::Failed { reason } => write!(f, "failed reason={reason}"),
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
                size: size_of(&line)?,
            },
            "copying" => Self::Copying,
            "suspend" => Self::Suspend,
            "committed" => Self::Committed,
            "built" => Self::Built { store: Gfn(line.field("store_gfn")?), console: Gfn(line.field("console_gfn")?) },
            "ready" => Self::Ready,
            "running" => Self::Running,
            "complete" => Self::Complete,
            "interrupted" => Self::Interrupted { reason: line.reason()? },
            "failed" => Self::Failed { reason: line.reason()? },
            _ => return Err(ParseError::Bad("state")),
        })
    }
}

/// What an agent says about itself once it can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentStatus {
    /// Its version.
    pub version: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The port it listens on while a session waits.
    pub port: u16,
    /// Bytes of heap it may use, in KiB.
    pub memory_kib: u64,
    /// Memory of the largest guest that it can serve, in MiB.
    pub largest_mib: u64,
    /// What its hypervisor can do.
    pub features: Features,
    /// Its key; nothing if its connections are plain.
    pub key: Option<PublicKey>,
}

impl fmt::Display for AgentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, address, port, memory_kib, largest_mib, features, key } = self;
        write!(
            f,
            "ready version={version} address={address} port={port} memory_kib={memory_kib} largest_mib={largest_mib}"
        )?;
        write!(f, " features={features}")?;
        write_key(f, key)
    }
}

impl FromStr for AgentStatus {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let line = Line::new(text);
        if line.word() != "ready" {
            return Err(ParseError::Bad("agent"));
        }
        Ok(Self {
            version: line.field("version")?,
            address: line.field("address")?,
            port: line.field("port")?,
            memory_kib: line.field("memory_kib")?,
            largest_mib: line.optional("largest_mib")?.unwrap_or(u64::MAX),
            features: line.field("features")?,
            key: line.optional("key")?,
        })
    }
}

/// What an older agent or helper says nothing of counts as nothing.
fn size_of(line: &Line<'_>) -> Result<Size, ParseError> {
    let field = |key| Ok(line.optional(key)?.unwrap_or(0));
    Ok(Size { frames: field("frames")?, digests: field("digests")? })
}

fn write_key(f: &mut fmt::Formatter<'_>, key: &Option<PublicKey>) -> fmt::Result {
    key.iter().try_for_each(|key| write!(f, " key={key}"))
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [(self.dirty_log, "dirty-log"), (self.paging, "paging"), (self.foreign_map, "foreign-map")];
        let mut names = named.iter().filter(|(has, _)| *has).map(|(_, name)| *name);
        f.write_str(names.next().unwrap_or("none"))?;
        names.try_for_each(|name| write!(f, ",{name}"))
    }
}

impl FromStr for Features {
    type Err = ParseError;
    /// Names of features that are not known here are skipped.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let has = |name| text.split(',').any(|part| part == name);
        Ok(Self { dirty_log: has("dirty-log"), paging: has("paging"), foreign_map: has("foreign-map") })
    }
}

#[cfg(test)]
mod tests;
