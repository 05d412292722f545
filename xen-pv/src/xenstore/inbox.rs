//! Sorts incoming xenstore messages into the pending reply, the background read and watch events.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use xen_abi::xenstore::{Kind, Malformed, Message};

use super::Change;

/// Most changes remembered; the oldest fall out.
const CHANGES: usize = 256;

/// Messages that arrived and were not looked at yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Tokens of watches: a change with another one is nobody's.
    tokens: Vec<String>,
    changes: VecDeque<Change>,
    /// The answer that the domain stands still for.
    pub(super) answer: Answer,
    /// The answer to a read that nobody waits for.
    pub(super) value: Answer,
}

/// An answer that is to be kept when it comes.
#[derive(Debug, Default)]
pub(super) struct Answer {
    to: Option<u32>,
    message: Option<Message>,
}

impl Answer {
    /// From now on the answer to this request, and to no other, is kept.
    pub(super) fn expect(&mut self, request: u32) {
        *self = Self { to: Some(request), message: None };
    }

    /// The answer is not wanted any more: if it comes, it falls out.
    pub(super) fn forget(&mut self) {
        self.to = None;
    }

    /// The answer, if it has come.
    pub(super) fn take(&mut self) -> Option<Message> {
        self.message.take()
    }

    /// Keeps the message if it is the answer, else gives it back.
    fn put(&mut self, message: Message) -> Option<Message> {
        if self.to != Some(message.request) {
            return Some(message);
        }
        self.forget();
        self.message = Some(message);
        None
    }
}

impl Inbox {
    /// From now on changes with this token are kept; nothing ends that.
    pub(super) fn watch(&mut self, token: &str) {
        if !self.tokens.iter().any(|known| known == token) {
            self.tokens.push(token.into());
        }
    }

    /// Takes a message in.
    pub(super) fn put(&mut self, message: Message) -> Result<(), Malformed> {
        if message.kind == Kind::WatchEvent {
            let (path, token) = message.watch_event()?;
            let change = Change { path: path.into(), token: token.into() };
            if self.tokens.contains(&change.token) && !self.changes.contains(&change) {
                if self.changes.len() >= CHANGES {
                    self.changes.pop_front();
                }
                self.changes.push_back(change);
            }
        } else if let Some(message) = self.answer.put(message) {
            self.value.put(message);
        }
        Ok(())
    }

    /// The oldest change that satisfies `wanted`.
    pub(super) fn take_change(&mut self, wanted: impl Fn(&Change) -> bool) -> Option<Change> {
        let index = self.changes.iter().position(wanted)?;
        self.changes.remove(index)
    }

    /// Whether there are changes, or a value, that nobody has asked for yet.
    pub(super) fn has_news(&self) -> bool {
        !self.changes.is_empty() || self.value.message.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn answer(request: u32) -> Message {
        Message { kind: Kind::Read, request, payload: Vec::new() }
    }

    fn event(path: &str) -> Message {
        let payload = format!("{path}\0token\0").into_bytes();
        Message { kind: Kind::WatchEvent, request: 0, payload }
    }

    #[test]
    fn an_answer_that_comes_too_late_is_not_taken_for_the_next_one() {
        let mut inbox = Inbox::default();
        inbox.answer.expect(5);
        inbox.answer.forget();
        inbox.put(answer(5)).unwrap();
        inbox.answer.expect(6);
        assert_eq!(inbox.answer.take(), None);
        inbox.put(answer(5)).unwrap();
        assert_eq!(inbox.answer.take(), None);
        inbox.put(answer(6)).unwrap();
        assert_eq!(inbox.answer.take(), Some(answer(6)));
    }

    #[test]
    fn an_answer_to_no_request_falls_out() {
        let mut inbox = Inbox::default();
        inbox.put(answer(0)).unwrap();
        assert_eq!(inbox.answer.take(), None);
        inbox.answer.expect(1);
        assert_eq!(inbox.answer.take(), None);
    }

    #[test]
    fn a_value_that_nobody_waits_for_is_news_and_no_answer() {
        let mut inbox = Inbox::default();
        inbox.value.expect(5);
        inbox.answer.expect(6);
        assert!(!inbox.has_news());
        inbox.put(answer(6)).unwrap();
        inbox.put(answer(5)).unwrap();
        assert!(inbox.has_news());
        assert_eq!((inbox.value.take(), inbox.answer.take()), (Some(answer(5)), Some(answer(6))));
        assert!(!inbox.has_news());
    }

    #[test]
    fn changes_wait_once_each_and_the_oldest_fall_out() {
        let mut inbox = Inbox::default();
        inbox.watch("token");
        for number in 0..=CHANGES {
            inbox.put(event(&format!("{number}"))).unwrap();
            inbox.put(event(&format!("{number}"))).unwrap();
        }
        for number in 1..=CHANGES {
            assert!(inbox.has_news());
            assert_eq!(inbox.take_change(|_| true).unwrap().path, format!("{number}"));
        }
        assert!(!inbox.has_news());
    }

    #[test]
    fn a_change_that_nobody_watches_for_does_not_keep_anybody_awake() {
        let mut inbox = Inbox::default();
        inbox.put(event("path")).unwrap();
        assert!(!inbox.has_news());
    }
}
