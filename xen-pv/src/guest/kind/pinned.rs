//! Finding pages that the hypervisor uses itself on behalf of a guest, by what they hold.
//!
//! Xen keeps a clock record in every page where a guest registered `vcpu_info` or a clock area. A guest registers them again
//! while it resumes, and a page that is absent at that moment is refused: Linux gives up. Nothing tells which pages they
//! are, so they are recognised by the record: `struct vcpu_time_info` is four words, and few other data look like it.

use common::PAGE_SIZE;

const WORD: usize = 8;
/// Words looked at in one go.
const LOOK: usize = 16;

/// Whether a clock record stands in the page. Says yes to a page too much rather than too little.
pub fn holds_clock(page: &[u8; PAGE_SIZE]) -> bool {
    let (words, _) = page.as_chunks::<WORD>();
    // Most pages have nothing that looks like a record's last word, and sixteen words are looked at in one go.
    let (blocks, _) = words.as_chunks::<LOOK>();
    blocks.iter().enumerate().any(|(block, some)| {
        let likely = some.iter().fold(false, |likely, word| likely | may_be_scale(u64::from_le_bytes(*word)));
        likely && (block * LOOK..(block + 1) * LOOK).any(|last| is_record(words, last))
    })
}

/// Whether the four words up to `last` are a clock record.
fn is_record(words: &[[u8; WORD]], last: usize) -> bool {
    let Some(first) = last.checked_sub(3) else { return false };
    let word = |index: usize| words.get(index).map_or(0, |word| u64::from_le_bytes(*word));
    is_scale(word(last)) && is_version(word(first)) && is_time(word(first + 1)) && is_time(word(first + 2))
}

/// The cheap part of [`is_scale`].
fn may_be_scale(word: u64) -> bool {
    (word >> 42 == 0) & (word & 1 << 31 != 0)
}

/// Multiplier, shift, flags, two zero bytes. Xen normalises the multiplier, so that its top bit is set; the shift makes a
/// clock between 1 and 2 GHz of the counter's frequency.
fn is_scale(word: u64) -> bool {
    let shift = (word >> 32) as i8;
    may_be_scale(word) && (-8..=8).contains(&shift)
}

/// An even version, and padding. It is odd only while Xen writes, which it does not do to a stopped guest.
fn is_version(word: u64) -> bool {
    word != 0 && word >> 32 == 0 && word & 1 == 0
}

/// Cycles or nanoseconds since the host or the guest started: more than a millisecond ago, less than nine years.
fn is_time(word: u64) -> bool {
    (1 << 20..1 << 60).contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_with(at: usize, words: [u64; 4]) -> [u8; PAGE_SIZE] {
        let mut page = [0; PAGE_SIZE];
        for (i, word) in words.iter().enumerate() {
            page[at + 8 * i..at + 8 * i + 8].copy_from_slice(&word.to_le_bytes());
        }
        page
    }

    const RECORD: [u64; 4] = [0x1234, 987_654_321, 123_456_789, 0x01ff_8fff_ffff];

    #[test]
    fn a_clock_is_found_at_every_place_it_can_stand() {
        for at in (0..=PAGE_SIZE - 32).step_by(8) {
            assert!(holds_clock(&page_with(at, RECORD)), "at {at}");
        }
    }

    #[test]
    fn other_pages_are_not_clocks() {
        assert!(!holds_clock(&[0; PAGE_SIZE]));
        assert!(!holds_clock(&[0xff; PAGE_SIZE]));
        assert!(!holds_clock(&core::array::from_fn(|i| i as u8)));
        let [version, cycles, time, scale] = RECORD;
        for wrong in [
            [version + 1, cycles, time, scale],
            [0, cycles, time, scale],
            [version | 1 << 32, cycles, time, scale],
            [version, u64::MAX, time, scale],
            [version, cycles, 0, scale],
            [version, cycles, time, scale & !(1 << 31)],
            [version, cycles, time, scale | 1 << 48],
            [version, cycles, time, scale | 1 << 45],
        ] {
            assert!(!holds_clock(&page_with(64, wrong)), "{wrong:x?}");
        }
    }
}
