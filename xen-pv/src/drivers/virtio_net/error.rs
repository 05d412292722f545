//! Why there is no network device.

use core::fmt;

use crate::drivers::pci::config::Identity;
use crate::drivers::pci::{self, Failure};

/// Why a device is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no virtio network device.
    NotNetwork(Identity),
    /// It has no such registers, or they are where they cannot be.
    Structure(&'static str),
    /// It knows only virtio from before version 1.
    Legacy,
    /// It goes past the IOMMU.
    PastIommu,
    /// It has no hardware address.
    NoMac,
    /// It does not become reset.
    NoReset,
    /// It does not take the features that it offers.
    Features,
    /// A queue is too small or is not taken; its number and entries.
    Queue(u16, u16),
    /// It is not the one that was there before: its hardware address is another.
    Another,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNetwork(Identity { vendor, device }) => {
                write!(f, "{vendor:04x}:{device:04x} is no virtio network device (1af4:1041)")
            }
            Self::Structure(name) => write!(f, "the device has no {name} where one can be"),
            Self::Legacy => f.write_str("the device does not offer VIRTIO_F_VERSION_1"),
            Self::PastIommu => f.write_str(
                "the device does not offer VIRTIO_F_ACCESS_PLATFORM: it goes past the IOMMU and could write to any memory \
                 of the host (QEMU: iommu_platform=on)",
            ),
            Self::NoMac => f.write_str("the device has no hardware address"),
            Self::NoReset => f.write_str("the device does not become reset"),
            Self::Features => f.write_str("the device does not take the features that it offers"),
            Self::Queue(index, size) => write!(f, "the device does not take queue {index} ({size} entries)"),
            Self::Another => f.write_str("the device has another hardware address than the one before it"),
        }
    }
}

/// Why there is no network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It cannot be reached.
    Pci(pci::Error),
    /// It is not to be used.
    Refused(Refusal),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(error) => write!(f, "PCI: {error}"),
            Self::Refused(refusal) => write!(f, "PCI: {refusal}"),
        }
    }
}

impl core::error::Error for Error {}

impl From<pci::Error> for Error {
    fn from(error: pci::Error) -> Self {
        Self::Pci(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Pci(failure.into())
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
