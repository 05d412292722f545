//! Network interfaces: what an image needs of one, and where it is brought up.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::ops::RangeInclusive;

use xen_abi::Port;
use xen_pv::xenstore::Xenstore;

use crate::start::Pool;

mod netfront;

pub use netfront::{Device, Vif};

/// A network interface that is up, apart from its packets, which a device of smoltcp carries. It is shown as what it can do.
pub trait Nic: fmt::Display {
    /// The hardware address.
    fn mac(&self) -> [u8; 6];

    /// Bytes of the largest IP packet.
    fn mtu(&self) -> u16;

    /// The ports that say that packets came or went.
    fn ports(&self) -> impl Iterator<Item = Port>;

    /// Follows whoever is on its other side. Does not wait, except for xenstore when something changed.
    fn poll(&mut self, store: &mut Xenstore);
}

/// Brings up the domain's network interface, for packets whose largest size is in `mtu`.
pub fn bring_up(pool: &mut Pool, store: &mut Xenstore, mtu: RangeInclusive<u16>) -> Result<(Vif, Device), String> {
    let pages = pool.take(netfront::PAGES).map_err(|errno| format!("network: {errno}"))?;
    netfront::connect(store, pages, mtu).map_err(|error| error.to_string())
}
