//! The agent's configuration, as values; [`command_line`](crate::command_line) reads them from text.

use common::control::{Interface, InterfaceKind};
use common::cost;

use crate::net;
pub use crate::net::{Address, MTU};
use crate::secure::Security;

/// The port agents listen on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7077;

/// What the agent is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// How it comes to its address.
    pub address: Address,
    /// The port it listens on.
    pub port: u16,
    /// Bytes of the largest IP packet; `None` leaves it to the network interface.
    pub mtu: Option<u16>,
    /// Its network interface's hardware address.
    pub mac: [u8; 6],
    /// Bytes of heap that it may use; a migration that would not fit is refused.
    pub memory: usize,
    /// Bytes of its domain that are not heap: the image, buffers of the network, page tables.
    pub beside: usize,
    /// Whether its connections are sealed, and who it is.
    pub security: Security,
    /// The network interface that carries packets, to be told; nothing if nobody knows.
    pub nic: Option<Interface>,
}

impl Config {
    /// What of it the network takes.
    pub(crate) fn network(&self) -> net::Settings {
        let windows = self.windows();
        net::Settings { address: self.address, port: self.port, mtu: self.mtu, mac: self.mac, windows }
    }

    /// Bytes of the memory from which connections get wide windows. A backend drops what comes in bursts that long.
    pub(crate) fn windows(&self) -> usize {
        match &self.nic {
            Some(nic) if nic.kind == InterfaceKind::Vif => 0,
            _ => cost::windows(self.memory),
        }
    }
}
