//! What an agent says about the network interface that carries its packets.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::line::ParseError;

/// By which way packets come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceKind {
    /// Dom0's network backend serves it.
    Vif,
    /// A PCI device of the agent's own.
    Pci,
}

/// A network interface: `vif` or `pci`, then its features, with commas between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// By which way.
    pub kind: InterfaceKind,
    features: Vec<String>,
}

impl Interface {
    /// An interface of a kind with features whose names are words of `a-z`, `0-9` and `-`.
    pub fn new<'a>(kind: InterfaceKind, features: impl Iterator<Item = &'a str>) -> Self {
        Self { kind, features: features.map(ToOwned::to_owned).collect() }
    }

    /// Names of what it can do.
    pub fn features(&self) -> impl Iterator<Item = &str> {
        self.features.iter().map(String::as_str)
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            InterfaceKind::Vif => "vif",
            InterfaceKind::Pci => "pci",
        })?;
        self.features().try_for_each(|name| write!(f, ",{name}"))
    }
}

impl FromStr for Interface {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        let mut words = text.split(',');
        let kind = match words.next() {
            Some("vif") => InterfaceKind::Vif,
            Some("pci") => InterfaceKind::Pci,
            _ => return Err(ParseError::Bad("nic")),
        };
        let features: Vec<&str> = words.collect();
        if !features.iter().all(|name| is_name(name)) {
            return Err(ParseError::Bad("nic"));
        }
        Ok(Self::new(kind, features.into_iter()))
    }
}
