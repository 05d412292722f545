//! Writes to xenstore that no caller waits for, queued until the ring has room.
//!
//! A daemon that takes nothing for a while must not hold anybody up, nor fill the memory: of several values for a node only
//! the last is kept, and of more nodes than can be remembered the last ones.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

/// Most that is remembered.
const UPDATES: usize = 256;

/// What becomes of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Update {
    /// It gets this value.
    Write(Vec<u8>),
    /// It goes, and all below it.
    Remove,
}

/// What waits, in the order in which it is to be done.
#[derive(Debug, Default)]
pub(super) struct Outbox(VecDeque<(String, Update)>);

impl Outbox {
    /// Something more is to be done.
    pub(super) fn put(&mut self, path: &str, update: Update) {
        self.0.retain(|(other, _)| other != path);
        if self.0.len() >= UPDATES {
            self.0.pop_front();
        }
        self.0.push_back((path.into(), update));
    }

    /// What is to be done next.
    pub(super) fn take(&mut self) -> Option<(String, Update)> {
        self.0.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn value(number: usize) -> Update {
        Update::Write(format!("{number}").into_bytes())
    }

    fn all(outbox: &mut Outbox) -> Vec<(String, Update)> {
        core::iter::from_fn(|| outbox.take()).collect()
    }

    #[test]
    fn of_several_values_the_last_is_written_and_nothing_else_changes_places() {
        let mut outbox = Outbox::default();
        for (path, update) in
            [("state", value(1)), ("note", value(2)), ("state", value(3)), ("request", Update::Remove)]
        {
            outbox.put(path, update);
        }
        let wanted = [("note", value(2)), ("state", value(3)), ("request", Update::Remove)];
        assert_eq!(all(&mut outbox), wanted.map(|(path, update)| (path.into(), update)));
        assert_eq!(outbox.take(), None);
    }

    #[test]
    fn a_node_that_is_written_after_it_was_removed_is_there() {
        let mut outbox = Outbox::default();
        outbox.put("session/a/state", value(1));
        outbox.put("session/a", Update::Remove);
        outbox.put("session/a/state", value(2));
        let last = all(&mut outbox).pop();
        assert_eq!(last, Some(("session/a/state".into(), value(2))));
    }

    #[test]
    fn a_daemon_that_takes_nothing_fills_no_memory() {
        let mut outbox = Outbox::default();
        for number in 0..10 * UPDATES {
            outbox.put(&format!("{number}"), value(number));
        }
        let left = all(&mut outbox);
        assert_eq!(left.len(), UPDATES);
        assert_eq!(left.last(), Some(&(format!("{}", 10 * UPDATES - 1), value(10 * UPDATES - 1))));
    }
}
