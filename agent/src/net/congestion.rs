//! How much a connection has on its way at once, so that a network that others use as well is not overrun.
//!
//! The window is what the way itself holds, the rate of a round trip times the shortest of all round trips, and besides a little
//! that queues somewhere: enough to notice when more gets through, and the same for each connection, so that those that meet in one
//! queue come to equal shares. (So it is with delay-based congestion control since TCP Vegas; RFC 6817 is one of its kind.) What
//! may queue grows until something is lost, since switches hold different amounts, and is halved then.
//!
//! A window leaves over most of a round trip, not in one burst: a burst would go round as one, look like a queue when round trips
//! are measured, and overrun a switch that holds less (RFC 9002, section 7.7).
//!
//! After a loss the window is seven tenths of what it was (RFC 9438, section 4.6), and while it is made up for, what the peer has
//! behind it does not count (RFC 6675, section 5).
//!
//! smoltcp's own congestion control grows by a segment for each acknowledgement, and one is for up to 64 KiB here: after a loss it
//! would hardly grow again.

use core::time::Duration;

use crate::limits::{BURST, QUEUED_FOR};
use crate::net::recovery::Losses;
use crate::tasks::{Instant, share};

/// Bytes of the window at first, and at least: enough to show by what arrives behind it that a packet was lost.
const FIRST: usize = 64 << 10;
const LEAST: usize = 32 << 10;
/// Bytes that may queue somewhere: at first, at least, and at most, unless more arrives within [`QUEUED_FOR`]. The guest's own traffic
/// may have to wait behind them.
const FIRST_QUEUED: usize = 32 << 10;
const LEAST_QUEUED: usize = 8 << 10;
const MOST_QUEUED: usize = 192 << 10;
/// The part of what the way holds that may queue in any case. Where a round trip holds megabytes, a few KiB would take hundreds of round
/// trips to find that there is room for more.
const QUEUED_SHARE: usize = 64;
/// Bytes that what may queue grows by after each round trip, and in a second once something has been lost: the same for each connection,
/// whatever it has, so that shares become equal (RFC 5681, section 3.1, grows linearly for the same reason).
const MORE_QUEUED: usize = 2 << 10;
const MORE_A_SECOND: usize = 8 << 10;
/// Bytes that the window grows by after a round trip, at most, while it is not known what the way holds.
const MOST_GROWTH: usize = 128 << 10;
/// Something queues when the quickest of the round trips within one took longer than the shortest of all by this part of that.
const NOTICED: u32 = 32;
/// Round trips that are measured within one, at most.
const SAMPLES: usize = 16;
/// Bytes that leave in one burst, at least.
const LEAST_BURST: usize = 8 << 10;

/// Bytes that may be on their way.
pub(super) struct CongestionWindow {
    bytes: usize,
    /// Those of them that may queue.
    queued: usize,
    /// It grows after each round trip, by half at most, until a queue is noticed.
    ramps: bool,
    /// After the first loss: what was left of it by the last, which it keeps.
    kept: Option<usize>,
    /// How much longer than the shortest the last round trip took, and at the last loss.
    delay: Duration,
    delay_at_loss: Duration,
    /// It is made up for when all before this is delivered.
    until: Option<u64>,
    /// Bytes that had been sent again when something was made up for last.
    again: u64,
    /// The shortest round trip.
    least: Duration,
    round: Option<Round>,
    /// When the last of what was handed over would leave, had it all left at an even pace.
    leaves: Instant,
}

/// A round trip: until a byte that is handed over is delivered.
struct Round {
    at: Instant,
    begun: Sent,
    /// There was more to send than the window let through.
    was_full: bool,
    /// Most of a window was on its way when it began: what arrives within it is what the way carries.
    was_under_way: bool,
    /// Of what waits to be delivered.
    samples: heapless::Deque<Sample, SAMPLES>,
    /// What the quickest of them took.
    quickest: Duration,
}

/// Bytes whose round trip is measured.
struct Sample {
    /// Where they end, in bytes since the connection began.
    end: u64,
    at: Instant,
}

/// How far a connection is, in bytes since it began.
#[derive(Clone, Copy, Default)]
pub(super) struct Sent {
    pub(super) handed_over: u64,
    pub(super) delivered: u64,
    pub(super) losses: Losses,
}

/// What may follow what has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// So many bytes, if any; more when some have been delivered.
    Bytes(usize),
    /// Some, from then on.
    From(Instant),
}

impl Default for CongestionWindow {
    fn default() -> Self {
        Self {
            bytes: FIRST,
            queued: FIRST_QUEUED,
            ramps: true,
            kept: None,
            delay: Duration::ZERO,
            delay_at_loss: Duration::ZERO,
            until: None,
            again: 0,
            least: Duration::MAX,
            round: None,
            leaves: Instant::default(),
        }
    }
}

impl CongestionWindow {
    /// How many of `wanted` bytes may follow what has been sent, if at most `most` are on their way. They are handed over at once.
    pub(super) fn room(&mut self, now: Instant, sent: Sent, wanted: usize, most: usize) -> Room {
        self.sample(now, sent.delivered);
        if let Some(round) = self.round.take_if(|round| sent.delivered > round.begun.handed_over) {
            self.judge(round, sent, now);
        }
        self.recover(sent);
        // The peer keeps what it has behind a hole: that is room taken there, and not under way any more.
        let unacknowledged = (sent.handed_over - sent.delivered) as usize;
        let on_its_way = unacknowledged.saturating_sub(sent.losses.there as usize);
        let open = self.bytes.saturating_sub(on_its_way).min(most.saturating_sub(unacknowledged)).min(wanted);
        let room = open.min(self.burst(now));
        if room == 0 && open > 0 {
            return Room::From(self.leaves);
        }
        self.leaves = self.leaves.max(now) + self.span(room);
        if room > 0 && self.round.is_none() && self.until.is_none() {
            let (samples, quickest) = (heapless::Deque::new(), Duration::MAX);
            let was_under_way = on_its_way + room >= self.bytes.min(most) / 2;
            self.round = Some(Round { at: now, begun: sent, was_full: false, was_under_way, samples, quickest });
        }
        if let Some(round) = &mut self.round {
            round.was_full |= open < wanted && self.bytes <= most;
            if room > 0 {
                let _ = round.samples.push_back(Sample { end: sent.handed_over + room as u64, at: now });
            }
        }
        Room::Bytes(room)
    }

    /// What bytes take to leave at an even pace: a window in less than a round trip, so that it is the window that bounds.
    fn span(&self, bytes: usize) -> Duration {
        let trip = if self.least == Duration::MAX { Duration::ZERO } else { self.least * 4 / 5 };
        trip * bytes as u32 / self.bytes as u32
    }

    /// Bytes that may leave at once.
    fn burst(&self, now: Instant) -> usize {
        let window = self.span(self.bytes);
        if window <= BURST {
            return usize::MAX;
        }
        if self.leaves <= now { (share(self.bytes as u64, BURST, window) as usize).max(LEAST_BURST) } else { 0 }
    }

    /// Takes note of what has been delivered.
    fn sample(&mut self, now: Instant, delivered: u64) {
        let Some(Round { samples, quickest, .. }) = &mut self.round else { return };
        while let Some(sample) = samples.pop_front_if(|sample| sample.end <= delivered) {
            *quickest = (*quickest).min(now - sample.at);
        }
    }

    /// Minds what is lost: the window is smaller at once, and once for all that was on its way then.
    fn recover(&mut self, sent: Sent) {
        if self.until.take_if(|end| sent.delivered >= *end).is_some() {
            self.again = sent.losses.again;
        }
        if self.until.is_none() && sent.losses.again > self.again {
            self.until = Some(sent.handed_over);
            self.bytes = (self.bytes / 10 * 7).max(LEAST);
            (self.ramps, self.kept, self.round) = (false, Some(self.bytes), None);
            self.delay_at_loss = self.delay;
            self.queued = (self.queued / 2).max(LEAST_QUEUED);
        }
    }

    /// A round trip has ended.
    fn judge(&mut self, Round { at, begun, was_full, was_under_way, quickest, .. }: Round, sent: Sent, now: Instant) {
        let took = now - at;
        let quickest = quickest.min(took);
        self.least = self.least.min(quickest);
        if !was_full || !was_under_way {
            return;
        }
        let arrived = sent.delivered - begun.delivered;
        let within = |span| share(arrived, span, took) as usize;
        let held = within(self.least);
        self.delay = quickest - self.least;
        if self.delay > self.least / NOTICED && arrived as usize > held + self.queued / 4 {
            self.ramps = false;
        }
        if self.ramps {
            self.bytes += (self.bytes / 2).min(MOST_GROWTH);
            return;
        }
        let a_second = if self.delay < self.delay_at_loss / 4 * 3 { MORE_A_SECOND } else { MORE_A_SECOND / 4 };
        let meanwhile = share(a_second as u64, took, Duration::from_secs(1)) as usize;
        let more = self.kept.map_or(MORE_QUEUED, |_| meanwhile.min(MORE_QUEUED));
        self.queued = (self.queued + more).min(within(QUEUED_FOR).max(MOST_QUEUED));
        self.kept = self.kept.map(|kept| kept + more);
        self.bytes = (held + self.queued.max(held / QUEUED_SHARE)).max(self.kept.unwrap_or(LEAST));
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::VecDeque;

    use super::*;

    const MANY: usize = usize::MAX / 4;

    /// A way that carries a MB a second, 10 ms there and back, behind a switch that holds so much; what it drops arrives all the same.
    struct Way {
        window: CongestionWindow,
        now: Instant,
        sent: Sent,
        holds: Duration,
        free: Instant,
        under_way: VecDeque<(Instant, u64)>,
    }

    impl Way {
        fn new(holds: usize) -> Self {
            let (now, free, sent, under_way) = Default::default();
            let holds = Duration::from_micros(holds as u64);
            Self { window: CongestionWindow::default(), now, sent, holds, free, under_way }
        }

        /// Sends for so long what may be sent, `wanted` bytes at a time.
        fn run(&mut self, span: Duration, wanted: usize, most: usize) {
            let end = self.now + span;
            while self.now < end {
                let mut next = end;
                loop {
                    match self.window.room(self.now, self.sent, wanted, most) {
                        Room::Bytes(0) => break,
                        Room::Bytes(room) => self.send(room as u64),
                        Room::From(then) => {
                            next = then;
                            break;
                        }
                    }
                }
                self.now = self.under_way.front().map_or(next, |(due, _)| next.min(*due)).max(self.now);
                while let Some((_, end)) = self.under_way.pop_front_if(|(due, _)| *due <= self.now) {
                    self.sent.delivered = end;
                }
            }
        }

        fn send(&mut self, bytes: u64) {
            self.sent.handed_over += bytes;
            self.free = self.free.max(self.now) + Duration::from_micros(bytes);
            let overflow = (self.free - self.now).saturating_sub(self.holds);
            self.sent.losses.again += bytes.min(overflow.as_micros() as u64);
            self.under_way.push_back((self.free + Duration::from_millis(10), self.sent.handed_over));
        }
    }

    #[test]
    fn it_comes_to_what_the_way_holds_and_a_little_more() {
        let mut way = Way::new(1 << 30);
        way.run(Duration::from_secs(60), MANY, 1 << 20);
        assert!((MOST_QUEUED..=MOST_QUEUED + 20_000).contains(&way.window.bytes), "{}", way.window.bytes);
        assert!(way.sent.delivered > 59_000_000, "{}", way.sent.delivered);
    }

    #[test]
    fn little_is_lost_and_the_way_stays_full() {
        let mut way = Way::new(64 << 10);
        way.run(Duration::from_secs(10), MANY, 1 << 20);
        let (lost, delivered) = (way.sent.losses.again, way.sent.delivered);
        way.run(Duration::from_secs(60), MANY, 1 << 20);
        let (lost, delivered) = (way.sent.losses.again - lost, way.sent.delivered - delivered);
        assert!(lost < delivered / 200 && delivered > 59_000_000, "{lost} of {delivered}");
    }

    #[test]
    fn a_window_does_not_leave_in_one_burst() {
        let mut way = Way::new(1 << 30);
        way.run(Duration::from_secs(10), MANY, 1 << 20);
        let (all, later) = (way.window.bytes, way.now + Duration::from_secs(1));
        way.sent.delivered = way.sent.handed_over;
        let Room::Bytes(burst) = way.window.room(later, way.sent, MANY, MANY) else { panic!("it was long ago") };
        assert!((LEAST_BURST..all / 3).contains(&burst), "{burst} of {all}");
        way.sent.handed_over += burst as u64;
        let Room::From(then) = way.window.room(later, way.sent, MANY, MANY) else { panic!("it left at once") };
        assert!(then >= later + BURST / 2 && then <= later + BURST * 2);
    }

    #[test]
    fn it_does_not_grow_while_something_else_is_the_bound() {
        let mut way = Way::new(1 << 30);
        way.run(Duration::from_secs(1), MANY, 16 << 10);
        assert_eq!(way.window.bytes, FIRST);
        // Here it is what there is to send.
        let mut way = Way::new(1 << 30);
        for _ in 0..100 {
            let Room::Bytes(room) = way.window.room(way.now, way.sent, 4096, 1 << 20) else {
                panic!("a window is open")
            };
            way.send(room as u64);
            way.now = way.now + Duration::from_millis(20);
            way.sent.delivered = way.sent.handed_over;
        }
        assert_eq!(way.window.bytes, FIRST);
    }
}
