//! Network interfaces: what an image needs of one, and where it is found and brought up.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::cell::Cell;
use core::fmt;
use core::ops::RangeInclusive;

use common::control::Interface;
use xen_abi::Port;
use xen_pv::drivers::{self, Event, Queue, netfront, pci, virtio_net};
use xen_pv::memory::Memory;
use xen_pv::xenstore::Xenstore;

use crate::say;
use crate::start::Pool;

mod device;
mod pci_device;
mod vif;

pub use device::Device;

/// Pages that either interface needs.
const PAGES: usize = if virtio_net::PAGES > netfront::PAGES { virtio_net::PAGES } else { netfront::PAGES };

/// A network interface that is up.
pub struct Up {
    /// Follows its other side.
    pub nic: Box<dyn Nic>,
    /// Carries its packets.
    pub device: Device,
    /// What it is and what it can do.
    pub interface: Interface,
    /// The hardware address.
    pub mac: [u8; 6],
    /// Bytes of the largest IP packet.
    pub mtu: u16,
}

/// A network interface, apart from its packets.
pub trait Nic {
    /// The port that says that packets came or went.
    fn port(&self) -> Option<Port>;

    /// Follows whoever is on its other side; whether that has come back. Does not wait, except for xenstore and the backend when
    /// something changed.
    fn poll(&mut self, store: &mut Xenstore) -> bool;
}

/// Where a device finds a new queue after its other side came back.
type Reopened = Rc<Cell<Option<Queue>>>;

/// Finds and brings up the domain's network interface, for packets whose largest size is in `mtu`: a PCI device if it has
/// one, else what a backend serves.
pub fn bring_up(
    memory: &mut Memory,
    pool: &mut Pool,
    store: &mut Xenstore,
    mtu: RangeInclusive<u16>,
) -> Result<Up, String> {
    let failed = |error: &dyn fmt::Display| format!("network: {error}");
    let pages = pool.take(PAGES).map_err(|errno| failed(&errno))?;
    if !pci::exists(store).map_err(|error| failed(&error))? {
        return vif::connect(store, pages, mtu).map_err(|error| error.to_string());
    }
    let has_vif = netfront::exists(store).map_err(|error| error.to_string())?;
    let window = memory.window().map_err(|errno| failed(&errno))?;
    match pci_device::connect(store, pages, window, mtu.clone()) {
        Ok(up) => {
            if has_vif {
                say!("network: there are a PCI device and a vif: the device is taken, dom0 need not carry its packets");
            }
            Ok(up)
        }
        Err((error, pages)) if has_vif => {
            say!("network: {error}; the vif is taken instead");
            vif::connect(store, pages, mtu).map_err(|error| error.to_string())
        }
        Err((error, _)) => Err(failed(&error)),
    }
}

/// Hands what came of following the other side, `who`, to the device; whether it has come back.
fn follow(event: Result<Event, impl fmt::Display>, who: &str, reopened: &Reopened) -> bool {
    match event {
        Ok(Event::None) => {}
        Ok(Event::Closed) => say!("network: {who} is gone"),
        Ok(Event::Reopened(queue)) => {
            say!("network: {who} is back");
            reopened.set(Some(queue));
            return true;
        }
        Err(error) => say!("{error}"),
    }
    false
}

/// Says once why nothing passes any more.
fn say_broken(broken: drivers::Broken) {
    say!("network: {broken}; nothing passes until it comes anew");
}
