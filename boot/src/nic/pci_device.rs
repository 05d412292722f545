//! A network device of the domain's own, which dom0 lends by PCI passthrough.

use alloc::boxed::Box;
use core::ops::RangeInclusive;

use common::control::{Interface, InterfaceKind};
use xen_abi::Port;
use xen_pv::drivers::virtio_net::{Description, Error, VirtioNet};
use xen_pv::memory::Pages;
use xen_pv::window::Window;
use xen_pv::xenstore::Xenstore;

use super::{Device, Nic, Reopened, Up, follow};

struct PciDevice {
    net: VirtioNet,
    reopened: Reopened,
}

/// Brings the device up; waits for it. The pages come back if that fails.
pub fn connect(
    store: &mut Xenstore,
    pages: Pages,
    window: Window,
    mtu: RangeInclusive<u16>,
) -> Result<Up, (Error, Pages)> {
    let (net, Description { mac, mtu: own, features }, queue) = VirtioNet::connect(store, pages, window)?;
    let interface = Interface::new(InterfaceKind::Pci, features.names());
    let mtu = own.clamp(*mtu.start(), *mtu.end());
    let reopened = Reopened::default();
    let device = Device::new(queue, mtu, reopened.clone());
    Ok(Up { nic: Box::new(PciDevice { net, reopened }), device, interface, mac, mtu })
}

impl Nic for PciDevice {
    fn port(&self) -> Option<Port> {
        self.net.port()
    }

    fn poll(&mut self, store: &mut Xenstore) -> bool {
        follow(self.net.poll(store), "the device", &self.reopened)
    }
}
