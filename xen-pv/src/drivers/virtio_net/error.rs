//! Why there is no network device.

use crate::drivers::pci::config::Identity;
use crate::drivers::pci::{self, Failure};

/// Why a device is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is no virtio network device.
    #[error("{:04x}:{:04x} is no virtio network device (1af4:1041)", .0.vendor, .0.device)]
    NotNetwork(Identity),
    /// It has no such registers, or they are where they cannot be.
    #[error("the device has no {0} where one can be")]
    Structure(&'static str),
    /// It knows only virtio from before version 1.
    #[error("the device does not offer VIRTIO_F_VERSION_1")]
    Legacy,
    /// It goes past the IOMMU.
    #[error(
        "the device does not offer VIRTIO_F_ACCESS_PLATFORM: it goes past the IOMMU and could write to any memory of the host \
         (QEMU: iommu_platform=on)"
    )]
    PastIommu,
    /// It has no hardware address.
    #[error("the device has no hardware address")]
    NoMac,
    /// It does not become reset.
    #[error("the device does not become reset")]
    NoReset,
    /// It does not take the features that it offers.
    #[error("the device does not take the features that it offers")]
    Features,
    /// A queue is too small or is not taken; its number and entries.
    #[error("the device does not take queue {0} ({1} entries)")]
    Queue(u16, u16),
    /// It is not the one that was there before: its hardware address is another.
    #[error("the device has another hardware address than the one before it")]
    Another,
}

/// Why there is no network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be reached.
    #[error("PCI: {0}")]
    Pci(#[from] pci::Error),
    /// It is not to be used.
    #[error("PCI: {0}")]
    Refused(#[from] Unusable),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Pci(failure.into())
    }
}
