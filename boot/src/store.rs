//! xenstore as the agent wants it: [`agent::platform::Store`], below the agent's own directory.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use common::control::{REQUESTS, ROOT};
use xen_pv::xenstore::{self, Xenstore};

const TOKEN: &str = "requests";

/// Most changes that wait to be read; the oldest fall out.
const CHANGES: usize = 256;

/// Requests and reports. A daemon that does not answer holds up who asks for a migration, and no guest.
pub struct Store {
    /// Shared with the main loop, which follows the network's backend through it.
    xenstore: Rc<RefCell<Xenstore>>,
    /// Paths below [`ROOT`] that have changed.
    changed: VecDeque<String>,
    /// That of them whose value is on its way.
    reading: Option<String>,
}

impl Store {
    /// Makes the directory for requests and watches it.
    pub fn new(store: Rc<RefCell<Xenstore>>) -> Result<Self, xenstore::Error> {
        {
            let mut store = store.borrow_mut();
            let requests = format!("{ROOT}/{REQUESTS}");
            store.mkdir(&requests)?;
            store.watch(&requests, TOKEN)?;
        }
        Ok(Self { xenstore: store, changed: VecDeque::new(), reading: None })
    }

    /// Takes all changes out of the inbox: what stays there keeps the main loop awake.
    fn gather_changes(&mut self) {
        let mut xenstore = self.xenstore.borrow_mut();
        while let Some(change) = xenstore.next_change(|change| change.token == TOKEN) {
            let path = change.path.strip_prefix(ROOT).and_then(|path| path.strip_prefix('/'));
            let Some(path) = path.filter(|path| !self.changed.iter().any(|known| known == path)) else { continue };
            if self.changed.len() >= CHANGES {
                self.changed.pop_front();
            }
            self.changed.push_back(path.to_string());
        }
    }
}

impl agent::platform::Store for Store {
    fn list(&mut self, path: &str) -> Vec<String> {
        self.xenstore.borrow_mut().directory(&below(path)).unwrap_or_default()
    }

    fn write(&mut self, path: &str, value: &str) {
        self.xenstore.borrow_mut().post_write(&below(path), value.as_bytes());
    }

    fn remove(&mut self, path: &str) {
        self.xenstore.borrow_mut().post_remove(&below(path));
    }

    fn next_change(&mut self) -> Option<(String, Vec<u8>)> {
        self.gather_changes();
        let mut xenstore = self.xenstore.borrow_mut();
        loop {
            if self.reading.is_some() {
                let value = xenstore.take_value()?;
                let path = self.reading.take()?;
                if let Ok(value) = value {
                    return Some((path, value));
                }
            }
            let path = self.changed.pop_front()?;
            // One that cannot even be asked for is as good as gone.
            if xenstore.begin_read(&below(&path)).is_ok() {
                self.reading = Some(path);
            }
        }
    }
}

fn below(path: &str) -> String {
    format!("{ROOT}/{path}")
}
