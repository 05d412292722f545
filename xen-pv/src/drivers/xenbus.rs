//! What frontends share: the backend's directory in xenstore, and the states that both ends go through (`io/xenbus.h`).

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use common::DomId;

use crate::time;
use crate::xenstore::{self, Xenstore};

/// How long a backend may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// States that both ends write.
pub(super) mod state {
    /// The node is gone, or is no number.
    pub const UNKNOWN: u32 = 0;
    pub const INITIALISING: u32 = 1;
    pub const INIT_WAIT: u32 = 2;
    pub const INITIALISED: u32 = 3;
    pub const CONNECTED: u32 = 4;
    pub const CLOSING: u32 = 5;
    pub const CLOSED: u32 = 6;
    pub const RECONFIGURING: u32 = 7;
    pub const RECONFIGURED: u32 = 8;
}

/// Why a frontend and its backend do not find together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// xenstore did not do what was asked.
    #[error(transparent)]
    Store(#[from] xenstore::Error),
    /// The toolstack gave the domain no such device.
    #[error("the domain has no such device")]
    NoDevice,
    /// The toolstack or the backend wrote something we cannot read: the device's directory, and the node's name.
    #[error("xenstore's {0}/{1} makes no sense")]
    Node(&'static str, &'static str),
    /// The backend did not get so far in time; the state it is in.
    #[error("the backend stays in state {0}")]
    Backend(u32),
}

/// A frontend's view of its backend.
#[derive(Debug)]
pub(super) struct Backend {
    /// The frontend's directory, relative to the domain's.
    directory: &'static str,
    /// What the watch of the backend's state is called.
    token: &'static str,
    path: String,
    domain: DomId,
}

/// Whether the toolstack gave the domain the device whose frontend has a directory.
pub(super) fn exists(store: &mut Xenstore, directory: &str) -> Result<bool, Error> {
    match store.read(&format!("{directory}/backend")) {
        Err(xenstore::Error::NotFound | xenstore::Error::Forbidden) => Ok(false),
        found => Ok(found.map(|_| true)?),
    }
}

impl Backend {
    /// The backend of a frontend, whose state is watched from now on.
    pub fn find(store: &mut Xenstore, directory: &'static str, token: &'static str) -> Result<Self, Error> {
        let path = match store.read_text(&format!("{directory}/backend")) {
            Err(xenstore::Error::NotFound) => return Err(Error::NoDevice),
            path => path?,
        };
        let domain = number(store, &format!("{directory}/backend-id"))?.try_into();
        let domain = DomId(domain.map_err(|_| Error::Node(directory, "backend-id"))?);
        let backend = Self { directory, token, path, domain };
        store.watch(&backend.node("state"), token)?;
        Ok(backend)
    }

    /// The backend's domain.
    pub fn domain(&self) -> DomId {
        self.domain
    }

    /// Whether its state has changed since the last call. Does not wait.
    pub fn has_changed(&self, store: &mut Xenstore) -> bool {
        store.next_change(|change| change.token == self.token).is_some()
    }

    /// Its state.
    pub fn state(&self, store: &mut Xenstore) -> Result<u32, Error> {
        self.number(store, "state")
    }

    /// Waits until it is in one of some states.
    pub fn wait_for(&self, store: &mut Xenstore, wanted: &[u32]) -> Result<(), Error> {
        let deadline = time::now() + PATIENCE;
        loop {
            let state = self.state(store)?;
            if wanted.contains(&state) {
                return Ok(());
            }
            while !self.has_changed(store) {
                if time::now() >= deadline {
                    return Err(Error::Backend(state));
                }
                store.wait(deadline);
            }
        }
    }

    /// A number that the backend's side wrote; 0 if there is none.
    pub fn number(&self, store: &mut Xenstore, name: &str) -> Result<u32, Error> {
        number(store, &self.node(name))
    }

    /// A text that the backend's side wrote; empty if there is none.
    pub fn text(&self, store: &mut Xenstore, name: &str) -> Result<String, Error> {
        text(store, &self.node(name))
    }

    /// A number in the frontend's own directory; 0 if there is none.
    pub fn own_number(&self, store: &mut Xenstore, name: &str) -> Result<u32, Error> {
        number(store, &self.own_node(name))
    }

    /// A text in the frontend's own directory; empty if there is none.
    pub fn own_text(&self, store: &mut Xenstore, name: &str) -> Result<String, Error> {
        text(store, &self.own_node(name))
    }

    /// Writes a number for the backend.
    pub fn write(&self, store: &mut Xenstore, name: &str, value: u32) -> Result<(), Error> {
        Ok(store.write(&self.own_node(name), format!("{value}").as_bytes())?)
    }

    /// Writes the frontend's state.
    pub fn write_state(&self, store: &mut Xenstore, state: u32) -> Result<(), Error> {
        self.write(store, "state", state)
    }

    fn node(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    fn own_node(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }
}

fn number(store: &mut Xenstore, path: &str) -> Result<u32, Error> {
    Ok(text(store, path)?.trim().parse().unwrap_or(0))
}

/// A node's text. A node that was removed together with the directory that was ours to read is one we may not read.
fn text(store: &mut Xenstore, path: &str) -> Result<String, Error> {
    match store.read_text(path) {
        Err(xenstore::Error::NotFound | xenstore::Error::Forbidden) => Ok(String::new()),
        text => Ok(text?),
    }
}
