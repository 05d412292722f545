//! Random migrations with random faults.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use common::control::Mode;

use crate::fault::{Fault, Run, When};
use crate::sim::Scenario;
use crate::sim::link::Quality;
use crate::sim::machine::{AFTER_COMMIT, BEFORE_COMMIT};
use crate::sim::random::Random;

fn random_run(seed: u64) -> Run {
    let mut random = Random::new(seed);
    let mut below = |bound| random.below(bound);
    let quality = Quality {
        bytes_per_second: 2_000_000 + below(60_000_000),
        delay_ns: 20_000 + below(2_000_000),
        lost_per_mille: if below(3) == 0 { below(15) } else { 0 },
        ..Quality::default()
    };
    let most_vcpus = if below(4) == 0 { 64 } else { 4 };
    let scenario = Scenario {
        seed,
        frames: 20 + below(600),
        vcpus: 1 + below(most_vcpus) as usize,
        working_set: 1 + below(400),
        step_ns: 50_000 + below(400_000),
        quality,
        mode: match below(6) {
            0 => Mode::Precopy,
            1 => Mode::Postcopy,
            _ => Mode::Tsmc,
        },
        max_downtime: None,
        can_page: below(8) != 0,
        labels: [below(6) != 0, below(6) != 0],
        stubborn: below(3) == 0,
        suspend_ns: below(100_000_000),
        to_itself: below(6) == 0,
    };
    let short = |long: u64| 1 + long;
    let fault = match below(18) {
        0..3 => Fault::Cut(short(below(70_000))),
        3..5 => Fault::Restart { host: 0, after: short(below(40_000)) },
        5..7 => Fault::Restart { host: 1 - usize::from(scenario.to_itself), after: short(below(40_000)) },
        7 => Fault::Cancel { end: below(2) as usize },
        8 => Fault::DestroyTarget,
        9 => Fault::Fails(BEFORE_COMMIT[below(BEFORE_COMMIT.len() as u64) as usize], below(40) as u32),
        10 => Fault::Fails(AFTER_COMMIT[below(AFTER_COMMIT.len() as u64) as usize], below(40) as u32),
        11..13 => Fault::Withdraw,
        13 => Fault::Discard { cut: below(70_000) },
        14 => Fault::Pause(below(3_000)),
        15..17 => Fault::Resume { after: below(2_000) },
        _ => Fault::Lose { host: below(2) as usize, frames: 1 + below(40) },
    };
    let when = match below(4) {
        0 => When::States { end: 0, count: 1 + below(5) as usize },
        1 => When::States { end: 1, count: 1 + below(3) as usize },
        _ if scenario.to_itself => When::Elapsed { us: below(200_000) },
        _ => When::Sent { host: below(2) as usize, frames: 1 + below(1 + 2 * scenario.frames) },
    };
    Run { scenario, start_ns: below(150_000_000), when, fault }
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Random migrations with random faults. `SOAK_SEED` is the first seed, `SOAK_RUNS` says how many.
#[test]
#[ignore = "takes minutes: make soak"]
fn soak() {
    let (first, runs) = (setting("SOAK_SEED", 1), setting("SOAK_RUNS", 10_000));
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let began = Instant::now();
    println!("soak: {runs} runs from seed {first} on");
    let failed: Vec<u64> = std::thread::scope(|scope| {
        let part = |thread| {
            scope.spawn(move || {
                (first..first + runs)
                    .filter(|seed| seed % threads == thread)
                    .filter(|seed| fails(*seed))
                    .collect::<Vec<_>>()
            })
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        parts.into_iter().flat_map(|part| part.join().expect("a part")).collect()
    });
    println!("soak: {runs} runs in {} s, {} failed", began.elapsed().as_secs(), failed.len());
    assert!(failed.is_empty(), "these seeds failed: {failed:?}");
}

fn fails(seed: u64) -> bool {
    let run = random_run(seed);
    let failed = catch_unwind(AssertUnwindSafe(|| run.check())).is_err();
    if failed {
        println!("seed {seed} fails: {run:?}\n  again: SOAK_SEED={seed} SOAK_RUNS=1 make soak");
    }
    failed
}
