//! What the target knows of every page of a guest.

use common::{Gfn, PageSet};

/// What is known of every page, a set for each thing. A page that is RAM and in no other set has not been heard of.
pub(crate) struct Sets {
    ram: PageSet,
    /// Here, with the content that the guest will see.
    present: PageSet,
    /// A touch becomes a fault.
    armed: PageSet,
    /// Stale since the switch, and not here yet.
    absent: PageSet,
    /// How many those are, always.
    missing: u64,
    /// Demanded and not here yet.
    requested: PageSet,
}

impl Sets {
    pub(crate) fn new(frames: u64) -> Self {
        let set = || PageSet::new(frames);
        Self { ram: set(), present: set(), armed: set(), absent: set(), missing: 0, requested: set() }
    }

    /// Those of a guest that runs, of which so much is absent: all else is here, and nobody sends it.
    pub(crate) fn adopted(absent: PageSet) -> Self {
        let set = || PageSet::new(absent.frames());
        let (missing, present, requested) = (absent.count(), set(), set());
        Self { ram: absent.clone(), present, armed: absent.clone(), absent, missing, requested }
    }

    /// Frames that the guest may have.
    pub(crate) fn frames(&self) -> u64 {
        self.ram.frames()
    }

    /// Lets every set reach the frames below `frames`.
    pub(super) fn grow(&mut self, frames: u64) {
        let Self { ram, present, armed, absent, requested, .. } = self;
        [ram, present, armed, absent, requested].into_iter().for_each(|set| set.grow(frames));
    }

    /// A page is RAM; whether that is news.
    pub(crate) fn announce(&mut self, gfn: Gfn) -> bool {
        self.ram.insert(gfn)
    }

    /// Touches of these pages become faults.
    pub(crate) fn arm(&mut self, gfns: impl IntoIterator<Item = Gfn>) {
        self.armed.extend(gfns);
    }

    /// What is here of a page is not what the guest must see.
    pub(crate) fn mark_stale(&mut self, gfn: Gfn) {
        self.present.remove(gfn);
        self.missing += u64::from(self.absent.insert(gfn));
    }

    /// Somebody waits for a page; whether it is to be demanded.
    pub(super) fn request(&mut self, gfn: Gfn) -> bool {
        self.absent.contains(gfn) && self.requested.insert(gfn)
    }

    /// A page is here.
    pub(super) fn settle(&mut self, gfn: Gfn) {
        self.forget(gfn);
        self.present.insert(gfn);
    }

    /// A page is RAM no more; whether it was.
    pub(super) fn remove(&mut self, gfn: Gfn) -> bool {
        self.forget(gfn);
        self.present.remove(gfn);
        self.ram.remove(gfn)
    }

    fn forget(&mut self, gfn: Gfn) {
        self.armed.remove(gfn);
        self.requested.remove(gfn);
        self.missing -= u64::from(self.absent.remove(gfn));
    }

    pub(crate) fn is_ram(&self, gfn: Gfn) -> bool {
        self.ram.contains(gfn)
    }

    pub(crate) fn is_armed(&self, gfn: Gfn) -> bool {
        self.armed.contains(gfn)
    }

    /// Whether a page can be read here.
    pub(super) fn is_readable(&self, gfn: Gfn) -> bool {
        self.present.contains(gfn) && !self.armed.contains(gfn)
    }

    /// The next page that is stale and cannot be armed.
    pub(crate) fn next_stubborn(&self, from: Gfn) -> Option<Gfn> {
        self.absent.next_outside(&self.armed, from)
    }

    /// Whether every page that is RAM is here or stale, and only stale ones are armed.
    pub(super) fn are_complete(&self) -> bool {
        let Self { ram, present, armed, absent, .. } = self;
        ram.is_union_of(present, absent) && armed.next_outside(absent, Gfn(0)).is_none()
    }

    /// All that is RAM.
    pub(super) fn ram(&self) -> &PageSet {
        &self.ram
    }

    /// All that is stale and not here yet.
    pub(crate) fn absent(&self) -> &PageSet {
        &self.absent
    }

    /// How many pages that is.
    pub(crate) fn missing(&self) -> u64 {
        self.missing
    }

    /// What was demanded and is not here yet.
    pub(super) fn requested(&self) -> &PageSet {
        &self.requested
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_counted_as_it_comes_and_goes() {
        let mut sets = Sets::new(100);
        (0..4).for_each(|gfn| assert!(sets.announce(Gfn(gfn))));
        sets.settle(Gfn(0));
        sets.mark_stale(Gfn(0));
        sets.mark_stale(Gfn(1));
        sets.mark_stale(Gfn(1));
        sets.arm([Gfn(0)]);
        assert!(sets.request(Gfn(0)) && !sets.request(Gfn(0)) && !sets.request(Gfn(2)));
        assert_eq!((sets.missing(), sets.next_stubborn(Gfn(0)), sets.are_complete()), (2, Some(Gfn(1)), false));
        assert!(sets.remove(Gfn(1)) && !sets.remove(Gfn(1)));
        [0, 2, 3].map(Gfn).into_iter().for_each(|gfn| sets.settle(gfn));
        assert!(sets.missing() == 0 && sets.absent().is_empty() && sets.are_complete() && sets.is_readable(Gfn(0)));
        assert!(!sets.is_ram(Gfn(1)) && sets.requested().is_empty());
    }
}
