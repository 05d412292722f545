//! Sets of guest frames.

use alloc::vec;
use alloc::vec::Vec;

use crate::platform::Gfn;

/// A set of guest frames below a bound, one bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    frames: u64,
}

impl PageSet {
    /// The empty set over the frames `0 .. frames`.
    pub fn new(frames: u64) -> Self {
        Self { words: vec![0; frames.div_ceil(64) as usize], frames }
    }

    /// How many frames the set could hold.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Lets the set hold the frames below `frames`, if it could not before. It takes no more memory than a new one would:
    /// budgets count on that.
    pub fn grow(&mut self, frames: u64) {
        if frames > self.frames {
            let words = frames.div_ceil(64) as usize;
            self.words.reserve_exact(words - self.words.len());
            self.words.resize(words, 0);
            self.frames = frames;
        }
    }

    /// Whether `gfn` is in the set. Frames beyond the bound never are.
    pub fn contains(&self, gfn: Gfn) -> bool {
        self.words.get((gfn.0 / 64) as usize).is_some_and(|word| word >> (gfn.0 % 64) & 1 == 1)
    }

    /// Adds `gfn`; whether that changed the set. A frame beyond the bound is not added.
    pub fn insert(&mut self, gfn: Gfn) -> bool {
        if gfn.0 >= self.frames {
            return false;
        }
        let word = &mut self.words[(gfn.0 / 64) as usize];
        let bit = 1 << (gfn.0 % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Takes `gfn` out; whether that changed the set.
    pub fn remove(&mut self, gfn: Gfn) -> bool {
        let was = self.contains(gfn);
        if was {
            self.words[(gfn.0 / 64) as usize] &= !(1 << (gfn.0 % 64));
        }
        was
    }

    /// How many frames are in the set.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether no frame is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Becomes the same set as `other`, in the memory that it already has.
    pub fn copy_from(&mut self, other: &Self) {
        self.words.clone_from(&other.words);
        self.frames = other.frames;
    }

    /// Adds what is in `other`, within the bound.
    pub fn union_with(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine | theirs);
        self.trim();
    }

    /// Takes out what is in `other`.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine & !theirs);
    }

    /// Keeps only what is in `other` as well.
    pub fn intersect_with(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine & theirs);
        let shared = other.words.len().min(self.words.len());
        self.words[shared..].fill(0);
    }

    /// The bits as words: bit `g % 64` of word `g / 64` is frame `g`.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Lets `fill` set and clear bits; bits beyond the bound are dropped afterwards.
    pub fn update<T>(&mut self, fill: impl FnOnce(&mut [u64]) -> T) -> T {
        let result = fill(&mut self.words);
        self.trim();
        result
    }

    /// The first frame of the set at or after `from`.
    pub fn next_from(&self, from: Gfn) -> Option<Gfn> {
        let first = (from.0 / 64) as usize;
        let head = self.words.get(first)? & (!0 << (from.0 % 64));
        if head != 0 {
            return Some(Gfn(first as u64 * 64 + u64::from(head.trailing_zeros())));
        }
        let skipped = self.words[first + 1..].iter().position(|word| *word != 0)?;
        let index = first + 1 + skipped;
        Some(Gfn(index as u64 * 64 + u64::from(self.words[index].trailing_zeros())))
    }

    /// Every frame of the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Gfn> + '_ {
        self.range(Gfn(0), self.frames)
    }

    /// Every frame of the set in `first .. first + count`, ascending.
    pub fn range(&self, first: Gfn, count: u64) -> impl Iterator<Item = Gfn> + '_ {
        let end = first.0.saturating_add(count);
        let mut next = first;
        core::iter::from_fn(move || {
            let found = self.next_from(next).filter(|gfn| gfn.0 < end)?;
            next = Gfn(found.0 + 1);
            Some(found)
        })
    }

    /// The set in `first .. first + count` as runs of neighbours: first frame and length, ascending.
    pub fn runs(&self, first: Gfn, count: u64) -> impl Iterator<Item = (Gfn, u64)> + '_ {
        let end = first.0.saturating_add(count).min(self.frames);
        let mut next = first;
        core::iter::from_fn(move || {
            let start = self.next_from(next).filter(|gfn| gfn.0 < end)?;
            let mut stop = start.0 + 1;
            while stop < end && self.contains(Gfn(stop)) {
                let whole = stop.is_multiple_of(64) && self.words[(stop / 64) as usize] == u64::MAX;
                stop = if whole { (stop + 64).min(end) } else { stop + 1 };
            }
            next = Gfn(stop);
            Some((start, stop - start.0))
        })
    }

    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64) {
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine = with(*mine, *theirs);
        }
    }

    fn trim(&mut self) {
        let spare = self.frames % 64;
        if spare != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << spare) - 1;
        }
    }
}

impl Extend<Gfn> for PageSet {
    fn extend<I: IntoIterator<Item = Gfn>>(&mut self, gfns: I) {
        for gfn in gfns {
            self.insert(gfn);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn set(frames: u64, members: &BTreeSet<u64>) -> PageSet {
        let mut set = PageSet::new(frames);
        set.extend(members.iter().map(|gfn| Gfn(*gfn)));
        set
    }

    fn members() -> impl Strategy<Value = BTreeSet<u64>> {
        prop_oneof![
            proptest::collection::btree_set(0..300u64, 0..60),
            (0..300u64, 0..300u64).prop_map(|(first, len)| (first..(first + len).min(300)).collect()),
        ]
    }

    proptest! {
        #[test]
        fn a_page_set_is_a_set(a in members(), b in members(), from in 0..320u64) {
            let (left, right) = (set(300, &a), set(300, &b));
            let back = |set: &PageSet| set.iter().map(|gfn| gfn.0).collect::<BTreeSet<_>>();
            prop_assert_eq!(back(&left), a.clone());
            prop_assert_eq!(left.count(), a.len() as u64);
            let mut all = left.clone();
            all.union_with(&right);
            prop_assert_eq!(back(&all), &a | &b);
            let mut both = left.clone();
            both.intersect_with(&right);
            prop_assert_eq!(back(&both), &a & &b);
            let mut rest = left.clone();
            rest.subtract(&right);
            prop_assert_eq!(back(&rest), &a - &b);
            prop_assert_eq!(left.next_from(Gfn(from)).map(|gfn| gfn.0), a.range(from..).next().copied());
        }

        #[test]
        fn runs_cover_the_set_and_do_not_touch(a in members(), first in 0..300u64, count in 0..400u64) {
            let set = set(300, &a);
            let runs: Vec<_> = set.runs(Gfn(first), count).collect();
            let covered: BTreeSet<u64> = runs.iter().flat_map(|(gfn, len)| gfn.0..gfn.0 + len).collect();
            prop_assert_eq!(covered, a.range(first..first + count).copied().collect::<BTreeSet<_>>());
            prop_assert!(runs.windows(2).all(|pair| pair[0].0.0 + pair[0].1 < pair[1].0.0));
        }
    }

    #[test]
    fn a_set_that_grew_takes_no_more_memory_than_a_new_one() {
        let mut set = PageSet::new(64_000);
        for frames in [64_001, 64_100, 70_000] {
            set.grow(frames);
            assert_eq!(set.words.capacity(), PageSet::new(frames).words.capacity());
        }
    }

    #[test]
    fn frames_beyond_the_bound_stay_out() {
        let mut set = PageSet::new(70);
        assert!(!set.insert(Gfn(70)));
        set.update(|words| words.fill(u64::MAX));
        assert_eq!(set.count(), 70);
        assert!(!set.contains(Gfn(71)));
        set.grow(128);
        assert!(set.insert(Gfn(127)));
        assert_eq!(set.next_from(Gfn(70)), Some(Gfn(127)));
    }
}
