//! The interface that dom0's netback serves.

use alloc::boxed::Box;
use core::ops::RangeInclusive;

use common::control::{Interface, InterfaceKind};
use xen_abi::Port;
use xen_pv::drivers::netfront::{Error, Netfront};
use xen_pv::memory::Pages;
use xen_pv::xenstore::Xenstore;

use super::{Device, Nic, Reopened, Up, follow};

struct Vif {
    netfront: Netfront,
    reopened: Reopened,
}

/// Connects to the backend; waits for it.
pub fn connect(store: &mut Xenstore, pages: Pages, mtu: RangeInclusive<u16>) -> Result<Up, Error> {
    let (netfront, queue) = Netfront::connect(store, pages)?;
    let features = netfront.features();
    let named = [
        (features.checksum, "checksum"),
        (features.segmentation, "segmentation"),
        (features.scatter_gather, "scatter-gather"),
    ];
    let interface = Interface::new(InterfaceKind::Vif, named.into_iter().filter_map(|(has, name)| has.then_some(name)));
    let mac = netfront.mac(store)?;
    let mtu = netfront.mtu(store)?.clamp(*mtu.start(), *mtu.end());
    let reopened = Reopened::default();
    let device = Device::new(queue, mtu, reopened.clone());
    Ok(Up { nic: Box::new(Vif { netfront, reopened }), device, interface, mac, mtu })
}

impl Nic for Vif {
    fn port(&self) -> Option<Port> {
        self.netfront.port()
    }

    fn poll(&mut self, store: &mut Xenstore) -> bool {
        follow(self.netfront.poll(store), "the backend", &self.reopened)
    }
}
