//! What the agent is started with.

use core::net::Ipv4Addr;
use core::ops::RangeInclusive;
use core::str::FromStr;

use common::cost;

use crate::error::ConfigError;
use crate::secure::Security;

/// The port agents listen on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7077;

/// What `mtu=` may be: from what every IPv4 network carries to what any is known to.
pub const MTU: RangeInclusive<u16> = 576..=9216;

/// How the agent comes to its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// It asks the network.
    Dhcp,
    /// It is told.
    Static {
        /// Its own address.
        address: Ipv4Addr,
        /// Bits of the network's prefix.
        prefix: u8,
        /// The way to other networks.
        gateway: Option<Ipv4Addr>,
    },
}

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
}

impl Config {
    /// Reads `ip=10.77.0.11/24 gw=10.77.0.1 port=7077 mtu=1500` or `ip=dhcp`; words that are not known are skipped.
    pub fn from_command_line(line: &str, mac: [u8; 6], memory: usize, security: Security) -> Result<Self, ConfigError> {
        let value = |key: &str| {
            line.split_ascii_whitespace().filter_map(|word| word.split_once('=')).find(|pair| pair.0 == key)
        };
        let address = match value("ip").ok_or(ConfigError::NoAddress)?.1 {
            "dhcp" => Address::Dhcp,
            text => {
                let (address, prefix) = text.split_once('/').unwrap_or((text, "24"));
                let prefix = parse(prefix, "ip")?;
                if !(1..=32).contains(&prefix) {
                    return Err(ConfigError::Bad("ip"));
                }
                let address: Ipv4Addr = parse(address, "ip")?;
                if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
                    return Err(ConfigError::Bad("ip"));
                }
                let gateway = value("gw").map(|pair| parse(pair.1, "gw")).transpose()?;
                Address::Static { address, prefix, gateway }
            }
        };
        let port = value("port").map_or(Ok(DEFAULT_PORT), |pair| parse(pair.1, "port"))?;
        let mtu = value("mtu").map(|pair| parse(pair.1, "mtu")).transpose()?;
        if mtu.is_some_and(|mtu| !MTU.contains(&mtu)) {
            return Err(ConfigError::Bad("mtu"));
        }
        Ok(Self { address, port, mtu, mac, memory, beside: cost::BESIDE, security })
    }
}

fn parse<T: FromStr>(text: &str, key: &'static str) -> Result<T, ConfigError> {
    text.parse().map_err(|_| ConfigError::Bad(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_gives_address_gateway_and_port() {
        let config =
            Config::from_command_line("ip=10.77.0.11/24 gw=10.77.0.1 loglevel=info", [2; 6], 1, Security::Plain)
                .unwrap();
        let address = Ipv4Addr::new(10, 77, 0, 11);
        let gateway = Some(Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(config.address, Address::Static { address, prefix: 24, gateway });
        assert_eq!((config.port, config.mtu), (DEFAULT_PORT, None));
        let config = Config::from_command_line("ip=dhcp port=9 mtu=9000", [2; 6], 1, Security::Plain).unwrap();
        assert_eq!((config.address, config.port, config.mtu), (Address::Dhcp, 9, Some(9000)));
    }

    #[test]
    fn a_command_line_that_makes_no_sense_is_refused() {
        let parse = |line| Config::from_command_line(line, [2; 6], 1, Security::Plain).unwrap_err();
        assert_eq!(parse("port=1"), ConfigError::NoAddress);
        assert_eq!(parse("ip=10.77.0/24"), ConfigError::Bad("ip"));
        assert_eq!(parse("ip=10.77.0.1/77"), ConfigError::Bad("ip"));
        for line in ["ip=0.0.0.0/24", "ip=224.0.0.1/24", "ip=255.255.255.255/24"] {
            assert_eq!(parse(line), ConfigError::Bad("ip"), "{line}");
        }
        assert_eq!(parse("ip=10.77.0.1/24 gw=x"), ConfigError::Bad("gw"));
        assert_eq!(parse("ip=dhcp port=70000"), ConfigError::Bad("port"));
        for line in ["ip=dhcp mtu=575", "ip=dhcp mtu=9217", "ip=dhcp mtu=large"] {
            assert_eq!(parse(line), ConfigError::Bad("mtu"), "{line}");
        }
    }
}
