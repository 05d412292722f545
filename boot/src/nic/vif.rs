//! The interface that dom0's netback serves.

use alloc::boxed::Box;
use core::ops::RangeInclusive;

use common::control::{Interface, InterfaceKind};
use xen_abi::Port;
use xen_pv::drivers::netfront::{Error, Netfront};
use xen_pv::memory::Pages;
use xen_pv::xenstore::Xenstore;

use super::{Device, Nic, Reopened, follow};

struct Vif {
    netfront: Netfront,
    mac: [u8; 6],
    mtu: u16,
    reopened: Reopened,
}

/// Connects to the backend; waits for it.
pub fn connect(store: &mut Xenstore, pages: Pages, mtu: RangeInclusive<u16>) -> Result<(Box<dyn Nic>, Device), Error> {
    let (netfront, queue) = Netfront::connect(store, pages)?;
    let mac = netfront.mac(store)?;
    let mtu = netfront.mtu(store)?.clamp(*mtu.start(), *mtu.end());
    let reopened = Reopened::default();
    let device = Device::new(queue, mtu, reopened.clone());
    Ok((Box::new(Vif { netfront, mac, mtu, reopened }), device))
}

impl Nic for Vif {
    fn interface(&self) -> Interface {
        let features = self.netfront.features();
        let named = [
            (features.checksum, "checksum"),
            (features.segmentation, "segmentation"),
            (features.scatter_gather, "scatter-gather"),
        ];
        let names = named.into_iter().filter_map(|(has, name)| has.then_some(name));
        Interface::new(InterfaceKind::Vif, names)
    }

    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn port(&self) -> Option<Port> {
        self.netfront.port()
    }

    fn poll(&mut self, store: &mut Xenstore) {
        follow(self.netfront.poll(store), "the backend", &self.reopened);
    }
}
