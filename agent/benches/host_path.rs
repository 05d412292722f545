//! What the agent's own path costs on a host without Xen: each step, either end with all that it does, and `memcpy` of
//! the same bytes beside them. One thread does both ends' work in turn, and each is timed by itself.
//!
//! `cargo bench -p agent --features bench --bench host_path`; with `-- seal`, or a part of any other name, that step alone.
//! With `RUSTFLAGS='--cfg polyval_backend="soft"'` the cipher is what the image has on a host without AVX, and its steps' names
//! say so.

#![expect(missing_docs, reason = "the macro makes a function without")]

use std::hint::black_box;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use agent::bench::{Ends, Record, digest, zero_mask};
use agent::wire::{Arriving, CHUNK, Cause, Pages, Set};
use common::{BATCH, Content, Gfn, PAGE_SIZE, Page, PageSet, Span};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Pages of the guest: more than the processor's caches hold.
const PAGES: usize = 32 << 10;
/// Frames of the guest whose sets are looked at, 1 GiB, and how many of them are dirty.
const FRAMES: u64 = 1 << 18;
const DIRTY: u64 = 5000;

/// What the names of steps with the cipher end in.
const CIPHER: &str = if cfg!(polyval_backend = "soft") { "_portable_ghash" } else { "" };

/// Memory of a guest in which one page of each batch is zero: as good as nothing is saved.
fn memory() -> Vec<Page> {
    let page = |index: usize| if index.is_multiple_of(BATCH) { [0; PAGE_SIZE] } else { [index as u8 | 1; PAGE_SIZE] };
    (0..PAGES).map(page).collect()
}

/// What is done to a batch of pages, over all of the guest.
fn pages(criterion: &mut Criterion) {
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
    group.bench_function("digest", |bencher| bencher.iter(|| black_box(&from).iter().map(digest).max()));

    let zero = zero_mask(&from[..BATCH]);
    let gfns: Vec<Gfn> = (0..BATCH as u64).map(Gfn).collect();
    let frame = |body: &mut Vec<u8>, pages: &[Page]| {
        body.clear();
        Pages { cause: Cause::Copy, gfns: &gfns, zero }.emit(body);
        let filled = pages.iter().enumerate().filter(|(index, _)| !zero.contains(*index));
        filled.for_each(|(_, page)| body.extend_from_slice(page));
    };
    let mut body = Vec::new();
    frame(&mut body, &from[..BATCH]);
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
    group.finish();
}

fn tcp(criterion: &mut Criterion) {
    let (from, mut to) = (memory(), vec![[0; PAGE_SIZE]; PAGES]);
    let mut group = criterion.benchmark_group("step");
    group.throughput(Throughput::Bytes((PAGES * PAGE_SIZE) as u64));
    let mut ends = Ends::new(false, clock);
    for (end, name) in ["tcp_out", "tcp_in"].into_iter().enumerate() {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| spent(times, || ends.stream(from.as_flattened(), to.as_flattened_mut())[end]));
            assert!(from == to, "it arrived as it was");
        });
    }
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    group.throughput(Throughput::Bytes(Record::LEN as u64));
    let mut record = Record::default();
    for (name, sealing) in [("seal", true), ("open", false)] {
        group.bench_function(format!("{name}{CIPHER}"), |bencher| {
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

/// What is done to the set of dirty pages, of which there are few all over the guest. Whole sets of guests of any size are in
/// `guest_size.rs`.
fn sets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("set");
    let dirty: Vec<Gfn> = (0..DIRTY).map(|at| Gfn(at * FRAMES / DIRTY)).collect();
    let mut ram = PageSet::new(FRAMES);
    ram.update(|words| words.fill(u64::MAX));
    let mut set = PageSet::new(FRAMES);
    group.throughput(Throughput::Elements(DIRTY));
    group.bench_function("insert", |bencher| {
        bencher.iter(|| {
            set.clear();
            set.extend(black_box(&dirty).iter().copied());
        });
    });
    set.extend(dirty.iter().copied());
    group.throughput(Throughput::Elements(FRAMES));
    group.bench_function("intersect", |bencher| bencher.iter(|| black_box(&mut set).intersect_with(black_box(&ram))));
    let chunks = || (0..FRAMES).step_by(CHUNK as usize).map(|first| Span { first: Gfn(first), count: CHUNK });
    let emit = |chunk| {
        let mut body = Vec::new();
        Set::emit(&set, chunk, &mut body);
        body
    };
    group.bench_function("emit", |bencher| bencher.iter(|| chunks().for_each(|chunk| _ = black_box(emit(chunk)))));
    let bodies: Vec<_> = chunks().map(emit).collect();
    let parse = |body: &Vec<u8>| Set::parse(body).expect("it was emitted").gfns().count() as u64;
    assert_eq!(bodies.iter().map(parse).sum::<u64>(), DIRTY);
    group.bench_function("parse", |bencher| bencher.iter(|| black_box(&bodies).iter().map(parse).sum::<u64>()));
    group.finish();
}

fn ends(criterion: &mut Criterion) {
    let from = memory();
    for (end, name) in ["source", "target"].into_iter().enumerate() {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes((PAGES * PAGE_SIZE) as u64));
        for (name, sealed) in [(String::from("plain"), false), (format!("sealed{CIPHER}"), true)] {
            let (mut ends, mut to) = (Ends::new(sealed, clock), vec![[0xff; PAGE_SIZE]; PAGES]);
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|times| spent(times, || ends.migrate(&from, &mut to)[end]));
                assert!(from == to, "every page is where it belongs");
            });
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
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = pages, tcp, records, sets, ends
}
criterion_main!(path);
