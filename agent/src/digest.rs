//! 64-bit digests of pages, to compare the memory of both hosts.
//!
//! A digest finds faults; it does not stop a liar. xxh3 is fast and not cryptographic.

use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU64;

use common::{Content, Gfn, PAGE_SIZE, Page, PageSet, cost};

use crate::error::{Refusal, SessionError};
use crate::host::budget::Reservation;

/// A page's digest; never 0.
pub type Digest = NonZeroU64;

/// The digest of a page of zeros.
pub const ZERO_PAGE: Digest = not_zero(xxhash_rust::const_xxh3::xxh3_64(&[0; PAGE_SIZE]));

/// The digest of a page.
pub(crate) fn of(page: &Page) -> Digest {
    not_zero(xxhash_rust::xxh3::xxh3_64(page))
}

/// The digest of what is about to be written to a page.
pub(crate) fn of_content(content: Content<'_>) -> Digest {
    match content {
        Content::Bytes(page) => of(page),
        Content::Zero => ZERO_PAGE,
    }
}

const fn not_zero(hash: u64) -> Digest {
    match Digest::new(hash) {
        Some(digest) => digest,
        None => Digest::MAX,
    }
}

/// Digests of the pages of a set, eight bytes each and half a bit for every frame.
pub(crate) struct Kept {
    pages: PageSet,
    /// How many pages of the set come before each word of it.
    before: Vec<u32>,
    digests: Vec<Option<Digest>>,
}

impl Kept {
    /// Room for the digests of `pages`, if that is within the budget.
    pub(crate) fn new(pages: &PageSet, memory: &mut Reservation) -> Result<Self, SessionError> {
        const NO_ROOM: SessionError = SessionError::Refused(Refusal::NoMemoryToVerify);
        let count = usize::try_from(pages.count()).map_err(|_| NO_ROOM)?;
        let words = pages.words();
        memory.add(cost::digests(pages.frames(), pages.count())).map_err(|_| NO_ROOM)?;
        let mut before = Vec::with_capacity(words.len());
        let mut seen = 0;
        for word in words {
            before.push(seen);
            seen += word.count_ones();
        }
        Ok(Self { pages: pages.clone(), before, digests: vec![None; count] })
    }

    /// The digest of `gfn`, if it has one.
    pub(crate) fn of(&self, gfn: Gfn) -> Option<Digest> {
        self.digests.get(self.place(gfn)?).copied().flatten()
    }

    /// Keeps the digest of `gfn`, or none; whether it is one of the pages.
    pub(crate) fn set(&mut self, gfn: Gfn, digest: Option<Digest>) -> bool {
        let place = self.place(gfn).and_then(|place| self.digests.get_mut(place));
        place.map(|kept| *kept = digest).is_some()
    }

    fn place(&self, gfn: Gfn) -> Option<usize> {
        let word = usize::try_from(gfn.0 / 64).ok()?;
        let lower = self.pages.words().get(word)? & ((1 << (gfn.0 % 64)) - 1);
        self.pages.contains(gfn).then(|| (self.before[word] + lower.count_ones()) as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::budget::Budget;
    use crate::tasks::{Instant, Timer};

    fn budget(bytes: usize) -> Budget {
        Budget::new(bytes, 0, Timer::new(Instant::default))
    }

    #[test]
    fn a_page_of_zeros_has_one_digest() {
        assert_eq!(of(&[0; PAGE_SIZE]), ZERO_PAGE);
        assert_eq!(of_content(Content::Zero), ZERO_PAGE);
        let mut page = [0; PAGE_SIZE];
        page[PAGE_SIZE - 1] = 1;
        assert_ne!(of(&page), ZERO_PAGE);
    }

    #[test]
    fn digests_that_do_not_fit_are_refused() {
        let mut pages = PageSet::new(6400);
        pages.extend((0..1000).map(Gfn));
        let room = |bytes| Kept::new(&pages, &mut budget(bytes).reserve(0).unwrap()).map(drop);
        let takes = PageSet::bytes(6400) + 100 * 4 + 1000 * 8;
        assert_eq!(cost::digests(6400, 1000), takes);
        assert_eq!(room(takes), Ok(()));
        assert_eq!(room(takes - 1), Err(SessionError::Refused(Refusal::NoMemoryToVerify)));
    }

    proptest! {
        #[test]
        fn every_page_keeps_its_own_digest(members in proptest::collection::btree_set(0..3000u64, 0..500)) {
            let mut pages = PageSet::new(3000);
            pages.extend(members.iter().map(|gfn| Gfn(*gfn)));
            let mut kept = Kept::new(&pages, &mut budget(1 << 20).reserve(0).unwrap()).unwrap();
            for gfn in 0..3100 {
                prop_assert_eq!(kept.set(Gfn(gfn), Digest::new(gfn + 1)), members.contains(&gfn));
            }
            for gfn in 0..3100 {
                prop_assert_eq!(kept.of(Gfn(gfn)), Digest::new(gfn + 1).filter(|_| members.contains(&gfn)));
            }
        }
    }
}
