//! Drivers: how packets leave and reach the domain.
//!
//! - [`netfront`]: the network interface that another domain's backend serves.
//! - [`pci`]: a device that dom0 lends; [`virtio_net`]: the network device that it is.
//!
//! Both give a [`Queue`], whose halves carry packets; who polls them until they have nothing more may sleep on their port.

use alloc::boxed::Box;
use core::fmt;
use core::num::NonZeroU16;

mod buffers;
mod checksum;
pub mod netfront;
pub mod pci;
pub mod virtio_net;
pub mod xenbus;

pub use xen_abi::netif::MAX_TX_SIZE;

/// The half of a queue that receives.
pub trait Receive: fmt::Debug {
    /// The next packet; an empty one was dropped. With none there, a notification comes when there is.
    fn receive(&mut self) -> Option<&mut [u8]>;

    /// Why nothing is received any more.
    fn broken(&self) -> Option<Broken>;
}

/// The half of a queue that sends.
pub trait Transmit: fmt::Debug {
    /// Whether a packet of any size can be sent now. If not, a notification comes when that may have changed.
    fn is_ready(&mut self) -> bool;

    /// Sends a packet of `length` bytes that `fill` writes. `segment` asks for a TCP packet to be cut into segments of that
    /// payload. The packet is dropped if it is longer than [`MAX_TX_SIZE`] or [`Transmit::is_ready`] does not hold.
    fn send(&mut self, length: usize, segment: Option<NonZeroU16>, fill: &mut dyn FnMut(&mut [u8]));

    /// Why nothing is sent any more.
    fn broken(&self) -> Option<Broken>;
}

/// A connected queue.
#[derive(Debug)]
pub struct Queue {
    /// The half that sends.
    pub tx: Box<dyn Transmit>,
    /// The half that receives.
    pub rx: Box<dyn Receive>,
    /// TCP checksums are completed on the other side.
    pub checksum: bool,
    /// Bytes of the largest packet, with its Ethernet header, that the other side cuts into segments; none if it does not.
    pub largest_segmented: Option<usize>,
}

/// What following the other side found.
#[derive(Debug)]
pub enum Event {
    /// Nothing new.
    None,
    /// It went away; packets go nowhere.
    Closed,
    /// It came back, with a new queue.
    Reopened(Queue),
}

/// Why a queue is not used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The backend broke the protocol of the rings.
    #[error("the backend broke the protocol of the rings")]
    Backend,
    /// The device said what cannot be.
    #[error("the device is not to be trusted any more: {0}")]
    Device(virtio_net::Broken),
}
