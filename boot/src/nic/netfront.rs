//! The interface that dom0's netback serves, and its queue as a device of smoltcp.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::Cell;
use core::fmt;
use core::num::{NonZeroU16, NonZeroUsize};
use core::ops::RangeInclusive;

use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;
use xen_abi::Port;
use xen_pv::memory::Pages;
pub use xen_pv::netfront::PAGES;
use xen_pv::netfront::{Error, Event, Features, Netfront, Queue, Tx};
use xen_pv::xenstore::Xenstore;

use super::Nic;
use crate::say;

/// An Ethernet header.
const ETHERNET: usize = 14;

/// The side that speaks with the backend.
pub struct Vif {
    netfront: Netfront,
    mac: [u8; 6],
    mtu: u16,
    features: Features,
    reopened: Reopened,
}

/// Where the device finds a new queue after the backend came back.
#[derive(Clone, Default)]
struct Reopened(Rc<Cell<Option<Box<Queue>>>>);

/// The side that carries packets.
///
/// An empty queue, or a full one, asks the backend for a notification by itself: who polls this device until it has
/// nothing more may sleep on the interface's ports.
pub struct Device {
    queue: Queue,
    mtu: u16,
    reopened: Reopened,
    broken: bool,
}

/// Connects to the backend; waits for it.
pub fn connect(store: &mut Xenstore, pages: Pages, mtu: RangeInclusive<u16>) -> Result<(Vif, Device), Error> {
    let (netfront, queue) = Netfront::connect(store, pages)?;
    let mac = netfront.mac(store)?;
    let mtu = netfront.mtu(store)?.clamp(*mtu.start(), *mtu.end());
    let vif = Vif { netfront, mac, mtu, features: queue.features, reopened: Reopened::default() };
    let device = Device { queue, mtu, reopened: vif.reopened.clone(), broken: false };
    Ok((vif, device))
}

impl fmt::Display for Vif {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.features)
    }
}

impl Nic for Vif {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn ports(&self) -> impl Iterator<Item = Port> {
        self.netfront.port().into_iter()
    }

    fn poll(&mut self, store: &mut Xenstore) {
        match self.netfront.poll(store) {
            Ok(Event::None) => {}
            Ok(Event::Closed) => say!("network: the backend is gone"),
            Ok(Event::Reopened(queue)) => {
                say!("network: the backend is back");
                self.reopened.0.set(Some(queue));
            }
            Err(error) => say!("{error}"),
        }
    }
}

impl Device {
    fn queue(&mut self) -> &mut Queue {
        if let Some(queue) = self.reopened.0.take() {
            self.queue = *queue;
            self.broken = false;
        }
        if !self.broken && (self.queue.rx.is_broken() || self.queue.tx.is_broken()) {
            self.broken = true;
            say!("network: the backend broke the protocol of the rings; nothing passes until it comes anew");
        }
        &mut self.queue
    }
}

impl phy::Device for Device {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        let queue = self.queue();
        // A packet may be answered at once: without room for the answer it stays where it is.
        if !queue.tx.is_ready() {
            return None;
        }
        let packet = queue.rx.receive()?;
        Some((RxToken(packet), TxToken { tx: &mut queue.tx, segment: None }))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        let queue = self.queue();
        queue.tx.is_ready().then_some(TxToken { tx: &mut queue.tx, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = ETHERNET + usize::from(self.mtu);
        // The frontend looks at received checksums that nobody vouched for.
        capabilities.checksum.udp = Checksum::Tx;
        capabilities.checksum.tcp = if self.queue.features.checksum { Checksum::None } else { Checksum::Tx };
        capabilities.segmentation.tcpv4 = self.queue.largest_segmented().and_then(NonZeroUsize::new);
        capabilities
    }
}

/// A received packet.
pub struct RxToken<'a>(&'a [u8]);

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for a packet to send.
pub struct TxToken<'a> {
    tx: &'a mut Tx,
    segment: Option<NonZeroU16>,
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        self.tx.send(length, self.segment, f)
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}
