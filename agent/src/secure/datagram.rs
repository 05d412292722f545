//! Datagrams beside a link, between the same agents.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::record::{Cipher, TAG};

/// How datagrams that belong to a link are sealed and opened: under keys of their own, which follow from those of the
/// link. Whoever has a copy of this shares the numbers, so that none is used twice.
#[derive(Clone)]
pub(crate) struct Datagrams(Rc<RefCell<Inner>>);

struct Inner {
    /// Out and in; none beside a plain link.
    ciphers: Option<[Cipher; 2]>,
    sent: u64,
    window: Window,
}

impl Datagrams {
    pub(super) fn new(ciphers: Option<[Cipher; 2]>) -> Self {
        Self(Rc::new(RefCell::new(Inner { ciphers, sent: 0, window: Window::default() })))
    }

    /// Seals `body` in place and appends what opens it, besides `clear`, which is to be sent with it; so is the number
    /// that this returns.
    pub(crate) fn seal(&self, clear: &[u8], body: &mut Vec<u8>) -> u64 {
        let inner = &mut *self.0.borrow_mut();
        let number = inner.sent;
        inner.sent += 1;
        if let Some([out, _]) = &inner.ciphers {
            let tag = out.seal(number, clear, body);
            body.extend_from_slice(&tag);
        }
        number
    }

    /// Opens `body` in place: what the other end sealed, unless this is not it, or was here before.
    pub(crate) fn open<'a>(&self, number: u64, clear: &[u8], body: &'a mut [u8]) -> Option<&'a [u8]> {
        let inner = &mut *self.0.borrow_mut();
        let opened = match &inner.ciphers {
            Some([_, into]) => {
                let (sealed, tag) = body.split_last_chunk_mut::<TAG>()?;
                into.open(number, clear, sealed, tag).ok()?;
                sealed
            }
            None => body,
        };
        inner.window.is_new(number).then_some(opened)
    }
}

/// Which numbers were here: of the newest 64 exactly, all below count as seen.
#[derive(Default)]
struct Window {
    /// One more than the newest.
    end: u64,
    /// Bit `i` stands for the number `end - 1 - i`.
    seen: u64,
}

impl Window {
    fn is_new(&mut self, number: u64) -> bool {
        // Nobody gets as far as the last one, which has no successor.
        let Some(end) = number.checked_add(1) else { return false };
        let Some(age) = self.end.checked_sub(end) else {
            let shift = u32::try_from(end - self.end).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
            self.end = end;
            return true;
        };
        let bit = u32::try_from(age).ok().and_then(|age| 1u64.checked_shl(age)).unwrap_or(0);
        let is_new = bit & !self.seen != 0;
        self.seen |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::record::Key;
    use super::*;

    fn pair() -> [Datagrams; 2] {
        let ciphers = |bytes: [u8; 2]| Some(bytes.map(|byte| Cipher::new(&Key::new([byte; 32]))));
        [ciphers([1, 2]), ciphers([2, 1])].map(Datagrams::new)
    }

    #[test]
    fn a_datagram_opens_once_and_only_as_it_was_sent() {
        let [here, there] = pair();
        let mut body = b"a page".to_vec();
        let number = here.seal(b"session", &mut body);
        assert!(!body.starts_with(b"a page"));
        for at in 0..body.len() {
            let mut changed = body.clone();
            changed[at] ^= 1;
            assert_eq!(there.open(number, b"session", &mut changed), None, "byte {at}");
        }
        assert_eq!(there.open(number + 1, b"session", &mut body.clone()), None);
        assert_eq!(there.open(number, b"another", &mut body.clone()), None);
        assert_eq!(here.open(number, b"session", &mut body.clone()), None, "sent back");
        assert_eq!(there.open(number, b"session", &mut body[..3].to_vec()), None);
        assert_eq!(there.open(number, b"session", &mut body.clone()), Some(&b"a page"[..]));
        assert_eq!(there.open(number, b"session", &mut body), None, "again");
    }

    #[test]
    fn copies_share_the_numbers() {
        let [here, _] = pair();
        let mut body = Vec::new();
        assert_eq!(
            [here.seal(&[], &mut body), here.clone().seal(&[], &mut body), here.seal(&[], &mut body)],
            [0, 1, 2]
        );
    }

    proptest! {
        #[test]
        fn no_number_is_new_twice_and_recent_ones_are_new_once(
            numbers in proptest::collection::vec(
                prop_oneof![8 => 0..200u64, 1 => any::<u64>(), 1 => u64::MAX - 9..=u64::MAX], 0..300,
            ),
        ) {
            let (mut window, mut seen, mut newest) = (Window::default(), BTreeSet::new(), 0u64);
            for number in numbers {
                let expected = number != u64::MAX && newest.saturating_sub(number) < 64 && !seen.contains(&number);
                newest = if number == u64::MAX { newest } else { newest.max(number) };
                prop_assert_eq!(window.is_new(number), expected, "{}", number);
                seen.insert(number);
            }
        }
    }
}
