//! A virtio network device of this domain's own, by PCI: one pair of split queues, checksum and segmentation offload both
//! ways.
//!
//! [`VirtioNet`] brings the device up, follows it as it goes and comes, and stops it when it says what cannot be. Everything
//! that it says is a claim: where its registers are, what is used, how long it is. The device reaches memory only through the
//! IOMMU; one that does not say so is refused ([`Unusable::PastIommu`]).

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::time::Duration;

use common::PAGE_SIZE;
use common::time::Instant;
use xen_abi::{Errno, PAGE_SHIFT, Port};

use super::pci::{self, Pcifront, Registers, Step, config, map};
use super::{Event, MAX_TX_SIZE};
use crate::event::Channel;
use crate::memory::Pages;
use crate::time;
use crate::window::{Held, Window};
use crate::xenstore::Xenstore;

mod common_config;
mod error;
mod features;
#[cfg(fuzzing)]
pub mod fuzzing;
mod header;
mod layout;
mod queue;
mod rx;
#[cfg(test)]
mod tests;
mod tx;

use common_config::{Common, Place};
pub use error::{Error, Unusable};
pub use features::Features;
use layout::Layout;
pub use queue::Broken;
use queue::Queue;
use rx::Rx;
use tx::Tx;

/// Pages that the device needs.
pub const PAGES: usize = pci::PAGES + 2 * queue::PAGES + queue::SIZE as usize + tx::PAGES;

/// Numbers of the queues.
const RX: u16 = 0;
const TX: u16 = 1;

/// Buffers that the largest packet and its header need.
const MOST_BUFFERS: u16 = 17;

/// How often the device is asked whether it still works.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Largest IP packet where nothing else is said.
const MTU: u16 = 1500;
/// Largest IP packet that a page takes with its headers, for devices that use one buffer a packet.
const MTU_OF_PAGE: u16 = (PAGE_SIZE - header::LENGTH - 14) as u16;

/// What both halves of the queue have of the device.
#[derive(Debug)]
struct Link {
    /// Where each queue is notified.
    notify: [Registers; 2],
    running: Cell<bool>,
    broken: Cell<Option<Broken>>,
}

impl Link {
    /// The registers are not touched unless this holds.
    fn is_running(&self) -> bool {
        self.running.get()
    }

    fn notify(&self, queue: u16) {
        if self.is_running() {
            self.notify[usize::from(queue)].write(0, queue);
        }
    }

    /// Nothing is asked of the device any more.
    fn end(&self, broken: Broken) {
        self.running.set(false);
        self.broken.set(Some(broken));
    }

    fn broken(&self) -> Option<super::Broken> {
        self.broken.get().map(super::Broken::Device)
    }
}

/// A device that runs.
#[derive(Debug)]
struct Live {
    common: Common,
    link: Rc<Link>,
    channel: Channel,
    held: Held,
    next_check: Instant,
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Bytes of the largest IP packet.
    pub mtu: u16,
    /// What both can do.
    pub features: Features,
}

/// The network device.
#[derive(Debug)]
pub struct VirtioNet {
    front: Pcifront,
    pages: Pages,
    /// While no device is mapped.
    window: Option<Window>,
    live: Option<Live>,
    description: Option<Description>,
}

impl VirtioNet {
    /// Connects to the backend and brings the device up; waits for both. The pages come back if that fails: no device uses
    /// them.
    pub fn connect(
        store: &mut Xenstore,
        pages: Pages,
        window: Window,
    ) -> Result<(Self, Description, super::Queue), (Error, Pages)> {
        assert!(pages.count() >= PAGES);
        let (page, rest) = pages.share().split(pci::PAGES);
        let front = match Pcifront::connect(store, page) {
            Ok(front) => front,
            Err(error) => return Err((error.into(), pages)),
        };
        let mut net = Self { front, pages: rest, window: Some(window), live: None, description: None };
        match net.start() {
            Ok((description, queue)) => Ok((net, description, queue)),
            Err(error) => Err((error, pages)),
        }
    }

    /// The port that says that packets came or went.
    pub fn port(&self) -> Option<Port> {
        self.live.as_ref().map(|live| live.channel.port())
    }

    /// Follows the backend, and looks whether the device still works. Does not wait, except for xenstore and the backend
    /// when something changed.
    pub fn poll(&mut self, store: &mut Xenstore) -> Result<Event, Error> {
        self.check();
        let step = self.front.poll(store)?;
        if step == Step::Stay {
            return Ok(Event::None);
        }
        let was_live = self.live.is_some();
        self.let_go();
        if step == Step::Reconfigure {
            // The device may be the one that stays.
            let _ = self.front.release_interrupt();
        }
        self.front.take(store, step)?;
        match step {
            Step::Arrive => Ok(Event::Reopened(self.start()?.1)),
            _ if was_live => Ok(Event::Closed),
            _ => Ok(Event::None),
        }
    }

    /// Stops a device that does not work, or said what cannot be.
    fn check(&mut self) {
        let Some(live) = &mut self.live else { return };
        let now = time::now();
        if live.link.is_running() && now >= live.next_check {
            live.next_check = now + CHECK_EVERY;
            if let Err(broken) = live.common.check() {
                live.link.end(broken);
            }
        }
        if !live.link.is_running() {
            self.let_go();
            // It was told to stop. Now it has to.
            let _ = config::disable_master(&mut self.front);
            let _ = self.front.release_interrupt();
        }
    }

    /// Stops the device and unmaps it; its queue does nothing any more.
    fn let_go(&mut self) {
        let Some(Live { common, link, channel, held, .. }) = self.live.take() else { return };
        link.running.set(false);
        common.stop();
        drop(channel);
        self.window = Some(held.release());
    }

    /// Brings the device up.
    fn start(&mut self) -> Result<(Description, super::Queue), Error> {
        let layout = layout::find(&mut self.front)?;
        config::enable_memory(&mut self.front)?;
        let window = self.window.take().ok_or(pci::Error::Xen(Errno::EBUSY))?;
        let (held, registers) = match map_all(window, &layout) {
            Ok(mapped) => mapped,
            Err((window, error)) => {
                self.window = Some(window);
                return Err(error);
            }
        };
        let Mapped { common, device, notify } = registers;
        let link = Rc::new(Link { notify, running: Cell::new(true), broken: Cell::new(None) });
        match self.begin(&common, &device, &link) {
            Ok((description, channel, queue)) => {
                let next_check = time::now() + CHECK_EVERY;
                self.live = Some(Live { common, link, channel, held, next_check });
                Ok((description, queue))
            }
            Err(error) => {
                link.running.set(false);
                common.stop();
                let _ = config::disable_master(&mut self.front);
                let _ = self.front.release_interrupt();
                self.window = Some(held.release());
                Err(error)
            }
        }
    }

    /// Agrees with the device on what both can do, gives it the queues, and lets it run. Until it is accepted it cannot
    /// reach memory.
    fn begin(
        &mut self,
        common: &Common,
        device: &Registers,
        link: &Rc<Link>,
    ) -> Result<(Description, Channel, super::Queue), Error> {
        common.reset()?;
        let features = Features::negotiate(common.offered())?;
        common.accept(features.bits())?;
        let description = describe(device, features)?;
        if self.description.is_some_and(|before| before.mac != description.mac) {
            return Err(Unusable::Another.into());
        }
        let channel = self.front.interrupt()?;
        let address = |pages: &Pages, page: usize| pages.mfn(page).0 << PAGE_SHIFT;
        let (mut rx, tx) = queues(common, self.pages.share(), features, link, address)?;
        config::enable_master(&mut self.front)?;
        common.start();
        rx.start();
        self.description = Some(description);
        let largest_segmented = features.segmentation().then_some(MAX_TX_SIZE);
        let queue =
            super::Queue { tx: Box::new(tx), rx: Box::new(rx), checksum: features.checksum(), largest_segmented };
        Ok((description, channel, queue))
    }
}

/// Registers of a mapped device.
struct Mapped {
    common: Common,
    device: Registers,
    notify: [Registers; 2],
}

/// Maps the registers that are used. Where queues are notified, the device says only once its common configuration is there.
fn map_all(window: Window, layout: &Layout) -> Result<(Held, Mapped), (Window, Error)> {
    let failed = |(window, errno)| (window, pci::Error::Xen(errno).into());
    let (held, mut registers) = map(window, &[layout.common]).map_err(failed)?;
    let offsets = [RX, TX].map(|queue| common_config::notify_offset(&registers[0], queue));
    registers.clear();
    let window = held.release();
    let place = |offset: u16| {
        let offset = u32::from(offset).checked_mul(layout.multiplier)?;
        let inside = offset.is_multiple_of(2) && u64::from(offset) + 2 <= layout.notify.size;
        inside.then(|| config::Bar { address: layout.notify.address + u64::from(offset), size: 2 })
    };
    let [Some(rx), Some(tx)] = offsets.map(place) else {
        return Err((window, Unusable::Structure("notification").into()));
    };
    let (held, registers) = map(window, &[layout.common, layout.device, rx, tx]).map_err(failed)?;
    let Ok([common, device, rx, tx]) = <[Registers; 4]>::try_from(registers) else {
        return Err((held.release(), Unusable::Structure("registers").into()));
    };
    Ok((held, Mapped { common: Common::new(common), device, notify: [rx, tx] }))
}

/// What the network device's own configuration says (`struct virtio_net_config`).
fn describe(device: &Registers, features: Features) -> Result<Description, Unusable> {
    const MTU_OFFSET: usize = 10;
    let mac = core::array::from_fn(|index| device.read::<u8>(index));
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(Unusable::NoMac);
    }
    let said = if features.mtu() { device.read(MTU_OFFSET) } else { MTU };
    let most = if features.mergeable() { u16::MAX } else { MTU_OF_PAGE };
    Ok(Description { mac, mtu: said.min(most), features })
}

/// Makes both queues and hands them to the device. `address` is that of one page of some, as the device addresses memory.
fn queues(
    common: &Common,
    pages: Pages,
    features: Features,
    link: &Rc<Link>,
    address: impl Fn(&Pages, usize) -> u64,
) -> Result<(Rx, Tx), Unusable> {
    let (rx_rings, rest) = pages.split(queue::PAGES);
    let (tx_rings, rest) = rest.split(queue::PAGES);
    let (rx_pages, tx_pages) = rest.split(queue::SIZE.into());
    let make = |index: u16, rings: &Pages| {
        let size = common.queue_size(index)?;
        // SAFETY: the pages belong to this device for ever, and it has one queue of each kind at a time.
        let queue = unsafe { Queue::new([rings.page(0), rings.page(1)], size, features.event_index()) };
        let second = address(rings, 1);
        let (available, used) = (second + queue::AVAILABLE as u64, second + queue::USED as u64);
        common.enable_queue(index, size, Place { descriptors: address(rings, 0), available, used })?;
        Ok::<_, Unusable>(queue)
    };
    let (rx, tx) = (make(RX, &rx_rings)?, make(TX, &tx_rings)?);
    let addresses: Vec<u64> = (0..rx_pages.count()).map(|page| address(&rx_pages, page)).collect();
    let tx = Tx::new(tx, link.clone(), tx_pages, features, address);
    Ok((Rx::new(rx, link.clone(), rx_pages, addresses, features), tx))
}
