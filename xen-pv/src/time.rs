//! The clock: system time (nanoseconds since the host started, never backwards) and wall-clock time.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use core::time::Duration;

use common::time::Instant;
use xen_abi::start_info::VcpuTimeInfo;

use crate::shared_info;

/// System time; the clock's beginning before the shared page is mapped.
pub fn now() -> Instant {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let Some(vcpu) = shared_info::vcpu() else { return Instant::default() };
    // SAFETY: points into the mapped page; only read through volatile reads below.
    let time = unsafe { &raw const (*vcpu).time };
    let now = loop {
        // SAFETY: as above. Xen makes the version odd, changes the rest, makes it even.
        let (before, sample, after) = unsafe {
            let before = (&raw const (*time).version).read_volatile();
            fence(Ordering::Acquire);
            let sample = time.read_volatile();
            fence(Ordering::Acquire);
            (before, sample, (&raw const (*time).version).read_volatile())
        };
        if before == after && before & 1 == 0 {
            // SAFETY: every x86-64 processor has it; Xen lets a PV domain execute it or emulates it.
            break system_time(&sample, unsafe { _rdtsc() });
        }
    };
    // Samples of two processors may disagree by a little: never go back.
    Instant::from_ns(LAST.fetch_max(now, Ordering::Relaxed).max(now))
}

/// The time since 1970; nothing before the shared page is mapped.
pub fn since_1970() -> Duration {
    let Some(shared) = shared_info::get() else { return Duration::ZERO };
    let base = loop {
        let before = shared.wc_version.load(Ordering::Acquire);
        let seconds = u64::from(shared.wc_sec.load(Ordering::Relaxed))
            | u64::from(shared.wc_sec_hi.load(Ordering::Relaxed)) << 32;
        let nanoseconds = u64::from(shared.wc_nsec.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if before & 1 == 0 && shared.wc_version.load(Ordering::Relaxed) == before {
            break Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanoseconds));
        }
    };
    base.saturating_add(now() - Instant::default())
}

/// What Xen's sample says for a value of the cycle counter.
fn system_time(sample: &VcpuTimeInfo, tsc: u64) -> u64 {
    // Another processor's counter may be a little behind.
    let cycles = tsc.saturating_sub(sample.tsc_timestamp);
    let shifted = match sample.tsc_shift {
        shift @ 0.. => cycles << shift.min(63),
        shift => cycles >> (-i32::from(shift)).min(63),
    };
    let nanoseconds = (u128::from(shifted) * u128::from(sample.tsc_to_system_mul)) >> 32;
    sample.system_time.wrapping_add(nanoseconds as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(mul: u32, shift: i8) -> VcpuTimeInfo {
        VcpuTimeInfo {
            version: 2,
            pad0: 0,
            tsc_timestamp: 1000,
            system_time: 50,
            tsc_to_system_mul: mul,
            tsc_shift: shift,
            flags: 0,
            pad1: [0; 2],
        }
    }

    #[test]
    fn cycles_become_nanoseconds() {
        // 2 GHz: half a nanosecond a cycle.
        assert_eq!(system_time(&sample(1 << 31, 0), 1000 + 4_000_000_000), 50 + 2_000_000_000);
        // 1 GHz, said with a shift.
        assert_eq!(system_time(&sample(1 << 31, 1), 1000 + 7), 50 + 7);
        assert_eq!(system_time(&sample(1 << 31, -1), 1000 + 8), 50 + 2);
    }

    #[test]
    fn a_counter_behind_the_sample_does_not_go_back() {
        assert_eq!(system_time(&sample(1 << 31, 0), 900), 50);
    }
}
