//! What steps cost for guests of 256 MiB, 64 GiB and 1 TiB with 5,000 dirty pages. A push must not depend on the guest's size;
//! what looks at the whole guest happens once, or so seldom that it takes a small share of the time.
//!
//! `cargo bench -p agent --features bench --bench guest_size`

use std::sync::LazyLock;
use std::time::Instant;

use agent::bench::push::{Leaver, Pushes};
use common::{Gfn, PageSet};

const FRAMES: [u64; 3] = [1 << 16, 1 << 24, 1 << 28];
const DIRTY: u64 = 5000;
/// The median counts, of so many.
const TIMES: usize = 15;

fn main() {
    println!("{:32} {:>12} {:>12} {:>12}   most : least", "", "2^16 frames", "2^24 frames", "2^28 frames");
    // They take turns, so that whatever else the machine does strikes all of them.
    let mut leavers = FRAMES.map(|frames| Leaver::new(frames, DIRTY, clock));
    let mut pushed = FRAMES.map(|_| Vec::new());
    for _ in 0..=TIMES {
        for (leaver, pushed) in leavers.iter_mut().zip(&mut pushed) {
            let Pushes { count, worked } = leaver.push();
            pushed.push(worked.as_secs_f64() * 1e6 / count as f64);
        }
    }
    // The first time memory is touched for the first time.
    row("a push of 16 pages, us", pushed.map(|pushed| median(&pushed[1..])));
    drop(leavers);
    let mut rows = [[0.0; FRAMES.len()]; STEPS.len()];
    for (at, frames) in FRAMES.into_iter().enumerate() {
        let mut sets = Sets::new(frames);
        for (row, (_, step)) in rows.iter_mut().zip(STEPS) {
            let times = (0..TIMES).map(|_| {
                let begun = clock();
                step(&mut sets);
                (clock() - begun) as f64 / 1e3
            });
            row[at] = median(&times.collect::<Vec<_>>());
        }
    }
    for ((name, _), row) in STEPS.into_iter().zip(rows) {
        self::row(name, row);
    }
}

fn row(name: &str, figures: [f64; FRAMES.len()]) {
    let [most, least] = [figures.into_iter().fold(0.0, f64::max), figures.into_iter().fold(f64::MAX, f64::min)];
    let [one, two, three] = figures;
    println!("{name:32} {one:12.1} {two:12.1} {three:12.1}   {:.2}", most / least);
}

fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Sets as they are in the switch: all of the guest's frames are RAM and were sent once, few are dirty.
struct Sets {
    ram: PageSet,
    sent: PageSet,
    dirty: PageSet,
    raw: Vec<u64>,
    one: PageSet,
    other: PageSet,
}

impl Sets {
    fn new(frames: u64) -> Self {
        let mut ram = PageSet::new(frames);
        ram.update(|words| words.fill(u64::MAX));
        let mut dirty = PageSet::new(frames);
        dirty.extend((0..DIRTY).map(|at| Gfn(at * frames / DIRTY)));
        let (one, other) = (dirty.clone(), PageSet::new(frames));
        Self { sent: ram.clone(), ram, raw: dirty.words().to_vec(), dirty, one, other }
    }
}

type Step = (&'static str, fn(&mut Sets));

/// The steps of the agent that look at whole sets, as it does them.
const STEPS: [Step; 5] = [
    ("the log is read, us", |sets| sets.one.update(|words| words.copy_from_slice(&sets.raw))),
    ("what is not hinted is found, us", |sets| {
        sets.other.union_with(&sets.one);
        sets.one.copy_from(&sets.other);
        sets.one.intersect_with(&sets.ram);
        sets.one.subtract(&sets.dirty);
        sets.dirty.union_with(&sets.one);
    }),
    ("the dirty set is settled, us", |sets| {
        sets.one.copy_from(&sets.ram);
        sets.one.subtract(&sets.sent);
        sets.other.copy_from(&sets.dirty);
        sets.other.union_with(&sets.one);
        sets.other.intersect_with(&sets.ram);
    }),
    ("nothing is left out, us", |sets| {
        assert!(sets.ram.is_union_of(&sets.sent, &sets.dirty));
        assert!(sets.dirty.next_outside(&sets.ram, Gfn(0)).is_none());
    }),
    ("a guest's pages are counted, us", |sets| assert_eq!(sets.ram.count(), sets.ram.frames())),
];

/// Nanoseconds since the first call.
fn clock() -> u64 {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGUN.elapsed().as_nanos() as u64
}
