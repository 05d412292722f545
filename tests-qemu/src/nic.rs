//! The network interface by which agents reach each other.

use std::fmt;

use clap::ValueEnum;

/// The place of each host's second network card on its PCI bus, as `xl` writes it.
pub const DEVICE: &str = "01:00.0";

/// The name of the network driver domain.
pub const DRIVER_DOMAIN: &str = "netdom";

/// An agent's network interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Nic {
    /// The host's second network card itself.
    #[default]
    Pci,
    /// Served by dom0's network backend, like any guest's.
    Vif,
    /// Served by a driver domain that owns the second network card.
    Netdom,
}

impl Nic {
    /// The lines of the agent's `xl.cfg`. An interface that a backend makes up has another hardware address in each life of the
    /// agent, as on hosts that do not say which.
    pub fn configuration(self) -> String {
        match self {
            Self::Vif => "vif=[\"\"]\n".to_owned(),
            Self::Netdom => format!("vif=[\"backend={DRIVER_DOMAIN}\"]\n"),
            Self::Pci => format!("pci=[\"{DEVICE}\"]\n"),
        }
    }
}

impl fmt::Display for Nic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vif => "vif",
            Self::Pci => "pci",
            Self::Netdom => "netdom",
        })
    }
}
