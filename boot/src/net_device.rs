//! The network frontend as a device of smoltcp.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::Cell;
use core::num::{NonZeroU16, NonZeroUsize};

use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;
use xen_pv::netfront::{Features, Queue, Tx};

use crate::say;

/// An Ethernet header.
const ETHERNET: usize = 14;

/// Packets through the queue of a [`xen_pv::netfront::Netfront`].
///
/// An empty queue, or a full one, asks the backend for a notification by itself: who polls this device until it has
/// nothing more may sleep on the frontend's port.
pub struct NetDevice {
    queue: Queue,
    mtu: u16,
    link: Rc<Link>,
    broken: bool,
}

/// Where the main loop leaves a new queue after the backend came back.
#[derive(Default)]
pub struct Link {
    reopened: Cell<Option<Box<Queue>>>,
}

impl Link {
    /// From the next packet on, this queue is used.
    pub fn replace(&self, queue: Box<Queue>) {
        self.reopened.set(Some(queue));
    }
}

impl NetDevice {
    /// A device on a connected queue; `mtu` is the largest IP packet of its network.
    pub fn new(queue: Queue, mtu: u16) -> Self {
        Self { queue, mtu, link: Rc::default(), broken: false }
    }

    /// What the main loop needs.
    pub fn link(&self) -> Rc<Link> {
        self.link.clone()
    }

    /// What the backend can do.
    pub fn features(&self) -> Features {
        self.queue.features
    }

    fn queue(&mut self) -> &mut Queue {
        if let Some(queue) = self.link.reopened.take() {
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

impl phy::Device for NetDevice {
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
