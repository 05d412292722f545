//! How much a connection has on its way at once, so that a network that others use as well is not overrun.
//!
//! The window is what the way itself holds, the rate of a round trip times the shortest of all round trips, and besides a little
//! that queues somewhere: enough to notice when more gets through, and the same for each connection, so that those that meet in one
//! queue come to equal shares. (So it is with delay-based congestion control since TCP Vegas; RFC 6817 is one of its kind.) What
//! may queue grows until something is lost, since switches hold different amounts, and is halved then.
//!
//! While smoltcp makes up for a loss nothing new is sent, and when it has, all of a window may be. In one burst much of it would be
//! lost again: so the window begins anew then, and grows after each round trip, by what a switch is likely to hold (RFC 5681, section
//! 3.1, would double it), to seven tenths of what it was (RFC 9438, section 4.6).
//!
//! smoltcp's own congestion control grows by a segment for each acknowledgement, and one is for up to 64 KiB here: after a loss it
//! would hardly grow again.

use core::time::Duration;

use crate::limits::QUEUED_FOR;
use crate::tasks::{Instant, ns};

/// Bytes of the window at first, and at least: enough to show by what arrives behind it that a packet was lost. After a loss it
/// begins with less: what is full may still be.
const FIRST: usize = 64 << 10;
const LEAST: usize = 32 << 10;
const ANEW: usize = 8 << 10;
/// Bytes that may queue somewhere: at first, at least, and at most, unless more arrives within [`QUEUED_FOR`]. The guest's own traffic
/// may have to wait behind them.
const FIRST_QUEUED: usize = 32 << 10;
const LEAST_QUEUED: usize = 8 << 10;
const MOST_QUEUED: usize = 192 << 10;
/// Bytes that this grows by after each round trip, and once something has been lost: for each 10 ms of it, up to as much as before.
/// So much may be lost at once, and each packet of it takes a round trip to make up for.
const MORE_QUEUED: usize = 2 << 10;
const LESS_QUEUED: usize = 512;
/// Bytes that the window grows by at once, at least and at most, while it is not known what the way holds.
const LEAST_BURST: usize = 8 << 10;
const MOST_BURST: usize = 128 << 10;

/// Bytes that may be on their way.
pub(super) struct CongestionWindow {
    bytes: usize,
    /// Those of them that may queue.
    queued: usize,
    /// Below this it grows after each round trip, by half at most, until a queue is noticed.
    threshold: usize,
    /// Something has been lost.
    lost: bool,
    /// The shortest round trip.
    least: Duration,
    round: Option<Round>,
}

/// A round trip: until a byte that is handed over is delivered.
struct Round {
    at: Instant,
    begun: Sent,
    /// There was more to send than the window let through.
    was_full: bool,
}

/// How far a connection is, in bytes since it began.
#[derive(Clone, Copy, Default)]
pub(super) struct Sent {
    pub(super) handed_over: u64,
    pub(super) delivered: u64,
    /// What was sent once more, each time counted.
    pub(super) again: u64,
}

impl Default for CongestionWindow {
    fn default() -> Self {
        let (bytes, queued, least) = (FIRST, FIRST_QUEUED, Duration::MAX);
        Self { bytes, queued, threshold: usize::MAX, lost: false, least, round: None }
    }
}

impl CongestionWindow {
    /// How many of `wanted` bytes may follow what has been sent, if at most `most` are on their way.
    pub(super) fn room(&mut self, now: Instant, sent: Sent, wanted: usize, most: usize) -> usize {
        if let Some(round) = self.round.take_if(|round| sent.delivered > round.begun.handed_over) {
            self.judge(round, sent, now);
        }
        let on_its_way = (sent.handed_over - sent.delivered) as usize;
        let room = wanted.min(self.bytes.min(most).saturating_sub(on_its_way));
        if room > 0 && self.round.is_none() {
            self.round = Some(Round { at: now, begun: sent, was_full: false });
        }
        if let Some(round) = &mut self.round {
            round.was_full |= room < wanted && self.bytes <= most;
        }
        room
    }

    /// A round trip has ended.
    fn judge(&mut self, Round { at, begun, was_full }: Round, sent: Sent, now: Instant) {
        let took = now - at;
        self.least = self.least.min(took);
        if sent.again > begun.again {
            (self.threshold, self.lost) = (self.bytes / 10 * 7, true);
            self.bytes = ANEW;
            self.queued = (self.queued / 2).max(LEAST_QUEUED);
            return;
        }
        if !was_full {
            return;
        }
        let arrived = sent.delivered - begun.delivered;
        let within = |span| (u128::from(arrived) * u128::from(ns(span).max(1)) / u128::from(ns(took).max(1))) as usize;
        let held = within(self.least);
        if arrived as usize > held + self.queued / 4 {
            self.threshold = 0;
        }
        if self.bytes < self.threshold {
            let burst = (self.threshold / 32).clamp(LEAST_BURST, MOST_BURST);
            self.bytes = (self.bytes + (self.bytes / 2).min(burst)).min(self.threshold);
            return;
        }
        let less = (self.least.as_millis() as usize / 10).saturating_mul(LESS_QUEUED);
        let more = if self.lost { less.clamp(LESS_QUEUED, MORE_QUEUED) } else { MORE_QUEUED };
        self.queued = (self.queued + more).min(within(QUEUED_FOR).max(MOST_QUEUED));
        self.bytes = (held + self.queued).max(LEAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = usize::MAX / 4;

    /// A way that carries a MB a second, 10 ms there and back, and drops what queues beyond so much.
    struct Way {
        window: CongestionWindow,
        now: Instant,
        sent: Sent,
        holds: u64,
    }

    impl Way {
        fn new(holds: u64) -> Self {
            Self { window: CongestionWindow::default(), now: Instant::default(), sent: Sent::default(), holds }
        }

        /// Sends what may be sent of so much, and waits until it has arrived; how much that was.
        fn round(&mut self, wanted: usize, most: usize) -> u64 {
            let room = self.window.room(self.now, self.sent, wanted, most) as u64;
            self.sent.handed_over += room;
            self.sent.again += room.saturating_sub(10_000 + self.holds);
            self.now = self.now + Duration::from_micros(room.max(10_000));
            self.sent.delivered = self.sent.handed_over;
            room
        }
    }

    #[test]
    fn it_comes_to_what_the_way_holds_and_a_little_more() {
        let mut way = Way::new(1 << 30);
        (0..100).for_each(|_| _ = way.round(MANY, 1 << 20));
        let room = way.round(MANY, 1 << 20) as usize;
        assert!((MOST_QUEUED..=MOST_QUEUED + 10_000 + FIRST).contains(&room), "{room}");
    }

    #[test]
    fn it_gets_smaller_until_nothing_is_lost() {
        let mut way = Way::new(64 << 10);
        (0..300).for_each(|_| _ = way.round(MANY, 1 << 20));
        let (lost, now) = (way.sent.again, way.now);
        (0..300).for_each(|_| _ = way.round(MANY, 1 << 20));
        let took = u64::from((way.now - now).subsec_millis()) + 1000 * (way.now - now).as_secs();
        assert!(way.sent.again - lost < took * 1000 / 100, "{} in {took} ms", way.sent.again - lost);
        assert!(way.round(MANY, 1 << 20) >= 10_000 + (LEAST as u64 / 2));
    }

    #[test]
    fn it_does_not_grow_while_something_else_is_the_bound() {
        for (wanted, most) in [(4096, 1 << 20), (MANY, 16 << 10)] {
            let mut way = Way::new(1 << 30);
            (0..100).for_each(|_| _ = way.round(wanted, most));
            assert!(way.round(MANY, 1 << 20) as usize <= FIRST);
        }
    }
}
