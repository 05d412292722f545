//! A sparse set of guest pages, without a bound.
//!
//! Nobody tells the pager how many frames its guest will have, apart from the other host, which may say anything. A
//! [`common::PageSet`] would have to grow while it is filled, and what grows takes twice its memory for a moment, for which no
//! budget has room.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use common::Gfn;

/// Pages of one leaf: 128 MiB of a guest, 4 KiB of bits.
const LEAF: u64 = 32768;
const WORDS: usize = LEAF as usize / 64;

/// Grows by 4 KiB for every 128 MiB of the guest that it holds anything of: in the end one bit a page, and one part in a hundred
/// more.
#[derive(Debug, Default)]
pub(super) struct SparseSet {
    leaves: BTreeMap<u64, Box<[u64; WORDS]>>,
    count: u64,
}

impl SparseSet {
    pub(super) fn contains(&self, gfn: Gfn) -> bool {
        let (leaf, word, bit) = place(gfn);
        self.leaves.get(&leaf).is_some_and(|leaf| leaf[word] & bit != 0)
    }

    pub(super) fn insert(&mut self, gfn: Gfn) {
        let (leaf, word, bit) = place(gfn);
        let words = self.leaves.entry(leaf).or_insert_with(|| Box::new([0; WORDS]));
        self.count += u64::from(words[word] & bit == 0);
        words[word] |= bit;
    }

    pub(super) fn remove(&mut self, gfn: Gfn) {
        let (leaf, word, bit) = place(gfn);
        if let Some(words) = self.leaves.get_mut(&leaf) {
            self.count -= u64::from(words[word] & bit != 0);
            words[word] &= !bit;
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.count
    }
}

fn place(gfn: Gfn) -> (u64, usize, u64) {
    let within = gfn.0 % LEAF;
    (gfn.0 / LEAF, (within / 64) as usize, 1 << (within % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_counts_each_page_once() {
        let mut set = SparseSet::default();
        for gfn in [0, 63, 64, 32767, 32768, 0xfefff, 0] {
            set.insert(Gfn(gfn));
        }
        assert_eq!(set.len(), 6);
        assert!(set.contains(Gfn(0xfefff)) && !set.contains(Gfn(1)));
        set.remove(Gfn(0));
        set.remove(Gfn(0));
        set.remove(Gfn(1 << 30));
        assert_eq!(set.len(), 5);
    }
}
