//! The network card that an agent has for itself, and taking it out of dom0's reach.
//!
//! Two ways lead from dom0 to the card's registers, and through them to the agent's memory. The frames of its memory: Xen lets a domain
//! map those that are in a list, and who takes a frame from its own list cannot put it back. And configuration space, through which
//! virtio's registers can be had, too, or moved elsewhere: whether dom0 may, Xen asks the policy, by the label of the device at that
//! place. The ports above a card say which place that is, so they get its label.

use std::fs;
use std::io;
use std::path::Path;

use common::DomId;
use rustix::io::Errno;
use xen_abi::privcmd::{Frames, Privcmd};
use xen_abi::{Mfn, PAGE_SHIFT};

use crate::xenstore::{Xenstore, XenstoreError};

/// Who may have a network card that is passed through (`toolstack/flask/tsmc.te`).
pub const CARD_LABEL: &str = "system_u:object_r:tsmc_nic_t";

/// Where Linux shows PCI devices.
const DEVICES: &str = "/sys/bus/pci/devices";

/// A card: what Xen has to be told to take it from dom0.
#[derive(Debug, PartialEq, Eq)]
pub struct Card {
    /// The ports above it, from the root on, and the card.
    devices: Vec<u32>,
    /// Its memory.
    frames: Vec<Frames>,
}

/// Where dom0's PCI backend keeps what it serves to a domain.
pub fn backend(domain: DomId) -> String {
    format!("/local/domain/0/backend/pci/{domain}/0")
}

/// The PCI devices of a domain, as libxl writes them down: `0000:01:00.0`.
pub fn addresses(store: &mut Xenstore, domain: DomId) -> Result<Vec<String>, XenstoreError> {
    let home = backend(domain);
    let mut found = Vec::new();
    for name in store.list(&home)? {
        let is_device = name.strip_prefix("dev-").is_some_and(|number| number.parse::<u32>().is_ok());
        if is_device && let Some(address) = store.read(&format!("{home}/{name}"))? {
            found.push(address);
        }
    }
    Ok(found)
}

impl Card {
    /// Looks where the card is.
    pub fn find(address: &str) -> Result<Self, String> {
        let said = |error: io::Error| format!("{address}: {error}");
        let folder = fs::canonicalize(Path::new(DEVICES).join(address)).map_err(said)?;
        let frames = frames(&fs::read_to_string(folder.join("resource")).map_err(said)?);
        let frames = frames.map_err(|reason| format!("{address} {reason}"))?;
        let devices = devices(&folder).ok_or_else(|| format!("{address} is at {}", folder.display()))?;
        Ok(Self { devices, frames })
    }

    /// Gives the ports its label, and takes its memory from dom0 until the next boot; what dom0 has mapped stays mapped. The policy must
    /// still let dom0 do so.
    pub fn take(&self) -> Result<(), String> {
        let xen = Privcmd::open().map_err(|error| format!("/dev/xen/privcmd: {error}"))?;
        let label = xen.sid(CARD_LABEL).map_err(|error| format!("{CARD_LABEL}: {error}"))?;
        for device in &self.devices {
            xen.label_device(*device, label).map_err(|error| format!("PCI device {device:#x}, label: {error}"))?;
        }
        for frames in &self.frames {
            let &Frames { first: Mfn(first), count } = frames;
            take(&xen, *frames).map_err(|error| format!("{count} frames at {first:#x}: {error}"))?;
        }
        Ok(())
    }
}

/// Takes frames from dom0.
fn take(xen: &Privcmd, frames: Frames) -> Result<(), Errno> {
    match xen.permit_iomem(DomId::DOM0, frames, false) {
        // The policy allows it, so dom0 has only some of them: an earlier attempt was cut short. They are taken one by one.
        Err(Errno::PERM) => (frames.first.0..frames.first.0 + frames.count)
            .map(|frame| Frames { first: Mfn(frame), count: 1 })
            .filter_map(|frame| xen.permit_iomem(DomId::DOM0, frame, false).err())
            .find(|error| *error != Errno::PERM)
            .map_or(Ok(()), Err),
        other => other,
    }
}

/// The devices on the way to one, in Xen's numbers: its folder is in that of the port above it.
fn devices(folder: &Path) -> Option<Vec<u32>> {
    let names = folder.components().filter_map(|part| part.as_os_str().to_str());
    // Above the devices are folders of other names, and `pci0000:00`, the root bus.
    let devices: Vec<_> =
        names.skip_while(|name| !name.starts_with("pci")).skip(1).map(number).collect::<Option<_>>()?;
    (!devices.is_empty()).then_some(devices)
}

/// `0000:01:00.0` as Xen writes it: segment, bus, device, function.
fn number(address: &str) -> Option<u32> {
    let (place, function) = address.split_once('.')?;
    let mut parts = place.split(':').map(|part| u32::from_str_radix(part, 16).ok());
    let [segment, bus, device] = [parts.next()??, parts.next()??, parts.next()??];
    let function: u32 = function.parse().ok()?;
    let fits = parts.next().is_none() && segment < 1 << 16 && bus < 1 << 8 && device < 1 << 5 && function < 1 << 3;
    fits.then_some(segment << 16 | bus << 8 | device << 3 | function)
}

/// The frames of a device's memory, from Linux's list: a line for each of its base addresses (and its ROM), of the first byte, the
/// last, and flags (`include/linux/ioport.h`).
fn frames(list: &str) -> Result<Vec<Frames>, String> {
    const PORTS: u64 = 0x100;
    const MEMORY: u64 = 0x200;
    let mut found = Vec::new();
    for line in list.lines() {
        let numbers: Option<Vec<u64>> =
            line.split_whitespace().map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()).collect();
        let Some(&[first, last, flags]) = numbers.as_deref() else {
            return Err(format!("has resources of a kind that is not known: {line}"));
        };
        if flags & PORTS != 0 {
            return Err("has registers at I/O ports, which nothing takes from dom0".into());
        }
        if flags & MEMORY != 0 && last > first {
            let (first, last) = (first >> PAGE_SHIFT, last >> PAGE_SHIFT);
            found.push(Frames { first: Mfn(first), count: last - first + 1 });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeStore;

    #[test]
    fn the_cards_of_a_domain_are_in_xenstore() {
        let (fake, mut store) = FakeStore::start();
        assert_eq!(addresses(&mut store, DomId(3)).expect("an answer"), Vec::<String>::new());
        for (name, value) in [("num_devs", "1"), ("dev-0", "0000:01:00.0"), ("vdev-0", "0000:00:00.00"), ("state", "4")]
        {
            fake.set(&format!("/local/domain/0/backend/pci/3/0/{name}"), value);
        }
        assert_eq!(addresses(&mut store, DomId(3)).expect("an answer"), ["0000:01:00.0"]);
    }

    #[test]
    fn a_card_is_taken_with_the_ports_above_it() {
        let path = |path: &str| devices(Path::new(path));
        assert_eq!(path("/sys/devices/pci0000:00/0000:00:02.0/0000:01:00.1"), Some(vec![0x10, 0x101]));
        assert_eq!(path("/sys/devices/pci0001:80/0001:80:1f.7"), Some(vec![0x0001_80ff]));
        for strange in ["/sys/devices/pci0000:00", "/sys/devices/pci0000:00/0000:00:02.0/virtio0", "", "/sys"] {
            assert_eq!(path(strange), None, "{strange}");
        }
        for strange in ["10000:00:02.0", "0000:100:02.0", "0000:00:20.0", "0000:00:02.8", "00:02.0", "0000:00:02"] {
            assert_eq!(number(strange), None, "{strange}");
        }
    }

    #[test]
    fn all_of_a_cards_memory_is_taken() {
        // The second, the fifth and the ROM of a virtio device, and one that is smaller than a page.
        let list = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x00000000fe840000 0x00000000fe840fff 0x0000000000040200\n\
                    0x000000fe00000000 0x000000fe00003fff 0x000000000014220c\n\
                    0x00000000fe800800 0x00000000fe8008ff 0x0000000000046200\n";
        let expected = [(0xfe840, 1), (0xfe0_0000, 4), (0xfe800, 1)];
        let expected = expected.map(|(first, count)| Frames { first: Mfn(first), count });
        assert_eq!(frames(list).expect("frames"), expected);
        assert!(frames("0x000000000000c000 0x000000000000c01f 0x0000000000040101\n").is_err(), "I/O ports");
        assert!(frames("0x1 0x2\n").is_err() && frames("a b c\n").is_err());
    }
}
