//! Records in xenstore from which a migration is recovered after its save helper has ended: below
//! `/tool/tsmc/<out|in>/<domain>`.
//!
//! | node | what it holds |
//! |---|---|
//! | the end's own | the agent's note, sealed: what its next life must know |
//! | `follower` | the [`Process`] that sees to the migration |
//! | `toolstack` | the process that asked for it |
//! | `monitor` | `xl`'s [monitor](crate::monitor) of a guest that leaves, which is stopped |

use std::fmt;

use common::DomId;

use crate::agents::Way;
use crate::monitor;
use crate::process::Process;
use crate::xenstore::{Xenstore, XenstoreError};

const ROOT: &str = "/tool/tsmc";
const FOLLOWER: &str = "follower";
const TOOLSTACK: &str = "toolstack";
const MONITOR: &str = "monitor";

/// This host's end of the migration of one domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Whether the guest leaves or arrives.
    pub way: Way,
    /// The domain on this host.
    pub domain: DomId,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.way, self.domain)
    }
}

impl End {
    /// The end of a guest that leaves.
    pub fn out(domain: DomId) -> Self {
        Self { way: Way::Out, domain }
    }

    /// The end of a guest that arrives.
    pub fn arriving(domain: DomId) -> Self {
        Self { way: Way::In, domain }
    }

    fn node(self, name: &str) -> String {
        format!("{ROOT}/{self}/{name}")
    }

    /// Keeps the agent's note; `follower` sees to the migration that `toolstack` asked for.
    pub fn keep(
        self,
        store: &mut Xenstore,
        note: &str,
        follower: Option<Process>,
        toolstack: Option<Process>,
    ) -> Result<(), XenstoreError> {
        store.write(&format!("{ROOT}/{self}"), note)?;
        for (name, process) in [(FOLLOWER, follower), (TOOLSTACK, toolstack)] {
            if let Some(process) = process {
                store.write(&self.node(name), &process.to_string())?;
            }
        }
        Ok(())
    }

    /// The note, if one is kept.
    pub fn note(self, store: &mut Xenstore) -> Result<Option<String>, XenstoreError> {
        Ok(store.read(&format!("{ROOT}/{self}"))?.filter(|note| !note.is_empty()))
    }

    /// Whether another process than this one still follows the migration: it turns to the next agent by itself.
    pub fn is_followed(self, store: &mut Xenstore) -> Result<bool, XenstoreError> {
        let follower = self.process(store, FOLLOWER)?;
        Ok(follower.is_some_and(|follower| Process::this() != Some(follower) && follower.is_alive()))
    }

    /// Whether the process that asked for the migration has ended.
    pub fn is_left_alone(self, store: &mut Xenstore) -> Result<bool, XenstoreError> {
        Ok(self.process(store, TOOLSTACK)?.is_some_and(|toolstack| !toolstack.is_alive()))
    }

    /// Forgets the toolstack, once what it left undone is done.
    pub fn forget_toolstack(self, store: &mut Xenstore) -> Result<(), XenstoreError> {
        store.remove(&self.node(TOOLSTACK))
    }

    /// Stops the monitor of the guest until [`End::forget`].
    pub fn hold_monitor(self, store: &mut Xenstore, monitor: Process) -> Result<(), XenstoreError> {
        // Written first, so that a later process can let it go on.
        store.write(&self.node(MONITOR), &monitor.to_string())?;
        monitor::hold(monitor);
        Ok(())
    }

    /// Keeps nothing more: the guest is as it was, or whole, or gone.
    pub fn forget(self, store: &mut Xenstore) -> Result<(), XenstoreError> {
        if let Some(monitor) = self.process(store, MONITOR)? {
            monitor::release(monitor);
        }
        store.remove(&format!("{ROOT}/{self}"))
    }

    fn process(self, store: &mut Xenstore, name: &str) -> Result<Option<Process>, XenstoreError> {
        Ok(store.read(&self.node(name))?.and_then(|process| process.parse().ok()))
    }
}

/// All ends of which a note is kept, with it.
pub fn all(store: &mut Xenstore) -> Result<Vec<(End, String)>, XenstoreError> {
    let mut kept = Vec::new();
    for way in [Way::Out, Way::In] {
        for name in store.list(&format!("{ROOT}/{way}"))? {
            let Ok(domain) = name.parse() else { continue };
            let end = End { way, domain };
            if let Some(note) = end.note(store)? {
                kept.push((end, note));
            }
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeStore;

    #[test]
    fn what_is_kept_names_its_processes_until_it_is_forgotten() {
        let (fake, mut store) = FakeStore::start();
        let end = End::out(DomId(5));
        let other = Process::parent();
        end.keep(&mut store, "00ff", other, other).expect("kept");
        assert_eq!(all(&mut store).expect("a list"), [(end, "00ff".to_owned())]);
        assert!(end.is_followed(&mut store).expect("an answer") && !end.is_left_alone(&mut store).expect("an answer"));
        // Another process has the number by now.
        let number = std::os::unix::process::parent_id();
        for name in ["follower", "toolstack"] {
            fake.set(&format!("/tool/tsmc/out/5/{name}"), &format!("{number}-1"));
        }
        assert!(!end.is_followed(&mut store).expect("an answer") && end.is_left_alone(&mut store).expect("an answer"));
        end.forget(&mut store).expect("forgotten");
        assert_eq!(all(&mut store).expect("a list"), []);
        // Of what is not kept, nothing is known.
        assert!(!end.is_followed(&mut store).expect("an answer") && !end.is_left_alone(&mut store).expect("an answer"));
    }
}
