//! An interface's queue as a device of smoltcp.

use core::num::{NonZeroU16, NonZeroUsize};

use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;
use xen_pv::drivers::{Queue, Transmit};

use super::{Reopened, say_broken};

/// An Ethernet header.
const ETHERNET: usize = 14;

/// The side that carries packets.
///
/// An empty queue, or a full one, asks for a notification by itself: who polls this device until it has nothing more may
/// sleep on the interface's port.
pub struct Device {
    queue: Queue,
    mtu: u16,
    reopened: Reopened,
    broken: bool,
}

impl Device {
    pub(super) fn new(queue: Queue, mtu: u16, reopened: Reopened) -> Self {
        Self { queue, mtu, reopened, broken: false }
    }

    fn queue(&mut self) -> &mut Queue {
        if let Some(queue) = self.reopened.take() {
            self.queue = queue;
            self.broken = false;
        }
        if !self.broken
            && let Some(broken) = self.queue.rx.broken().or(self.queue.tx.broken())
        {
            self.broken = true;
            say_broken(broken);
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
        Some((RxToken(packet), TxToken { tx: &mut *queue.tx, segment: None }))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        let queue = self.queue();
        queue.tx.is_ready().then_some(TxToken { tx: &mut *queue.tx, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = ETHERNET + usize::from(self.mtu);
        // The drivers look at received checksums that nobody vouched for.
        capabilities.checksum.udp = Checksum::Tx;
        capabilities.checksum.tcp = if self.queue.checksum { Checksum::None } else { Checksum::Tx };
        capabilities.segmentation.tcpv4 = self.queue.largest_segmented.and_then(NonZeroUsize::new);
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
    tx: &'a mut dyn Transmit,
    segment: Option<NonZeroU16>,
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let (mut f, mut result) = (Some(f), None);
        self.tx.send(length, self.segment, &mut |frame| result = f.take().map(|f| f(frame)));
        result.expect("whoever sends has the packet written, once")
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}
