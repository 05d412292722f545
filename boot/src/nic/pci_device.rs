//! A network device of the domain's own, which dom0 lends by PCI passthrough.

use alloc::boxed::Box;
use core::ops::RangeInclusive;

use common::control::{Interface, InterfaceKind};
use xen_abi::Port;
use xen_pv::drivers::virtio_net::{Description, Error, VirtioNet};
use xen_pv::memory::Pages;
use xen_pv::window::Window;
use xen_pv::xenstore::Xenstore;

use super::{Device, Nic, Reopened, follow};

struct PciDevice {
    net: VirtioNet,
    description: Description,
    mtu: u16,
    reopened: Reopened,
}

/// Brings the device up; waits for it. The pages come back if that fails.
pub fn connect(
    store: &mut Xenstore,
    pages: Pages,
    window: Window,
    mtu: RangeInclusive<u16>,
) -> Result<(Box<dyn Nic>, Device), (Error, Pages)> {
    let (net, description, queue) = VirtioNet::connect(store, pages, window)?;
    let mtu = description.mtu.clamp(*mtu.start(), *mtu.end());
    let reopened = Reopened::default();
    let device = Device::new(queue, mtu, reopened.clone());
    Ok((Box::new(PciDevice { net, description, mtu, reopened }), device))
}

impl Nic for PciDevice {
    fn interface(&self) -> Interface {
        Interface::new(InterfaceKind::Pci, self.description.features.names())
    }

    fn mac(&self) -> [u8; 6] {
        self.description.mac
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn port(&self) -> Option<Port> {
        self.net.port()
    }

    fn poll(&mut self, store: &mut Xenstore) {
        follow(self.net.poll(store), "the device", &self.reopened);
    }
}
