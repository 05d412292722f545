//! What an agent says about itself.

use alloc::string::String;
use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

use super::{Interface, write_key};
use crate::guest::Features;
use crate::key::PublicKey;
use crate::line::{Line, ParseError};

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
    /// The network interface that carries its packets; nothing if it does not say.
    pub nic: Option<Interface>,
    /// Its key; nothing if its connections are plain.
    pub key: Option<PublicKey>,
}

impl fmt::Display for AgentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, address, port, memory_kib, largest_mib, features, nic, key } = self;
        write!(
            f,
            "ready version={version} address={address} port={port} memory_kib={memory_kib} largest_mib={largest_mib}"
        )?;
        write!(f, " features={features}")?;
        if let Some(nic) = nic {
            write!(f, " nic={nic}")?;
        }
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
            nic: line.optional("nic")?,
            key: line.optional("key")?,
        })
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every hypervisor that is known can log which pages a guest dirties.
        f.write_str("dirty-log")?;
        let others = [(self.paging, ",paging"), (self.labels, ",labels")];
        others.iter().filter(|(is_there, _)| *is_there).try_for_each(|(_, name)| f.write_str(name))
    }
}

impl FromStr for Features {
    type Err = ParseError;
    /// Names of features that are not known here are skipped.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let has = |name| text.split(',').any(|part| part == name);
        Ok(Self { paging: has("paging"), labels: has("labels") })
    }
}
