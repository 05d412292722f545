//! How much memory guests take in an agent: its budget goes by it, and dom0's tools say by it how much would be enough.
//!
//! What the sums are made of stands in the agent, and is held against them when it is compiled.

use crate::control::Size;
use crate::{BATCH, PAGE_SIZE, PageSet};

/// Bytes of an agent's domain that are not its heap: the image, buffers of the network, page tables.
pub const BESIDE: usize = 5 << 20;
/// Bytes of the heap that no session may have.
pub const FIXED: usize = 6_661_120;

/// Half of what a heap has beyond so many bytes is kept for connections whose paths hold much, and at most so many: four at 50 ms
/// and 1 Gbit/s.
const WINDOWS_BEYOND: usize = 32 << 20;
const WINDOWS: usize = 24 << 20;

/// Bytes that a departure takes besides page sets.
pub const DEPARTURE: usize = 5_292_736;
/// Page sets that a departure keeps, three of them to count sends. None comes on top: what is urgent in the switch, and what a
/// target misses that has lost us, stands where the dirty log stood.
pub const DEPARTURE_SETS: usize = 9;

/// Bytes that an arrival takes besides page sets.
pub const ARRIVAL: usize = 3_154_900;
/// Page sets that an arrival keeps, and what the platform knows of absent pages.
pub const ARRIVAL_SETS: usize = 6;

/// Bytes that an arrival takes more if it verifies, besides page sets and digests.
pub const VERIFIER: usize = BATCH * PAGE_SIZE;
/// Page sets that it keeps more then.
pub const VERIFIER_SETS: usize = 2;

/// The memory in MiB of a domain whose agent lets so many guests of this size leave, or arrive, at the same time; the others wait.
pub fn memory_for(size: &Size, at_once: usize) -> u64 {
    // Departures leave room for one arrival.
    let sessions = at_once * departure(size) + arrival(size);
    let heap = FIXED + sessions;
    let windows = heap.saturating_sub(WINDOWS_BEYOND).min(WINDOWS);
    ((BESIDE + heap + windows) as u64).div_ceil(1 << 20)
}

/// Bytes of a heap that are kept for connections whose paths hold much, if they do not go through a backend.
pub fn windows(heap: usize) -> usize {
    (heap.saturating_sub(WINDOWS_BEYOND) / 2).min(WINDOWS)
}

/// Bytes that sending a guest takes.
pub fn departure(size: &Size) -> usize {
    let verifying = if size.digests > 0 { digests(size.frames, size.digests) } else { 0 };
    DEPARTURE.saturating_add(sets(size.frames, DEPARTURE_SETS)).saturating_add(verifying)
}

/// Bytes that taking in a guest takes, or adopting it.
pub fn arrival(size: &Size) -> usize {
    let verifying = if size.digests > 0 {
        VERIFIER.saturating_add(sets(size.frames, VERIFIER_SETS)).saturating_add(digests(size.frames, size.digests))
    } else {
        0
    };
    ARRIVAL.saturating_add(sets(size.frames, ARRIVAL_SETS)).saturating_add(verifying)
}

/// Bytes that `sets` page sets over `frames` frames take.
pub fn sets(frames: u64, sets: usize) -> usize {
    PageSet::bytes(frames).saturating_mul(sets)
}

/// Bytes that the digests of so many pages take, of a guest with so many frames: eight for each page, half a bit for every frame,
/// and the set of the pages.
pub fn digests(frames: u64, pages: u64) -> usize {
    let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
    let before = count(frames.div_ceil(64)).saturating_mul(size_of::<u32>());
    PageSet::bytes(frames).saturating_add(before).saturating_add(count(pages).saturating_mul(size_of::<u64>()))
}
