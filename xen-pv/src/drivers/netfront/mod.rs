//! The network frontend: one queue with rx copy, checksum offload, scatter-gather and segmentation offload.
//!
//! [`Netfront`] speaks with the backend through xenstore: the backend waits (`InitWait`), we write where the rings are and
//! say `Connected`, it follows. When it closes, so do we; when it comes back, new rings are made on the same pages.

use alloc::boxed::Box;
use alloc::rc::Rc;

use xen_abi::{Errno, Port};

use super::xenbus::{self, Backend, state};
use super::{Event, MAX_TX_SIZE, Queue};
use crate::event::Channel;
use crate::grant::Grant;
use crate::memory::Pages;
use crate::xenstore::Xenstore;

#[cfg(fuzzing)]
pub mod fuzzing;
mod packet;
mod ring;
mod rx;
mod tx;

use rx::Rx;
use tx::Tx;

/// Pages that a frontend needs.
pub const PAGES: usize = tx::PAGES + rx::PAGES;

const TOKEN: &str = "netfront";
const DIRECTORY: &str = "device/vif/0";

/// Why there is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no interface.
    #[error("network: the domain has no interface (vif= in its configuration)")]
    NoInterface,
    /// Its backend does not follow.
    #[error("network: {0}")]
    Xenbus(xenbus::Error),
    /// Xen did not do it.
    #[error("network: {0}")]
    Xen(#[from] Errno),
    /// The backend does not copy received packets.
    #[error("network: the backend has no feature-rx-copy")]
    NoCopy,
}

impl From<xenbus::Error> for Error {
    fn from(error: xenbus::Error) -> Self {
        match error {
            xenbus::Error::NoDevice => Self::NoInterface,
            error => Self::Xenbus(error),
        }
    }
}

/// What the backend can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Packets of several pieces.
    pub scatter_gather: bool,
    /// It cuts large TCP packets over IPv4 into segments, and sends us such.
    pub segmentation: bool,
    /// It completes TCP checksums.
    pub checksum: bool,
}

/// Whether the toolstack gave this domain an interface.
pub fn exists(store: &mut Xenstore) -> Result<bool, Error> {
    Ok(xenbus::exists(store, DIRECTORY)?)
}

/// The frontend of the domain's first network interface.
#[derive(Debug)]
pub struct Netfront {
    backend: Backend,
    pages: Pages,
    channel: Option<Rc<Channel>>,
    open: bool,
    features: Features,
    /// Keeps the rings granted, until there are new ones: a backend unmaps the old ones only after we have closed, and a grant
    /// that is dropped before that is lost.
    _grants: Option<(Grant, Grant)>,
}

impl Netfront {
    /// Connects to the backend; waits for it.
    pub fn connect(store: &mut Xenstore, pages: Pages) -> Result<(Self, Queue), Error> {
        assert!(pages.count() >= PAGES);
        let backend = Backend::find(store, DIRECTORY, TOKEN)?;
        backend.wait_for(store, &[state::INIT_WAIT])?;
        let mut netfront =
            Self { backend, pages, channel: None, open: false, features: Features::default(), _grants: None };
        let queue = netfront.open(store)?;
        netfront.backend.wait_for(store, &[state::CONNECTED])?;
        Ok((netfront, queue))
    }

    /// The interface's hardware address, as the toolstack chose it.
    pub fn mac(&self, store: &mut Xenstore) -> Result<[u8; 6], Error> {
        let mac = parse_mac(&self.backend.own_text(store, "mac")?);
        Ok(mac.ok_or(xenbus::Error::Node(DIRECTORY, "mac"))?)
    }

    /// Bytes of the largest IP packet that the interface's network carries, as the toolstack says; 1500 if it does not.
    pub fn mtu(&self, store: &mut Xenstore) -> Result<u16, Error> {
        let said = self.backend.own_number(store, "mtu")?;
        Ok(u16::try_from(said).ok().filter(|mtu| *mtu != 0).unwrap_or(1500))
    }

    /// What the backend can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// The port that says that packets came or went.
    pub fn port(&self) -> Option<Port> {
        self.channel.as_ref().map(|channel| channel.port())
    }

    /// Follows the backend. Does not wait, except for xenstore when something changed.
    pub fn poll(&mut self, store: &mut Xenstore) -> Result<Event, Error> {
        if !self.backend.has_changed(store) {
            return Ok(Event::None);
        }
        match (self.backend.state(store)?, self.open) {
            (state::CLOSING | state::CLOSED | state::UNKNOWN, true) => {
                self.open = false;
                self.backend.write_state(store, state::CLOSED)?;
                Ok(Event::Closed)
            }
            // Unless the toolstack takes the interface away, the backend waits for us to begin anew.
            (state::CLOSED, false) if self.backend.number(store, "online")? != 0 => {
                self.backend.write_state(store, state::INITIALISING)?;
                Ok(Event::None)
            }
            (state::INIT_WAIT, false) => Ok(Event::Reopened(self.open(store)?)),
            _ => Ok(Event::None),
        }
    }

    /// Makes rings and tells the backend.
    fn open(&mut self, store: &mut Xenstore) -> Result<Queue, Error> {
        let features = self.find_features(store)?;
        let domain = self.backend.domain();
        let channel = Rc::new(Channel::unbound(domain)?);
        let (tx_pages, rx_pages) = self.pages.share().split(tx::PAGES);
        let grant = |pages: &Pages, page, access| Grant::new(domain, pages.mfn(page), access);
        let (tx, tx_ring) = Tx::new(&tx_pages, channel.clone(), features.checksum, grant)?;
        let (rx, rx_ring) = Rx::new(&rx_pages, channel.clone(), grant)?;
        let on = |on: bool| u32::from(on);
        for (name, value) in [
            ("tx-ring-ref", tx_ring.reference().0),
            ("rx-ring-ref", rx_ring.reference().0),
            ("event-channel", channel.port().0),
            ("request-rx-copy", 1),
            ("feature-rx-notify", 1),
            ("feature-sg", 1),
            ("feature-gso-tcpv4", on(features.segmentation)),
        ] {
            self.backend.write(store, name, value)?;
        }
        self.backend.write_state(store, state::CONNECTED)?;
        self.channel = Some(channel);
        self._grants = Some((tx_ring, rx_ring));
        self.open = true;
        self.features = features;
        Ok(Queue {
            tx: Box::new(tx),
            rx: Box::new(rx),
            checksum: features.checksum,
            largest_segmented: features.segmentation.then_some(MAX_TX_SIZE),
        })
    }

    fn find_features(&self, store: &mut Xenstore) -> Result<Features, Error> {
        let mut has = |name| Ok::<_, Error>(self.backend.number(store, name)? != 0);
        if !has("feature-rx-copy")? {
            return Err(Error::NoCopy);
        }
        let scatter_gather = has("feature-sg")?;
        let segmentation = scatter_gather && has("feature-gso-tcpv4")?;
        let checksum = !has("feature-no-csum-offload")?;
        Ok(Features { scatter_gather, segmentation: segmentation && checksum, checksum })
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_six_bytes() {
        assert_eq!(parse_mac("00:16:3e:77:00:0b"), Some([0, 0x16, 0x3e, 0x77, 0, 0x0b]));
        assert_eq!(parse_mac("00:16:3e:77:00"), None);
        assert_eq!(parse_mac("00:16:3e:77:00:0b:1"), None);
        assert_eq!(parse_mac("00:16:3e:77:00:xx"), None);
    }
}
