//! Some pages of a batch, as a bit mask.

use core::ops::{BitAnd, BitOr, Sub};

use crate::guest::BATCH;

/// Some of up to [`BATCH`] pages: bit `i` stands for the `i`-th page of the call, or of 64 neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageMask(pub u64);

impl PageMask {
    /// The first `count` pages, but no more than [`BATCH`].
    pub fn first(count: usize) -> Self {
        Self(if count < BATCH { (1 << count) - 1 } else { u64::MAX })
    }

    /// Whether the page at `index` is one of them.
    pub fn contains(self, index: usize) -> bool {
        index < BATCH && self.0 >> index & 1 == 1
    }

    /// Adds the page at `index`, which is below [`BATCH`].
    pub fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    /// How many they are.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their indices, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> + Clone {
        (0..BATCH).filter(move |index| self.contains(*index))
    }

    /// Those of the batch `items` that the mask names.
    pub fn pick<T, I: IntoIterator<Item = T, IntoIter: Clone>>(self, items: I) -> impl Iterator<Item = T> + Clone {
        items.into_iter().enumerate().filter(move |(index, _)| self.contains(*index)).map(|(_, item)| item)
    }
}

impl FromIterator<usize> for PageMask {
    fn from_iter<I: IntoIterator<Item = usize>>(indices: I) -> Self {
        let mut mask = Self::default();
        indices.into_iter().for_each(|index| mask.insert(index));
        mask
    }
}

impl BitAnd for PageMask {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for PageMask {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Sub for PageMask {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_cover_whole_batches() {
        assert_eq!(PageMask::first(0), PageMask(0));
        assert_eq!([64, 65].map(PageMask::first), [PageMask(u64::MAX); 2]);
        assert_eq!(PageMask::from_iter(3..5), PageMask(0b11000));
        assert_eq!(PageMask::from_iter([63]), PageMask(1 << 63));
        assert_eq!(PageMask(u64::MAX).count(), BATCH);
    }

    #[test]
    fn a_mask_chooses_among_the_pages_there_are() {
        let mask = PageMask(1 << 63 | 0b101);
        assert!(mask.iter().eq([0, 2, 63]));
        assert!(mask.pick([10, 11, 12]).eq([10, 12]));
        assert!([0, 1, 64].map(|index| mask.contains(index)) == [true, false, false]);
    }

    #[test]
    fn what_one_mask_has_and_another_has_not_is_left() {
        let (one, other) = (PageMask(0b0110), PageMask(0b0011));
        assert_eq!([one & other, one | other, one - other], [0b0010, 0b0111, 0b0100].map(PageMask));
    }
}
