//! State that the threads share: counters, and the check of all memory that a client asks for.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tests_qemu::load::{Check, Status};

use crate::options::Options;

pub struct Shared {
    begin: Instant,
    options: Options,
    writes: AtomicU64,
    writes_per_s: AtomicU64,
    verified: AtomicU64,
    errors: AtomicU64,
    longest_gap_ms: AtomicU64,
    longest_boot_gap_ms: AtomicU64,
    gaps_over_50ms: AtomicU64,
    /// Sweeps that each thread has finished.
    sweeps: Vec<AtomicU64>,
    /// How many checks have been asked for.
    asked: AtomicU64,
    /// How many checks each thread has done.
    checked: Mutex<Vec<u64>>,
    progress: Condvar,
}

impl Shared {
    pub fn new(options: &Options) -> Shared {
        Shared {
            begin: Instant::now(),
            options: options.clone(),
            writes: AtomicU64::new(0),
            writes_per_s: AtomicU64::new(0),
            verified: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            longest_gap_ms: AtomicU64::new(0),
            longest_boot_gap_ms: AtomicU64::new(0),
            gaps_over_50ms: AtomicU64::new(0),
            sweeps: (0..options.threads).map(|_| AtomicU64::new(0)).collect(),
            asked: AtomicU64::new(0),
            checked: Mutex::new(vec![0; options.threads]),
            progress: Condvar::new(),
        }
    }

    pub fn status(&self) -> Status {
        Status {
            t_ms: self.begin.elapsed().as_millis() as u64,
            dirty_pages: self.options.dirty_pages() as u64,
            idle_pages: self.options.idle_pages() as u64,
            rate: self.options.dirty_rate,
            threads: self.options.threads as u64,
            writes: self.writes(),
            writes_per_s: self.writes_per_s.load(Relaxed),
            verified: self.verified.load(Relaxed),
            sweeps: self.sweeps.iter().map(|thread| thread.load(Relaxed)).min().unwrap_or(0),
            errors: self.errors.load(Relaxed),
            longest_gap_ms: self.longest_gap_ms.load(Relaxed),
            longest_boot_gap_ms: self.longest_boot_gap_ms.load(Relaxed),
            gaps_over_50ms: self.gaps_over_50ms.load(Relaxed),
        }
    }

    pub fn writes(&self) -> u64 {
        self.writes.load(Relaxed)
    }

    pub fn set_writes_per_s(&self, rate: u64) {
        self.writes_per_s.store(rate, Relaxed);
    }

    pub fn add_writes(&self, count: u64) {
        self.writes.fetch_add(count, Relaxed);
    }

    pub fn add_verified(&self, count: u64) {
        self.verified.fetch_add(count, Relaxed);
    }

    /// Counts an error; returns how many there were before.
    pub fn add_error(&self) -> u64 {
        self.errors.fetch_add(1, Relaxed)
    }

    pub fn add_sweep(&self, thread: usize) {
        self.sweeps[thread].fetch_add(1, Relaxed);
    }

    /// A thread that meant to be back soon was away for that long, by two clocks.
    pub fn saw_gap(&self, monotonic: Duration, boot: Duration) {
        self.longest_gap_ms.fetch_max(monotonic.as_millis() as u64, Relaxed);
        self.longest_boot_gap_ms.fetch_max(boot.as_millis() as u64, Relaxed);
        if monotonic.max(boot) > Duration::from_millis(50) {
            self.gaps_over_50ms.fetch_add(1, Relaxed);
        }
    }

    pub fn forget_gaps(&self) {
        for gap in [&self.longest_gap_ms, &self.longest_boot_gap_ms, &self.gaps_over_50ms] {
            gap.store(0, Relaxed);
        }
    }

    /// How many checks have been asked for: a thread that has done fewer does one.
    pub fn checks_asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }

    /// Thread `number` has done all checks up to number `upto`.
    pub fn checked(&self, number: usize, upto: u64) {
        self.lock()[number] = upto;
        self.progress.notify_all();
    }

    /// Asks every thread to read all its pages, and waits until they have.
    pub fn check(&self) -> Check {
        let begin = Instant::now();
        let wanted = self.asked.fetch_add(1, Relaxed) + 1;
        let waiting = |done: &mut Vec<u64>| done.iter().any(|upto| *upto < wanted);
        drop(self.progress.wait_while(self.lock(), waiting).unwrap_or_else(PoisonError::into_inner));
        Check {
            pages: (self.options.dirty_pages() + self.options.idle_pages()) as u64,
            errors: self.errors.load(Relaxed),
            ms: begin.elapsed().as_millis() as u64,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
