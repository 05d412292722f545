//! One thread's loop: every few milliseconds it writes and checks the pages that are due.

use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::memory::{Memory, Random};
use crate::options::Options;
use crate::shared::Shared;

/// Only so much work is caught up with after a pause: a guest that was away has not been asked for anything meanwhile.
const CATCH_UP: Duration = Duration::from_millis(100);
/// Only so many wrong pages are described.
const DESCRIBED: u64 = 20;

/// Works on `memory` for ever, as thread `number`.
pub fn run(number: usize, memory: Memory, options: &Options, shared: &Shared) {
    let hot = (memory.dirty_len() as u64 * options.hot_percent / 100).max(1);
    let mut worker = Worker {
        number,
        shared,
        order: Random::new(options.seed.wrapping_add(number as u64)),
        hot,
        next_to_verify: 0,
        checks_done: 0,
        memory,
    };
    let mut writes = Pace::new(options.dirty_rate as f64 / options.threads as f64);
    let mut checks = Pace::new(worker.memory.len() as f64 / options.sweep_s as f64);
    let tick = Duration::from_millis(options.tick_ms);
    loop {
        let (monotonic, boot) = (Instant::now(), boot_time());
        thread::sleep(tick);
        let away = monotonic.elapsed();
        shared.saw_gap(away, boot_time().saturating_sub(boot));
        worker.write(writes.due(away));
        worker.verify(checks.due(away));
        worker.check_if_asked();
        // The work itself takes time that belongs to the next tick, but a stall in it is the guest's experience too.
        let all = monotonic.elapsed();
        writes.owe(all - away);
        checks.owe(all - away);
        if all - away > tick {
            shared.saw_gap(all - away, all - away);
        }
    }
}

struct Worker<'a> {
    number: usize,
    shared: &'a Shared,
    memory: Memory,
    order: Random,
    /// How many of the first pages get most of the writes.
    hot: u64,
    next_to_verify: usize,
    checks_done: u64,
}

impl Worker<'_> {
    fn write(&mut self, count: u64) {
        let all = self.memory.dirty_len() as u64;
        for _ in 0..count {
            let among = if self.hot < all && self.order.below(10) < 9 { self.hot } else { all };
            let page = self.order.below(among) as usize;
            // First what was there: a page that was wrong must not be hidden by its next version.
            self.verify_page(page);
            self.memory.rewrite(page);
            self.shared.add_writes(1);
        }
    }

    fn verify(&mut self, count: u64) {
        for _ in 0..count {
            self.verify_page(self.next_to_verify);
            self.next_to_verify += 1;
            if self.next_to_verify == self.memory.len() {
                self.next_to_verify = 0;
                self.shared.add_sweep(self.number);
            }
        }
    }

    fn check_if_asked(&mut self) {
        let asked = self.shared.checks_asked();
        if asked > self.checks_done {
            (0..self.memory.len()).for_each(|page| self.verify_page(page));
            self.checks_done = asked;
            self.shared.checked(self.number, asked);
        }
    }

    fn verify_page(&mut self, page: usize) {
        self.shared.add_verified(1);
        let Err(mismatch) = self.memory.verify(page) else { return };
        if self.shared.add_error() < DESCRIBED {
            let address = self.memory.address_of(page);
            println!("load: WRONG thread {} at {address:#x}: {mismatch:x?}", self.number);
        }
    }
}

/// Turns passing time into work that is due.
struct Pace {
    per_second: f64,
    owed: f64,
}

impl Pace {
    fn new(per_second: f64) -> Pace {
        Pace { per_second, owed: 0.0 }
    }

    fn owe(&mut self, time: Duration) {
        let most = self.per_second * CATCH_UP.as_secs_f64() + 1.0;
        self.owed = (self.owed + self.per_second * time.as_secs_f64()).min(most);
    }

    fn due(&mut self, time: Duration) -> u64 {
        self.owe(time);
        let due = self.owed.floor();
        self.owed -= due;
        due as u64
    }
}

/// Time since boot, suspended time included.
fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_comes_due_at_its_rate_and_a_pause_is_not_made_up_for() {
        let mut pace = Pace::new(250.0);
        let due: u64 = (0..100).map(|_| pace.due(Duration::from_millis(10))).sum();
        assert!((249..=250).contains(&due), "{due}");
        assert!(pace.due(Duration::from_secs(10)) <= 26);
    }
}
