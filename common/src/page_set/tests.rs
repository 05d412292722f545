use std::collections::BTreeSet;

use super::*;
use proptest::prelude::*;

fn set(frames: u64, members: &BTreeSet<u64>) -> PageSet {
    let mut set = PageSet::new(frames);
    set.extend(members.iter().map(|gfn| Gfn(*gfn)));
    set
}

/// Bounds of one level and of four, and whatever may lie between.
fn frames() -> impl Strategy<Value = u64> {
    prop_oneof![1..200u64, 4000..4200u64, 262_100..262_200u64, Just(300_000u64)]
}

fn members(frames: u64) -> impl Strategy<Value = BTreeSet<u64>> {
    let run = (0..frames, 0..20_000u64).prop_map(move |(first, len)| (first..(first + len).min(frames)).collect());
    prop_oneof![proptest::collection::btree_set(0..frames, 0..60), run]
}

/// A set and another whose bound may be another.
fn two() -> impl Strategy<Value = (u64, BTreeSet<u64>, u64, BTreeSet<u64>)> {
    (frames(), frames()).prop_flat_map(|(one, other)| (Just(one), members(one), Just(other), members(other)))
}

fn back(set: &PageSet) -> BTreeSet<u64> {
    set.iter().map(|gfn| gfn.0).collect()
}

/// Every level says what the one below holds, whatever was done to the set.
fn check(set: &PageSet) {
    assert!(set.levels.iter().map(Vec::len).eq(lengths(set.frames)));
    for levels in set.levels.windows(2) {
        for (index, word) in levels[0].iter().enumerate() {
            assert_eq!(levels[1][index / 64] >> (index % 64) & 1 == 1, *word != 0);
        }
    }
}

proptest! {
    #[test]
    fn a_page_set_is_a_set((frames, a, others, b) in two(), from in 0..300_100u64) {
        let (left, right) = (set(frames, &a), set(others, &b));
        prop_assert_eq!(back(&left), a.clone());
        prop_assert_eq!((left.count(), left.is_empty()), (a.len() as u64, a.is_empty()));
        prop_assert_eq!(left.next_from(Gfn(from)).map(|gfn| gfn.0), a.range(from..).next().copied());
        let outside = (&a - &b).range(from..).next().copied();
        prop_assert_eq!(left.next_outside(&right, Gfn(from)).map(|gfn| gfn.0), outside);
        prop_assert!(set(frames.max(others), &(&a | &b)).is_union_of(&left, &right));
        prop_assert_eq!(left.is_union_of(&right, &right), a == b);
        let within: BTreeSet<u64> = b.range(..frames).copied().collect();
        let mut copy = left.clone();
        let mut then = |work: fn(&mut PageSet, &PageSet), expected: BTreeSet<u64>| {
            copy.copy_from(&left);
            work(&mut copy, &right);
            check(&copy);
            assert_eq!(back(&copy), expected);
        };
        then(PageSet::union_with, &a | &within);
        then(PageSet::intersect_with, &a & &b);
        then(PageSet::subtract, &a - &b);
        then(|set, _| set.clear(), BTreeSet::new());
        then(|set, other| set.copy_from(other), b.clone());
        then(|set, other| other.iter().for_each(|gfn| _ = set.insert(gfn)), &a | &within);
        then(|set, other| other.iter().for_each(|gfn| _ = set.remove(gfn)), &a - &b);
        then(|set, other| set.grow(other.frames()), a.clone());
        then(|set, other| *set = PageSet::from_words(set.words().to_vec(), other.frames()), a.range(..others).copied().collect());
    }

    #[test]
    fn what_words_say_is_in_the_set(
        (frames, a, first, count) in frames().prop_flat_map(|frames| (Just(frames), members(frames), 0..frames, 0..9000u64)),
        bits: u64,
    ) {
        let mut set = set(frames, &a);
        let mut expected = a;
        let range = first..(first + count).min(frames);
        let pattern = |gfn: u64| bits.rotate_left(gfn as u32 / 7) >> (gfn % 64) & 1 == 1;
        expected.retain(|gfn| !range.contains(gfn));
        expected.extend(range.clone().filter(|gfn| pattern(*gfn)));
        set.update_part(Span { first: Gfn(first), count }, |words| {
            for gfn in range {
                let bit = 1 << (gfn % 64);
                let word = &mut words[gfn as usize / 64];
                *word = if pattern(gfn) { *word | bit } else { *word & !bit };
            }
        });
        check(&set);
        prop_assert_eq!(back(&set), expected);
    }

    #[test]
    fn runs_cover_the_set_and_do_not_touch(
        (frames, a) in frames().prop_flat_map(|frames| (Just(frames), members(frames))),
        first in 0..300_000u64,
        count in 0..20_000u64,
    ) {
        let set = set(frames, &a);
        let span = Span { first: Gfn(first), count };
        let runs: Vec<Span> = set.runs(span).collect();
        let covered: BTreeSet<u64> = runs.iter().flat_map(|run| run.first.0..run.end().0).collect();
        prop_assert_eq!(covered, a.range(first..first + count).copied().collect::<BTreeSet<_>>());
        prop_assert!(runs.windows(2).all(|pair| pair[0].end() < pair[1].first));
    }

    #[test]
    fn batches_and_chunks_cover_the_set(
        (frames, a) in frames().prop_flat_map(|frames| (Just(frames), members(frames))),
        first in 0..300_000u64,
        count in 0..20_000u64,
        size in 1..5_000u64,
    ) {
        let set = set(frames, &a);
        let (mut rest, mut covered) = (Span { first: Gfn(first), count }, Vec::new());
        while let Some::<Vec<Gfn>>(batch) = set.next_batch(&mut rest) {
            prop_assert!(batch.len() == BATCH || set.range(rest).next().is_none());
            covered.extend(batch.iter().map(|gfn| gfn.0));
        }
        prop_assert!(covered.iter().copied().eq(a.range(first..first + count).copied()));
        let (mut next, mut chunks) = (Gfn(0), BTreeSet::new());
        while let Some(chunk) = set.next_chunk(next, size) {
            prop_assert!(chunk.end().0 <= frames && (chunk.count == size || chunk.end().0 == frames));
            chunks.insert(chunk.first.0);
            next = chunk.end();
        }
        prop_assert_eq!(chunks, a.iter().map(|gfn| gfn / size * size).collect::<BTreeSet<_>>());
    }
}

#[test]
fn a_set_that_grew_takes_no_more_memory_than_a_new_one() {
    let mut set = PageSet::new(64_000);
    for frames in [64_001, 64_100, 70_000, 300_000] {
        set.grow(frames);
        let bytes: usize = set.levels.iter().map(|level| level.capacity() * 8).sum();
        assert_eq!(bytes, PageSet::bytes(frames));
    }
}

#[test]
fn frames_beyond_the_bound_stay_out() {
    let mut set = PageSet::new(70);
    assert!(!set.insert(Gfn(70)));
    set.update(|words| words.fill(u64::MAX));
    assert_eq!(set.count(), 70);
    assert!(!set.contains(Gfn(71)));
    set.grow(128);
    assert!(set.insert(Gfn(127)));
    assert_eq!(set.next_from(Gfn(70)), Some(Gfn(127)));
    set.clear();
    set.update(|words| words[1] = 1 << 63);
    let mut short = PageSet::new(127);
    short.union_with(&set);
    check(&short);
    assert!(short.is_empty());
}
