use std::collections::{HashMap, HashSet};

use super::*;

const AGENT: DomId = DomId(1);
const BACKEND: u64 = 7 << 16 | GTF_PERMIT_ACCESS as u64;
const FLAGS: u64 = 0xffff;
const DOMAIN: u64 = 0xffff << 16;
const FRAME: u64 = 0xffff_ffff << 32;

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        // Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

fn window(frames: usize) -> Window {
    Window { frames: GrantFrames::detached(frames).expect("memory"), first: 1000, made: Vec::new() }
}

/// What the guest has in its table, and what it does to it, which may be anything.
#[derive(Default)]
struct Guest {
    has: HashMap<usize, u64>,
    /// What it is filling, and the parts that it has not written yet.
    fills: Option<(usize, u64, Vec<u64>)>,
    /// Whether some entry may be the agent's by its number until it is mended.
    raced: HashSet<usize>,
}

impl Guest {
    fn act(&mut self, random: &mut Random, frames: &GrantFrames) {
        let store = |index: usize, entry: u64, part: u64| {
            let old = frames.entry(index);
            assert!(frames.exchange(index, old, old & !part | entry & part));
            old
        };
        if let Some((index, entry, mut parts)) = self.fills.take() {
            let part = parts.remove(0);
            let old = store(index, entry, part);
            // It was taken after the number of dom0 was written, which changed nothing.
            if part == FRAME && old & DOMAIN == u64::from(AGENT.0) << 16 {
                self.raced.insert(index);
            }
            if parts.is_empty() {
                self.has.insert(index, entry);
            } else {
                self.fills = Some((index, entry, parts));
            }
            return;
        }
        let index = frames.entries() - 1 - random.below(40);
        match (random.below(3), self.has.contains_key(&index)) {
            // It takes an entry, and does not look whether somebody has it.
            (0, false) => {
                let entry = BACKEND & !(DOMAIN * random.below(2) as u64) | (1 + random.below(1000) as u64) << 32;
                self.fills = Some((index, entry, vec![DOMAIN, FRAME, FLAGS]));
            }
            (1, true) => {
                store(index, 0, u64::MAX);
                self.has.remove(&index);
                self.raced.remove(&index);
            }
            _ => {}
        }
    }

    /// Whether each of its entries is as it wrote it, or, of those in `but`, another domain's.
    fn holds(&self, frames: &GrantFrames, but: &HashSet<usize>) -> bool {
        self.has.iter().all(|(index, entry)| {
            let now = frames.entry(*index);
            now == *entry || but.contains(index) && (now ^ *entry) & !DOMAIN == 0
        })
    }
}

/// A guest that grows into the agent's window at random loses none of its own entries, and of each page that was copied by an entry that
/// was not the agent's any more the agent hears.
#[test]
fn what_a_growing_guest_has_overwritten_is_copied_again() {
    for seed in 0..10_000 {
        let (mut random, mut guest) = (Random(seed), Guest::default());
        let mut window = window(1);
        let mut wrong = HashSet::new();
        for _ in 0..6 {
            let gfns: Vec<Gfn> = (0..1 + random.below(30)).map(|_| Gfn(random.below(1 << 20) as u64)).collect();
            let lost: HashSet<Gfn> = window.clear(|_| true).lost.into_iter().collect();
            if guest.fills.is_none() {
                assert!(guest.holds(&window.frames, &HashSet::new()), "seed {seed}: an entry was not mended");
                guest.raced.clear();
            }
            assert!(
                wrong.drain().all(|gfn| lost.contains(&gfn)),
                "seed {seed}: a page was copied wrongly, and nobody knows"
            );
            let references = window.fill(AGENT, &gfns, false);
            for _ in 0..random.below(20) {
                guest.act(&mut random, &window.frames);
                let at = random.below(gfns.len());
                if let Some(index) = references[at].checked_sub(window.first).filter(|_| references[at] != NO_GRANT) {
                    // Xen looks at the entry when it copies.
                    let entry = window.frames.entry(index as usize);
                    let right = entry as u32 >> 16 == u32::from(AGENT.0) && entry >> 32 == gfns[at].0;
                    wrong.extend((!right).then_some(gfns[at]));
                }
            }
            assert!(guest.holds(&window.frames, &guest.raced), "seed {seed}");
        }
        while guest.fills.is_some() {
            guest.act(&mut random, &window.frames);
        }
        window.clear(|_| true);
        for index in 0..window.frames.entries() {
            assert_eq!(window.frames.entry(index), guest.has.get(&index).copied().unwrap_or_default(), "seed {seed}");
        }
    }
}

#[test]
fn a_table_without_room_grants_what_fits_and_says_so() {
    let mut window = window(1);
    for index in 0..500 {
        assert!(window.frames.exchange(index, 0, BACKEND));
    }
    let gfns: Vec<Gfn> = (0..20).map(Gfn).collect();
    let references = window.fill(AGENT, &gfns, true);
    assert_eq!(references.iter().filter(|reference| **reference != NO_GRANT).count(), 12);
    assert!(references[..12].iter().all(|reference| (1500..1512).contains(reference)));
    assert_eq!(window.frames.entry(511), 1 << 16 | u64::from(GTF_PERMIT_ACCESS));
    assert_eq!(window.clear(|_| true).lost, []);
    assert_eq!(window.fill(AGENT, &gfns, false)[0], 1511);
    // No entry has room for such a number.
    window.clear(|_| true);
    assert_eq!(window.fill(AGENT, &[Gfn(1 << 32)], false), [NO_GRANT]);
}
