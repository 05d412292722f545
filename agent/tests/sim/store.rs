//! A name space that a toolstack and an agent share.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use agent::platform::Store;

#[derive(Clone, Default)]
pub struct Nodes(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    nodes: BTreeMap<String, String>,
    changes: VecDeque<String>,
    written: Vec<(String, String)>,
}

impl Nodes {
    /// As dom0. What is above the node comes to be with it, as in xenstore.
    pub fn put(&self, path: &str, value: &str) {
        let inner = &mut *self.0.borrow_mut();
        if let Some((above, _)) = path.rsplit_once('/').filter(|(above, _)| above.contains('/')) {
            inner.nodes.entry(above.to_string()).or_default();
        }
        inner.nodes.insert(path.to_string(), value.to_string());
        inner.changes.push_back(path.to_string());
    }

    pub fn get(&self, path: &str) -> Option<String> {
        self.0.borrow().nodes.get(path).cloned()
    }

    /// What the agent has written since the last call.
    pub fn take_written(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.0.borrow_mut().written)
    }

    /// All paths.
    pub fn paths(&self) -> Vec<String> {
        self.0.borrow().nodes.keys().cloned().collect()
    }
}

impl Store for Nodes {
    fn list(&mut self, path: &str) -> Vec<String> {
        let inner = self.0.borrow();
        let below = |node: &String| {
            let name = node.strip_prefix(path)?.strip_prefix('/')?.split('/').next()?;
            Some(name.to_string())
        };
        let mut names: Vec<String> = inner.nodes.keys().filter_map(below).collect();
        names.dedup();
        names
    }
    fn write(&mut self, path: &str, value: &str) {
        let inner = &mut *self.0.borrow_mut();
        inner.nodes.insert(path.to_string(), value.to_string());
        inner.written.push((path.to_string(), value.to_string()));
    }
    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.0.borrow_mut().nodes.retain(|node, _| node != path && !node.starts_with(&below));
    }
    fn next_change(&mut self) -> Option<(String, Vec<u8>)> {
        let inner = &mut *self.0.borrow_mut();
        let (changes, nodes) = (&mut inner.changes, &inner.nodes);
        std::iter::from_fn(|| changes.pop_front())
            .find_map(|path| nodes.get(&path).map(|value| (path.clone(), value.clone().into_bytes())))
    }
}
