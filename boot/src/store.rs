//! xenstore as the agent wants it: [`agent::platform::Store`], below the agent's own directory.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use xen_pv::xenstore::{self, Xenstore};

/// The agent's directory, relative to the domain's.
const DIRECTORY: &str = "data/tsmc";
const TOKEN: &str = "requests";

/// xenstore, shared with the main loop, which follows the network's backend through it.
pub struct Store(Rc<RefCell<Xenstore>>);

impl Store {
    /// Makes the directory for requests and watches it.
    pub fn new(store: Rc<RefCell<Xenstore>>) -> Result<Self, xenstore::Error> {
        {
            let mut store = store.borrow_mut();
            let requests = format!("{DIRECTORY}/request");
            store.mkdir(&requests)?;
            store.watch(&requests, TOKEN)?;
        }
        Ok(Self(store))
    }
}

impl agent::platform::Store for Store {
    fn read(&mut self, path: &str) -> Option<Vec<u8>> {
        self.0.borrow_mut().read(&below(path)).ok()
    }

    fn list(&mut self, path: &str) -> Vec<String> {
        self.0.borrow_mut().directory(&below(path)).unwrap_or_default()
    }

    fn write(&mut self, path: &str, value: &str) {
        self.0.borrow_mut().post_write(&below(path), value.as_bytes());
    }

    fn remove(&mut self, path: &str) {
        self.0.borrow_mut().post_remove(&below(path));
    }

    fn next_change(&mut self) -> Option<String> {
        let change = self.0.borrow_mut().next_change(|change| change.token == TOKEN)?;
        let path = change.path.strip_prefix(DIRECTORY).and_then(|path| path.strip_prefix('/'));
        path.map(str::to_string)
    }
}

fn below(path: &str) -> String {
    format!("{DIRECTORY}/{path}")
}
