//! Frames as bits of words, as Xen's dirty bitmap and [`crate::PageSet`] hold them: bit `g % 64` of word `g / 64` is frame `g`.
//! Frames that the words do not reach are left out.

use crate::guest::{Gfn, Span};

/// Sets the bit of `gfn`.
pub fn insert(words: &mut [u64], gfn: Gfn) {
    if let Some(word) = words.get_mut((gfn.0 / 64) as usize) {
        *word |= 1 << (gfn.0 % 64);
    }
}

/// Clears the bit of `gfn`.
pub fn remove(words: &mut [u64], gfn: Gfn) {
    remove_span(words, Span { first: gfn, count: 1 });
}

/// Clears the bits of `span`.
pub fn remove_span(words: &mut [u64], span: Span) {
    let (mut next, end) = (span.first.0, span.end().0.min(words.len() as u64 * 64));
    while next < end {
        let until = end.min(next / 64 * 64 + 64);
        let ones = u64::MAX >> (64 - (until - next)) << (next % 64);
        words[(next / 64) as usize] &= !ones;
        next = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_and_cleared_where_the_words_reach() {
        for (first, count) in
            [(0, 0), (0, 64), (3, 1), (3, 200), (63, 2), (64, 64), (191, 1), (190, 9), (500, u64::MAX)]
        {
            let span = Span { first: Gfn(first), count };
            let mut words = [u64::MAX; 3];
            remove_span(&mut words, span);
            for gfn in 0..192 {
                let kept = words[(gfn / 64) as usize] >> (gfn % 64) & 1 == 1;
                assert_eq!(kept, !(first..span.end().0).contains(&gfn), "frame {gfn} of {span:?}");
                insert(&mut words, Gfn(gfn));
            }
            insert(&mut words, Gfn(192));
            assert_eq!(words, [u64::MAX; 3]);
        }
        let mut words = [u64::MAX; 2];
        remove(&mut words, Gfn(64));
        remove(&mut words, Gfn(128));
        assert_eq!(words, [u64::MAX, !1]);
    }
}
