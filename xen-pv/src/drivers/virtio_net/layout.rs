//! Where a virtio device's registers are: the vendor's capabilities of its configuration space (virtio 1.2, section 4.1.4).

use super::error::Unusable;
use crate::drivers::pci::config::{self, Bar, CAPABILITY_VENDOR, Config};
use crate::drivers::pci::{Error, Width};

/// `VIRTIO_PCI_CAP_COMMON_CFG`, `_NOTIFY_CFG`, `_DEVICE_CFG`.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;

/// Bytes of `struct virtio_pci_common_cfg` that are used.
pub const COMMON_BYTES: u32 = 56;
/// Bytes of `struct virtio_net_config` that are used: address, status, queue pairs, MTU.
pub const DEVICE_BYTES: u32 = 12;
/// Bytes of `struct virtio_pci_cap` without and with the notification's multiplier.
const CAPABILITY: u32 = 16;
const CAPABILITY_NOTIFY: u32 = 20;

/// Red Hat, for virtio.
const VENDOR: u16 = 0x1af4;
/// A network device of version 1, and one that is of the old kind, too.
const DEVICES: [u16; 2] = [0x1041, 0x1000];

/// Where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The common configuration.
    pub common: Bar,
    /// The registers that are notified.
    pub notify: Bar,
    /// Bytes between two queues' registers, times what each queue says.
    pub multiplier: u32,
    /// The network device's own configuration.
    pub device: Bar,
}

/// Finds them; each must lie in its BAR.
pub fn find(config: &mut impl Config) -> Result<Layout, super::error::Error> {
    let identity = config::identity(config)?;
    if identity.vendor != VENDOR || !DEVICES.contains(&identity.device) {
        return Err(Unusable::NotNetwork(identity).into());
    }
    let (mut common, mut notify, mut device) = (None, None, None);
    for at in config::capabilities(config, CAPABILITY_VENDOR)? {
        let head = config.read(at, Width::Double)?;
        let [_, _, length, kind] = head.to_le_bytes();
        match kind {
            COMMON if common.is_none() => common = first(part(config, at, length, COMMON_BYTES)?, COMMON_BYTES),
            DEVICE if device.is_none() => device = first(part(config, at, length, DEVICE_BYTES)?, DEVICE_BYTES),
            NOTIFY
                if notify.is_none()
                    && u32::from(length) >= CAPABILITY_NOTIFY
                    && at <= 256 - CAPABILITY_NOTIFY as u16 =>
            {
                let multiplier = config.read(at + CAPABILITY as u16, Width::Double)?;
                notify = part(config, at, length, 2)?.map(|part| (part, multiplier));
            }
            _ => {}
        }
    }
    let (notify, multiplier) = notify.ok_or(Unusable::Structure("notification"))?;
    Ok(Layout {
        common: common.ok_or(Unusable::Structure("common configuration"))?,
        notify,
        multiplier,
        device: device.ok_or(Unusable::Structure("network configuration"))?,
    })
}

/// The registers that a capability names: none if they are too few, lie outside of their BAR, or askew.
fn part(config: &mut impl Config, at: u16, length: u8, bytes: u32) -> Result<Option<Bar>, Error> {
    if u32::from(length) < CAPABILITY || at > 256 - CAPABILITY as u16 {
        return Ok(None);
    }
    let [index, ..] = config.read(at + 4, Width::Double)?.to_le_bytes();
    let offset = config.read(at + 8, Width::Double)?;
    let size = config.read(at + 12, Width::Double)?;
    if size < bytes || offset % 4 != 0 {
        return Ok(None);
    }
    Ok(config::bar(config, index)?.and_then(|bar| bar.part(offset, size)))
}

/// Its first bytes: more are not used.
fn first(part: Option<Bar>, bytes: u32) -> Option<Bar> {
    part.map(|Bar { address, .. }| Bar { address, size: bytes.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::pci::config::space::Space;

    /// What QEMU's device looks like: BAR 4 has all, 4 KiB each.
    fn qemu() -> Space {
        let mut space = Space::new();
        space.word(0, 0x1041_1af4).word(4, 0x10_0000).word(0x34, 0x40);
        space.word(0x20, 0xfe00_000c).word(0x24, 8);
        space.bars[4] = 0xffff_c000;
        space.bars[5] = u32::MAX;
        for (at, next, kind, length, offset) in
            [(0x40, 0x54, COMMON, 16, 0), (0x54, 0x64, DEVICE, 16, 0x2000), (0x64, 0, NOTIFY, 20, 0x3000)]
        {
            space.word(at, u32::from_le_bytes([CAPABILITY_VENDOR, next, length, kind]));
            space.word(at + 4, 4).word(at + 8, offset).word(at + 12, 0x1000);
        }
        space.word(0x74, 4);
        space
    }

    #[test]
    fn the_registers_of_a_device_are_found() {
        let part = |offset: u64, size| Bar { address: 0x8_fe00_0000 + offset, size };
        let (common, device) = (part(0, 56), part(0x2000, 12));
        let layout = Layout { common, notify: part(0x3000, 0x1000), multiplier: 4, device };
        assert_eq!(find(&mut qemu()), Ok(layout));
    }

    #[test]
    fn another_device_is_refused_by_its_number() {
        let mut space = qemu();
        space.word(0, 0x10d3_8086);
        let error = alloc::format!("{}", find(&mut space).unwrap_err());
        assert!(error.contains("8086:10d3"), "{error}");
    }

    #[test]
    fn registers_outside_their_bar_askew_or_too_few_are_none() {
        for (at, value) in [(0x4c, 55), (0x48, 0x3ff0), (0x48, u32::MAX), (0x48, 2), (0x44, 6), (0x44, 0), (0x4c, 0)] {
            let mut space = qemu();
            space.word(at, value);
            assert_eq!(find(&mut space), Err(Unusable::Structure("common configuration").into()), "{at:#x} {value:#x}");
        }
        let mut space = qemu();
        space.word(0x64, u32::from_le_bytes([CAPABILITY_VENDOR, 0, 16, NOTIFY]));
        assert_eq!(find(&mut space), Err(Unusable::Structure("notification").into()));
    }
}
