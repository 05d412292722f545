//! Who waits for which pages, and what the source knows of it.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell, RefMut};

use common::{BATCH, Gfn, PageSet};

use crate::tasks::Instant;
use crate::wire::Demanded;

/// Pages that somebody waits for.
#[derive(Default)]
pub(crate) struct Faults {
    waiting: RefCell<Vec<Waiting>>,
    /// Those of them that the source has not been told of.
    unsaid: RefCell<Vec<Demanded>>,
    /// A datagram brought a page before TCP did, and TCP has brought none since.
    tcp_is_late: Cell<bool>,
}

/// Somebody waits for a page.
pub(crate) struct Waiting {
    gfn: Gfn,
    since: Instant,
    /// A backend does, which gives up in the end.
    first: bool,
    /// How often it was asked for by datagram, and when for the last time.
    asks: u32,
    asked: Option<Instant>,
}

impl Waiting {
    /// Which page.
    pub(crate) fn gfn(&self) -> Gfn {
        self.gfn
    }

    /// Since when.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// How often it was asked for by datagram.
    pub(crate) fn asks(&self) -> u32 {
        self.asks
    }

    /// When it was for the last time.
    pub(crate) fn asked(&self) -> Option<Instant> {
        self.asked
    }

    /// It is asked for by datagram.
    pub(crate) fn ask(&mut self, now: Instant) {
        self.asks += 1;
        self.asked = Some(now);
    }
}

impl Faults {
    /// The pages that somebody waits for, each once.
    pub(crate) fn waiting(&self) -> RefMut<'_, Vec<Waiting>> {
        self.waiting.borrow_mut()
    }

    /// Whether a datagram brought a page before TCP did, and TCP has brought none since.
    pub(crate) fn tcp_is_late(&self) -> bool {
        self.tcp_is_late.get()
    }

    /// TCP has brought a page.
    pub(crate) fn tcp_came(&self) {
        self.tcp_is_late.set(false);
    }

    /// A datagram has brought a page.
    pub(super) fn tcp_was_late(&self) {
        self.tcp_is_late.set(true);
    }

    /// Somebody begins to wait for a page, which will then be demanded; a backend does if it is to be `first`.
    pub(super) fn begin(&self, gfn: Gfn, first: bool, now: Instant) {
        self.waiting().push(Waiting { gfn, since: now, first, asks: 0, asked: None });
        self.unsaid.borrow_mut().push(Demanded { gfn, first });
    }

    /// A page is here; since when somebody has waited for it, if anybody has.
    pub(super) fn end(&self, gfn: Gfn) -> Option<Instant> {
        let mut waiting = self.waiting();
        let place = waiting.iter().position(|wait| wait.gfn == gfn)?;
        Some(waiting.swap_remove(place).since)
    }

    /// After the agents lost each other: whatever somebody waits for is to be demanded again.
    pub(crate) fn forget_demands(&self) {
        let mut waiting = self.waiting();
        waiting.iter_mut().for_each(|wait| (wait.asks, wait.asked) = (0, None));
        *self.unsaid.borrow_mut() = waiting.iter().map(|wait| Demanded { gfn: wait.gfn, first: wait.first }).collect();
        self.tcp_came();
    }

    /// The next pages to demand of those that were `requested`, those first that backends wait for.
    pub(super) fn take_unsaid(&self, requested: &PageSet) -> heapless::Vec<Demanded, BATCH> {
        let mut unsaid = self.unsaid.borrow_mut();
        unsaid.retain(|demanded| requested.contains(demanded.gfn));
        unsaid.sort_by_key(|demanded| !demanded.first);
        let count = unsaid.len().min(BATCH);
        unsaid.drain(..count).collect()
    }
}
