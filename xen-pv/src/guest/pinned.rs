//! Finding pages that the hypervisor uses itself on behalf of a guest, by what they hold.
//!
//! Xen keeps a clock record in every page where a guest registered `vcpu_info` or a clock area. A guest registers them again
//! while it resumes, and a page that is absent at that moment is refused: Linux gives up. Nothing tells which pages they
//! are, so they are recognised by the record: `struct vcpu_time_info` is four words, and few other data look like it.

use crate::abi::PAGE_SIZE;

const WORD: usize = 8;
const RECORD_WORDS: usize = 4;

/// Whether a clock record stands in the page. Says yes to a page too much rather than too little.
pub fn holds_clock(page: &[u8; PAGE_SIZE]) -> bool {
    let word = |index: usize| {
        let at = index * WORD;
        u64::from_le_bytes(page[at..at + WORD].try_into().unwrap_or_default())
    };
    (0..=PAGE_SIZE / WORD - RECORD_WORDS)
        .any(|i| is_scale(word(i + 3)) && is_version(word(i)) && is_time(word(i + 1)) && is_time(word(i + 2)))
}

/// Multiplier, shift, flags, two zero bytes. Xen normalises the multiplier, so that its top bit is set.
fn is_scale(word: u64) -> bool {
    let multiplier = word as u32;
    let shift = (word >> 32) as i8;
    let flags = (word >> 40) as u8;
    multiplier >= 1 << 31 && (-16..=16).contains(&shift) && flags <= 3 && word >> 48 == 0
}

/// An even version, and padding. It is odd only while Xen writes, which it does not do to a stopped guest.
fn is_version(word: u64) -> bool {
    word != 0 && word >> 32 == 0 && word & 1 == 0
}

/// Cycles or nanoseconds since the host or the guest started: not yet a century.
fn is_time(word: u64) -> bool {
    word < 1 << 63
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
            [version, cycles, time, scale & !(1 << 31)],
            [version, cycles, time, scale | 1 << 48],
            [version, cycles, time, scale | 1 << 45],
        ] {
            assert!(!holds_clock(&page_with(64, wrong)), "{wrong:x?}");
        }
    }
}
