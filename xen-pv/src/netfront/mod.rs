//! The network frontend: one queue with rx copy, checksum offload, scatter-gather and segmentation offload.
//!
//! [`Netfront`] speaks with the backend through xenstore: the backend waits (`InitWait`), we write where the rings are and
//! say `Connected`, it follows. When it closes, so do we; when it comes back, new rings are made on the same pages.
//! [`Tx`] and [`Rx`] are the two halves of the queue, for whoever carries packets.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::fmt;

use common::DomId;
use xen_abi::{Errno, Port};

use crate::event::Channel;
use crate::grant::Grant;
use crate::memory::Pages;
use crate::time;
use crate::xenstore::{self, Xenstore};

pub mod checksum;
#[cfg(fuzzing)]
pub mod fuzzing;
mod packet;
mod ring;
mod rx;
mod tx;

pub use rx::Rx;
pub use tx::Tx;

/// Pages that a frontend needs.
pub const PAGES: usize = tx::PAGES + rx::PAGES;

/// How long the backend may take.
const PATIENCE_NS: u64 = 20_000_000_000;
const TOKEN: &str = "netfront";
const DIRECTORY: &str = "device/vif/0";

/// States that both ends write (`io/xenbus.h`).
mod state {
    pub const INITIALISING: u32 = 1;
    pub const INIT_WAIT: u32 = 2;
    pub const CONNECTED: u32 = 4;
    pub const CLOSING: u32 = 5;
    pub const CLOSED: u32 = 6;
}

/// Why there is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// xenstore did not do what was asked.
    Store(xenstore::Error),
    /// The toolstack gave the domain no network interface.
    NoInterface,
    /// Xen did not do it.
    Xen(Errno),
    /// The toolstack wrote something we cannot read; the node's name.
    Node(&'static str),
    /// The backend does not copy received packets.
    NoCopy,
    /// The backend did not get so far in time; the state it is in.
    Backend(u32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "network: {error}"),
            Self::NoInterface => f.write_str("network: the domain has no interface (vif= in its configuration)"),
            Self::Xen(errno) => write!(f, "network: {errno}"),
            Self::Node(name) => write!(f, "network: xenstore's {DIRECTORY}/{name} makes no sense"),
            Self::NoCopy => f.write_str("network: the backend has no feature-rx-copy"),
            Self::Backend(state) => write!(f, "network: the backend stays in state {state}"),
        }
    }
}

impl core::error::Error for Error {}

impl From<xenstore::Error> for Error {
    fn from(error: xenstore::Error) -> Self {
        Self::Store(error)
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Xen(errno)
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

/// A connected queue.
#[derive(Debug)]
pub struct Queue {
    /// The half that sends.
    pub tx: Tx,
    /// The half that receives.
    pub rx: Rx,
    /// What the backend can do.
    pub features: Features,
}

/// What [`Netfront::poll`] found.
#[derive(Debug)]
pub enum Event {
    /// Nothing new.
    None,
    /// The backend went away; packets go nowhere.
    Closed,
    /// It came back, with a new queue.
    Reopened(Box<Queue>),
}

/// The frontend of the domain's first network interface.
#[derive(Debug)]
pub struct Netfront {
    backend: String,
    backend_domain: DomId,
    pages: Pages,
    channel: Option<Rc<Channel>>,
    open: bool,
    /// Keeps the rings granted, until there are new ones: a backend unmaps the old ones only after we have closed, and a grant
    /// that is dropped before that is lost.
    _grants: Option<(Grant, Grant)>,
}

impl Netfront {
    /// Connects to the backend; waits for it.
    pub fn connect(store: &mut Xenstore, pages: Pages) -> Result<(Self, Queue), Error> {
        assert!(pages.count() >= PAGES);
        let backend = match store.read_text(&node("backend")) {
            Err(xenstore::Error::NotFound) => return Err(Error::NoInterface),
            backend => backend?,
        };
        let backend_domain =
            DomId(number(store, &node("backend-id"))?.try_into().map_err(|_| Error::Node("backend-id"))?);
        let mut netfront = Self { backend, backend_domain, pages, channel: None, open: false, _grants: None };
        store.watch(&netfront.backend_node("state"), TOKEN)?;
        netfront.wait_for(store, state::INIT_WAIT)?;
        let queue = netfront.open(store)?;
        netfront.wait_for(store, state::CONNECTED)?;
        Ok((netfront, queue))
    }

    /// The interface's hardware address, as the toolstack chose it.
    pub fn mac(&self, store: &mut Xenstore) -> Result<[u8; 6], Error> {
        parse_mac(&store.read_text(&node("mac"))?).ok_or(Error::Node("mac"))
    }

    /// Bytes of the largest IP packet that the interface's network carries, as the toolstack says; 1500 if it does not.
    pub fn mtu(&self, store: &mut Xenstore) -> Result<u16, Error> {
        let said = number(store, &node("mtu"))?;
        Ok(u16::try_from(said).ok().filter(|mtu| *mtu != 0).unwrap_or(1500))
    }

    /// The port that says that packets came or went.
    pub fn port(&self) -> Option<Port> {
        self.channel.as_ref().map(|channel| channel.port())
    }

    /// Follows the backend. Does not wait, except for xenstore when something changed.
    pub fn poll(&mut self, store: &mut Xenstore) -> Result<Event, Error> {
        if store.next_change(|change| change.token == TOKEN).is_none() {
            return Ok(Event::None);
        }
        match (self.backend_state(store)?, self.open) {
            (state::CLOSING | state::CLOSED | 0, true) => {
                self.open = false;
                self.write_state(store, state::CLOSED)?;
                Ok(Event::Closed)
            }
            // Unless the toolstack takes the interface away, the backend waits for us to begin anew.
            (state::CLOSED, false) if number(store, &self.backend_node("online"))? != 0 => {
                self.write_state(store, state::INITIALISING)?;
                Ok(Event::None)
            }
            (state::INIT_WAIT, false) => Ok(Event::Reopened(Box::new(self.open(store)?))),
            _ => Ok(Event::None),
        }
    }

    /// Makes rings and tells the backend.
    fn open(&mut self, store: &mut Xenstore) -> Result<Queue, Error> {
        let features = self.features(store)?;
        let channel = Rc::new(Channel::unbound(self.backend_domain)?);
        let (tx_pages, rx_pages) = self.pages.share().split(tx::PAGES);
        let grant = |pages: &Pages, page, access| Grant::new(self.backend_domain, pages.mfn(page), access);
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
            store.write(&node(name), format!("{value}").as_bytes())?;
        }
        self.write_state(store, state::CONNECTED)?;
        self.channel = Some(channel);
        self._grants = Some((tx_ring, rx_ring));
        self.open = true;
        Ok(Queue { tx, rx, features })
    }

    fn features(&self, store: &mut Xenstore) -> Result<Features, Error> {
        let mut has = |name| Ok::<_, Error>(number(store, &self.backend_node(name))? != 0);
        if !has("feature-rx-copy")? {
            return Err(Error::NoCopy);
        }
        let scatter_gather = has("feature-sg")?;
        let segmentation = scatter_gather && has("feature-gso-tcpv4")?;
        let checksum = !has("feature-no-csum-offload")?;
        Ok(Features { scatter_gather, segmentation: segmentation && checksum, checksum })
    }

    fn wait_for(&self, store: &mut Xenstore, wanted: u32) -> Result<(), Error> {
        let deadline = time::now_ns() + PATIENCE_NS;
        loop {
            let state = self.backend_state(store)?;
            if state == wanted {
                return Ok(());
            }
            while store.next_change(|change| change.token == TOKEN).is_none() {
                if time::now_ns() >= deadline {
                    return Err(Error::Backend(state));
                }
                store.wait(deadline);
            }
        }
    }

    fn backend_state(&self, store: &mut Xenstore) -> Result<u32, Error> {
        number(store, &self.backend_node("state"))
    }

    fn backend_node(&self, name: &str) -> String {
        format!("{}/{name}", self.backend)
    }

    fn write_state(&self, store: &mut Xenstore, state: u32) -> Result<(), Error> {
        Ok(store.write(&node("state"), format!("{state}").as_bytes())?)
    }
}

fn node(name: &str) -> String {
    format!("{DIRECTORY}/{name}")
}

/// A node's number; 0 if the node does not exist, or is none. A node that was removed together with the directory that was
/// ours to read is one we may not read.
fn number(store: &mut Xenstore, path: &str) -> Result<u32, Error> {
    match store.read_text(path) {
        Ok(text) => Ok(text.trim().parse().unwrap_or(0)),
        Err(xenstore::Error::NotFound | xenstore::Error::Forbidden) => Ok(0),
        Err(error) => Err(error.into()),
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
