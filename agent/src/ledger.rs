//! What is counted on the way: sends of each page, times of each stage, waits for each fault.

use core::time::Duration;

use common::control::Summary;
use common::{Gfn, PageSet};

use crate::tasks::{Instant, Timer, ms, ns, rate};

/// How often each page was sent: a counter of three bits per page, one set per bit.
pub(crate) struct Sends {
    bits: [PageSet; 3],
    most: u64,
}

impl Sends {
    pub(crate) fn new(frames: u64) -> Self {
        Self { bits: core::array::from_fn(|_| PageSet::new(frames)), most: 0 }
    }

    pub(crate) fn grow(&mut self, frames: u64) {
        self.bits.iter_mut().for_each(|bit| bit.grow(frames));
    }

    /// Counts one send of `gfn` and says how many that makes; the counter stays at 7.
    pub(crate) fn count(&mut self, gfn: Gfn) -> u64 {
        let sends = (self.of(gfn) + 1).min(7);
        self.set(gfn, sends);
        self.most = self.most.max(sends);
        sends
    }

    fn set(&mut self, gfn: Gfn, sends: u64) {
        for (place, bit) in self.bits.iter_mut().enumerate() {
            if sends >> place & 1 == 1 {
                bit.insert(gfn);
            } else {
                bit.remove(gfn);
            }
        }
    }

    /// The last send of `gfn` never arrived: it counts no more.
    pub(crate) fn take_back(&mut self, gfn: Gfn) {
        let sends = self.of(gfn).saturating_sub(1);
        self.set(gfn, sends);
    }

    /// How often `gfn` was sent.
    pub(crate) fn of(&self, gfn: Gfn) -> u64 {
        self.bits.iter().enumerate().map(|(place, bit)| u64::from(bit.contains(gfn)) << place).sum()
    }

    /// Takes from `pages` those that were sent.
    pub(crate) fn take_sent_from(&self, pages: &mut PageSet) {
        self.bits.iter().for_each(|bit| pages.subtract(bit));
    }

    /// The most that any page was sent.
    pub(crate) fn most(&self) -> u64 {
        self.most
    }
}

/// The stage that time and bytes are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Stage 1.
    FullCopy,
    /// Stage 2.
    Switchover,
    /// Stage 3.
    DirtyCopy,
}

/// What each step of the path of pages took. The rest is the network's, or waiting.
#[derive(Clone, Copy, Default)]
pub(crate) struct Steps {
    pub(crate) ask: Duration,
    pub(crate) read: Duration,
    pub(crate) scan: Duration,
    pub(crate) seal: Duration,
    pub(crate) open: Duration,
    pub(crate) populate: Duration,
    pub(crate) write: Duration,
    pub(crate) arm: Duration,
}

/// The figures of one session, as they grow.
pub(crate) struct Ledger {
    pub(crate) summary: Summary,
    pub(crate) steps: Steps,
    pub(crate) waits: Waits,
    timer: Timer,
    began: Instant,
    running: Option<Running>,
}

/// The stage that runs.
#[derive(Clone, Copy)]
struct Running {
    stage: Stage,
    since: Instant,
    /// What the connections had moved by then.
    bytes: u64,
}

impl Ledger {
    pub(crate) fn new(timer: Timer) -> Self {
        let began = timer.now();
        Self {
            summary: Summary::default(),
            steps: Steps::default(),
            waits: Waits::default(),
            timer,
            began,
            running: None,
        }
    }

    /// Ends the stage before, if any, and begins `stage`. `bytes` is what the connections have moved so far.
    pub(crate) fn begin(&mut self, stage: Stage, bytes: u64) {
        self.end_stage(bytes);
        if stage == Stage::FullCopy {
            self.began = self.timer.now();
        }
        self.running = Some(Running { stage, since: self.timer.now(), bytes });
    }

    /// Whether `stage` runs.
    pub(crate) fn is_in(&self, stage: Stage) -> bool {
        self.running.is_some_and(|running| running.stage == stage)
    }

    /// Bytes moved in the stage that runs, when `bytes` have been moved in all.
    pub(crate) fn stage_bytes(&self, bytes: u64) -> u64 {
        self.running.map_or(0, |running| bytes.saturating_sub(running.bytes))
    }

    /// Bytes per second since the stage began.
    pub(crate) fn rate(&self, bytes: u64) -> u64 {
        let Some(Running { since, bytes: before, .. }) = self.running else { return 0 };
        rate(bytes.saturating_sub(before), self.timer.now() - since)
    }

    /// Milliseconds since `then`.
    pub(crate) fn ms_since(&self, then: Instant) -> u64 {
        ms(self.timer.now() - then)
    }

    /// Ends everything and gives the figures.
    pub(crate) fn close(&mut self, bytes: u64) -> Summary {
        self.end_stage(bytes);
        self.summary.total_ms = self.ms_since(self.began);
        let Steps { ask, read, scan, seal, open, populate, write, arm } = self.steps;
        let Summary { ask_ms, read_ms, scan_ms, seal_ms, open_ms, populate_ms, write_ms, arm_ms, .. } =
            &mut self.summary;
        let source = [(ask_ms, ask), (read_ms, read), (scan_ms, scan), (seal_ms, seal)];
        let target = [(open_ms, open), (populate_ms, populate), (write_ms, write), (arm_ms, arm)];
        source.into_iter().chain(target).for_each(|(milliseconds, spent)| *milliseconds = ms(spent));
        self.summary.faults = self.waits.count();
        self.summary.fault_p50_us = self.waits.percentile(50);
        self.summary.fault_p99_us = self.waits.percentile(99);
        self.summary.fault_max_us = self.waits.max_us;
        self.summary
    }

    fn end_stage(&mut self, bytes: u64) {
        let Some(Running { stage, since, bytes: before }) = self.running.take() else { return };
        let (elapsed, moved) = (self.ms_since(since), bytes.saturating_sub(before));
        let summary = &mut self.summary;
        let (took, total) = match stage {
            Stage::FullCopy => (&mut summary.stage1_ms, &mut summary.stage1_bytes),
            Stage::Switchover => (&mut summary.stage2_ms, &mut summary.stage2_bytes),
            Stage::DirtyCopy => (&mut summary.stage3_ms, &mut summary.stage3_bytes),
        };
        *took = elapsed;
        *total = moved;
    }
}

/// Eight steps for every doubling: a wait is known to within an eighth.
const STEPS: u64 = 8;
const BUCKETS: usize = 8 * 33;

/// How long faults waited for their pages.
pub(crate) struct Waits {
    buckets: [u32; BUCKETS],
    max_us: u64,
}

impl Default for Waits {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], max_us: 0 }
    }
}

impl Waits {
    /// Counts one wait.
    pub(crate) fn add(&mut self, wait: Duration) {
        self.add_us(ns(wait) / 1000);
    }

    fn add_us(&mut self, wait_us: u64) {
        let bucket = Self::bucket(wait_us).min(BUCKETS - 1);
        self.buckets[bucket] = self.buckets[bucket].saturating_add(1);
        self.max_us = self.max_us.max(wait_us);
    }

    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(|count| u64::from(*count)).sum()
    }

    /// The wait that `percent` of all did not exceed, rounded up by at most an eighth.
    pub(crate) fn percentile(&self, percent: u64) -> u64 {
        let wanted = (self.count() * percent).div_ceil(100);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if *count != 0 && seen >= wanted {
                return Self::highest(bucket as u64).min(self.max_us);
            }
        }
        0
    }

    fn bucket(wait_us: u64) -> usize {
        if wait_us < STEPS {
            return wait_us as usize;
        }
        let doublings = u64::from(wait_us.ilog2()) - 3;
        ((doublings + 1) * STEPS + (wait_us >> doublings) - STEPS) as usize
    }

    /// The longest wait that falls into `bucket`.
    fn highest(bucket: u64) -> u64 {
        if bucket < STEPS {
            return bucket;
        }
        let (doublings, step) = (bucket / STEPS - 1, bucket % STEPS);
        ((STEPS + step + 1) << doublings) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_counts_up_to_seven_sends() {
        let mut sends = Sends::new(100);
        let counts: alloc::vec::Vec<u64> = (0..9).map(|_| sends.count(Gfn(5))).collect();
        assert_eq!(counts, [1, 2, 3, 4, 5, 6, 7, 7, 7]);
        sends.count(Gfn(6));
        assert_eq!((sends.of(Gfn(6)), sends.of(Gfn(7)), sends.most()), (1, 0, 7));
        let mut pages = PageSet::new(100);
        pages.extend([Gfn(5), Gfn(6), Gfn(7)]);
        sends.take_sent_from(&mut pages);
        assert!(pages.iter().eq([Gfn(7)]));
        sends.take_back(Gfn(6));
        sends.take_back(Gfn(7));
        assert_eq!((sends.of(Gfn(6)), sends.of(Gfn(7)), sends.most()), (0, 0, 7));
    }

    #[test]
    fn percentiles_are_exact_to_an_eighth() {
        let mut waits = Waits::default();
        (1..=1000).for_each(|wait| waits.add_us(wait * 10));
        assert_eq!(waits.count(), 1000);
        for (percent, exact) in [(1, 100), (50, 5000), (99, 9900), (100, 10000)] {
            let found = waits.percentile(percent);
            assert!(found >= exact && found <= exact + exact / 8, "{percent}: {found}");
        }
        assert_eq!(Waits::default().percentile(50), 0);
        waits.add_us(u64::MAX);
        assert_eq!(waits.max_us, u64::MAX);
    }
}
