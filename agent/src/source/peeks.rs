//! When stage 1 reads the dirty log, and how many bytes of it may be in flight.

use crate::limits::{ON_ITS_WAY, PEEK_EVERY};
use crate::net::IN_FLIGHT_BULK;
use crate::tasks::{Instant, ns};

/// How seldom the dirty log is looked at: once in so many times as long as a look takes, which grows with the guest, and for
/// some of which the guest stands still.
const PEEK_SHARE: u32 = 20;
/// Bytes of stage 1 that may be on their way in any case.
const LEAST_ON_ITS_WAY: u64 = 192 << 10;

/// When it was looked, and when it will be.
#[derive(Default)]
pub(crate) struct Peeks {
    last: Option<Progress>,
    /// When to look at the dirty log again, at the earliest.
    next: Instant,
}

/// How far stage 1 was.
#[derive(Clone, Copy, Default)]
struct Progress {
    at: Instant,
    /// Bytes that had arrived over the bulk connection.
    delivered: u64,
}

impl Peeks {
    /// Whether it is time to look how stage 1 gets on.
    pub(crate) fn are_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now >= last.at + PEEK_EVERY)
    }

    /// Whether it is time to look at the dirty log.
    pub(crate) fn log_is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// A look at the dirty log began and has ended.
    pub(crate) fn looked(&mut self, begun: Instant, now: Instant) {
        self.next = now + (now - begun) * (PEEK_SHARE - 1);
    }

    /// How much may be on its way: as much as arrived since the last look in the time that is allowed for it.
    pub(crate) fn room(&mut self, now: Instant, delivered: u64) -> usize {
        let then = self.last.replace(Progress { at: now, delivered }).unwrap_or_default();
        let arrived = delivered.saturating_sub(then.delivered) * ns(ON_ITS_WAY) / ns(now - then.at).max(1);
        arrived.clamp(LEAST_ON_ITS_WAY, IN_FLIGHT_BULK as u64) as usize
    }
}
