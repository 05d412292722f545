//! What the toolstack asks for.

use alloc::string::String;
use core::fmt;
use core::net::SocketAddrV4;
use core::str::FromStr;
use core::time::Duration;

use super::{Mode, SessionToken, Size, write_key};
use crate::guest::{Backends, DomId};
use crate::key::PublicKey;
use crate::line::{Line, ParseError};

/// How a guest is to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// How its pages move.
    pub mode: Mode,
    /// Whether to compare all memory at the switch.
    pub verify: bool,
    /// It leaves only if what it has to be stopped for is sent in this time. Nothing: however long that takes.
    pub max_downtime: Option<Duration>,
}

/// What the toolstack wants of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Send this domain away.
    Out {
        /// The guest on this host.
        domain: DomId,
        /// How.
        parameters: Parameters,
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
            Self::Out { domain, parameters: Parameters { mode, verify, max_downtime } } => {
                let verify = if *verify { " verify=yes" } else { "" };
                write!(f, "out domain={domain} mode={mode}{verify}")?;
                max_downtime.map_or(Ok(()), |most| write!(f, " max_downtime_ms={}", most.as_millis()))
            }
            Self::In { domain, peer, key, session, size, backends } => {
                write!(f, "in domain={domain} peer={peer} session={session} {size}")?;
                write_key(f, key)?;
                let Backends { store_port, store_domain, console_port, console_domain } = backends;
                write!(f, " store_port={store_port} store_domain={store_domain}")?;
                write!(f, " console_port={console_port} console_domain={console_domain}")
            }
            Self::Recover { note } => write!(f, "recover note={note}"),
            Self::Discard { domain } => write!(f, "discard domain={domain}"),
            Self::Withdraw { domain } => write!(f, "withdraw domain={domain}"),
        }
    }
}

impl FromStr for Request {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let line = Line::new(text);
        match line.word() {
            "out" => Ok(Self::Out {
                domain: line.field("domain")?,
                parameters: Parameters {
                    mode: line.field("mode")?,
                    verify: match line.optional::<String>("verify")?.as_deref() {
                        None | Some("no") => false,
                        Some("yes") => true,
                        Some(_) => return Err(ParseError::Bad("verify")),
                    },
                    max_downtime: line.optional("max_downtime_ms")?.map(Duration::from_millis),
                },
            }),
            "in" => Ok(Self::In {
                domain: line.field("domain")?,
                peer: line.field("peer")?,
                key: line.optional("key")?,
                session: line.field("session")?,
                size: Size::of_line(&line)?,
                backends: Backends {
                    store_port: line.field("store_port")?,
                    store_domain: line.field("store_domain")?,
                    console_port: line.field("console_port")?,
                    console_domain: line.field("console_domain")?,
                },
            }),
            "recover" => Ok(Self::Recover { note: line.field("note")? }),
            "discard" => Ok(Self::Discard { domain: line.field("domain")? }),
            "withdraw" => Ok(Self::Withdraw { domain: line.field("domain")? }),
            _ => Err(ParseError::Bad("request")),
        }
    }
}
