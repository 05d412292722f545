//! xenstore, as the agent uses it: what it tells the toolstack, and what the toolstack asks.

use alloc::string::String;
use alloc::vec::Vec;

/// A name space shared with the toolstack: xenstore. All paths, those returned too, are relative to
/// [`control::ROOT`](common::control::ROOT) in the home of the agent's domain: `request/out-5/suspended`.
pub trait Store {
    /// The names below `path`. Waits for the answer: only for the agent's beginning, when no guest is in its hands.
    fn list(&mut self, path: &str) -> Vec<String>;
    /// Sets `path`; does not wait.
    fn write(&mut self, path: &str, value: &str);
    /// Removes `path` and all below it; does not wait.
    fn remove(&mut self, path: &str);
    /// The next path below `request` that changed since the last call, and the value that it has now. A path that is gone is
    /// left out. Never waits.
    fn next_change(&mut self) -> Option<(String, Vec<u8>)>;
}
