//! What the agent's own path costs on a host without Xen: each step, either end with all that it does, and `memcpy` of
//! the same bytes beside them. One thread does both ends' work in turn, and each is timed by itself.
//!
//! `cargo bench -p agent --features bench`

#![expect(missing_docs, reason = "the macro makes a function without")]

use std::hint::black_box;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use agent::bench::{Ends, Record, zero_mask};
use agent::wire::{Arriving, Cause, Pages};
use common::{BATCH, Content, Gfn, PAGE_SIZE, Page};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Pages of the guest: more than the processor's caches hold.
const PAGES: usize = 32 << 10;

/// Memory of a guest in which one page of each batch is zero: as good as nothing is saved.
fn memory() -> Vec<Page> {
    let page = |index: usize| if index.is_multiple_of(BATCH) { [0; PAGE_SIZE] } else { [index as u8 | 1; PAGE_SIZE] };
    (0..PAGES).map(page).collect()
}

fn steps(criterion: &mut Criterion) {
    let (from, mut to) = (memory(), vec![[0; PAGE_SIZE]; PAGES]);
    let mut group = criterion.benchmark_group("step");
    group.throughput(Throughput::Bytes((PAGES * PAGE_SIZE) as u64));
    group.bench_function("memcpy", |bencher| bencher.iter(|| black_box(&mut to).copy_from_slice(black_box(&from))));
    let mut batch = vec![[0; PAGE_SIZE]; BATCH];
    group.bench_function("scan", |bencher| {
        bencher.iter(|| {
            for pages in from.chunks(BATCH) {
                batch.copy_from_slice(pages);
                black_box(zero_mask(&batch));
            }
        });
    });

    let zero = zero_mask(&from[..BATCH]);
    let gfns: Vec<Gfn> = (0..BATCH as u64).map(Gfn).collect();
    let mut body = Vec::new();
    let frame = |body: &mut Vec<u8>, pages: &[Page]| {
        body.clear();
        Pages { cause: Cause::Copy, gfns: &gfns, zero }.emit(body);
        let filled = pages.iter().enumerate().filter(|(index, _)| zero >> index & 1 == 0);
        filled.for_each(|(_, page)| body.extend_from_slice(page));
    };
    group.bench_function("frame", |bencher| {
        bencher.iter(|| {
            for pages in from.chunks(BATCH) {
                frame(&mut body, pages);
                black_box(&body);
            }
        });
    });
    group.bench_function("place", |bencher| {
        bencher.iter(|| {
            for pages in to.chunks_mut(BATCH) {
                let arrived = Arriving::parse(black_box(&body)).expect("it was framed");
                for (page, (_, content)) in pages.iter_mut().zip(arrived.contents()) {
                    match content {
                        Content::Zero => page.fill(0),
                        Content::Bytes(bytes) => page.copy_from_slice(bytes),
                    }
                }
            }
        });
    });
    let mut ends = Ends::new(false, clock);
    for (end, name) in ["tcp_out", "tcp_in"].into_iter().enumerate() {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| spent(times, || ends.stream(from.as_flattened(), to.as_flattened_mut())[end]));
        });
    }
    assert!(from == to, "it arrived as it was");

    group.throughput(Throughput::Bytes(Record::LEN as u64));
    let mut record = Record::default();
    for (name, sealing) in [("seal", true), ("open", false)] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let (mut seal, mut open) = (Duration::ZERO, Duration::ZERO);
                for _ in 0..times {
                    let begun = Instant::now();
                    let tag = record.seal();
                    let sealed = Instant::now();
                    assert!(record.open(&tag));
                    (seal, open) = (seal + (sealed - begun), open + sealed.elapsed());
                }
                if sealing { seal } else { open }
            });
        });
    }
    group.finish();
}

fn ends(criterion: &mut Criterion) {
    let from = memory();
    for (end, name) in ["source", "target"].into_iter().enumerate() {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes((PAGES * PAGE_SIZE) as u64));
        for (name, sealed) in [("plain", false), ("sealed", true)] {
            let (mut ends, mut to) = (Ends::new(sealed, clock), vec![[0xff; PAGE_SIZE]; PAGES]);
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|times| spent(times, || ends.migrate(&from, &mut to)[end]));
            });
            assert!(from == to, "every page is where it belongs");
        }
        group.finish();
    }
}

/// What doing something so often takes, as it says itself.
fn spent(times: u64, mut nanoseconds: impl FnMut() -> u64) -> Duration {
    Duration::from_nanos((0..times).map(|_| nanoseconds()).sum())
}

/// Nanoseconds since the first call.
fn clock() -> u64 {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGUN.elapsed().as_nanos() as u64
}

criterion_group! {
    name = path;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(5));
    targets = steps, ends
}
criterion_main!(path);
