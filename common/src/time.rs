//! Points in time, and spans in nanoseconds.

use core::ops::{Add, Sub};
use core::time::Duration;

/// A time of the machine's clock, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant {
    ns: u64,
}

impl Instant {
    /// So many nanoseconds after the clock's beginning.
    pub const fn from_ns(ns: u64) -> Self {
        Self { ns }
    }

    /// Nanoseconds since the clock's beginning.
    pub const fn ns(self) -> u64 {
        self.ns
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self { ns: self.ns.saturating_add(ns(span)) }
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// How long after `then` it is; nothing if it is before.
    fn sub(self, then: Self) -> Duration {
        Duration::from_nanos(self.ns.saturating_sub(then.ns))
    }
}

/// A span in nanoseconds: of centuries, the longest that there are.
pub const fn ns(span: Duration) -> u64 {
    span.as_secs() * 1_000_000_000 + span.subsec_nanos() as u64
}
