//! The agent's command line, such as `ip=10.77.0.11/24 gw=10.77.0.1 port=7077 mtu=1500`, or `ip=dhcp`.

use common::cost;
use log::LevelFilter;

use super::{Result, Word, Words, address, address_in_network, bad};
use crate::config::{Address, Config, DEFAULT_PORT, MTU};
use crate::secure::Security;

const IP: Word = Word::with_value("ip=", "an IPv4 address with its prefix, such as 10.77.0.11/24, or dhcp");
const GATEWAY: Word = Word::with_value("gw=", "an IPv4 address, and goes with an ip= that is not dhcp");
const PORT: Word = Word::with_value("port=", "a number from 1 to 65535");
const MTU_BYTES: Word = Word::with_value("mtu=", "a number from 576 to 9216");
const LOG_LEVEL: Word = Word::with_value("loglevel=", "off, error, warn, info, debug or trace");
const PLAIN: Word = Word::alone("plain");

/// What an agent is told on its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentOptions {
    /// `ip=` and `gw=`: how it comes to its address.
    pub address: Address,
    /// `port=`: where it listens.
    pub port: u16,
    /// `mtu=`: bytes of the largest IP packet; `None` leaves it to the network interface.
    pub mtu: Option<u16>,
    /// `loglevel=`: what it says on its console.
    pub log_level: LevelFilter,
    /// `plain`: its connections are neither encrypted nor authenticated.
    pub plain: bool,
}

impl AgentOptions {
    /// Reads a command line.
    pub fn parse(line: &str) -> Result<Self> {
        let words = Words::parse(line, &[IP, GATEWAY, PORT, MTU_BYTES, LOG_LEVEL, PLAIN])?;
        let ip = words.required(&IP, |text| match text {
            "dhcp" => Some(None),
            _ => address_in_network(text).map(Some),
        })?;
        let gateway = words.value(&GATEWAY, address)?;
        let address = match (ip, words.text(&GATEWAY)) {
            (None, None) => Address::Dhcp,
            (None, Some(text)) => return Err(bad(&GATEWAY, text)),
            (Some((address, prefix)), _) => Address::Static { address, prefix, gateway },
        };
        let port = words.value(&PORT, |text| text.parse::<u16>().ok().filter(|port| *port != 0))?;
        let mtu = words.value(&MTU_BYTES, |text| text.parse::<u16>().ok().filter(|mtu| MTU.contains(mtu)))?;
        let log_level = words.value(&LOG_LEVEL, |text| text.parse().ok())?;
        Ok(Self {
            address,
            port: port.unwrap_or(DEFAULT_PORT),
            mtu,
            log_level: log_level.unwrap_or(LevelFilter::Info),
            plain: words.has(&PLAIN),
        })
    }

    /// With all else that an agent is started with: its network interface's hardware address, bytes of heap that it may use, and who
    /// it is.
    pub fn config(&self, mac: [u8; 6], memory: usize, security: Security) -> Config {
        let Self { address, port, mtu, .. } = *self;
        Config { address, port, mtu, mac, memory, beside: cost::BESIDE, security, nic: None }
    }
}
