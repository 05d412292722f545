//! Pages whose every byte is known: a page's content follows from the seed, its index and how often it was written.

use std::hint::black_box;

const WORDS: usize = 512;
/// What distinguishes a word from its neighbour; odd, so that no two words of a page are alike.
const STEP: u64 = 0xD1B5_4A32_D192_ED03;

#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u64; WORDS]);

/// A thread's pages and what each must hold. The first `dirty` ones are written to again and again.
pub struct Memory {
    seed: u64,
    dirty: usize,
    pages: Vec<Page>,
    versions: Vec<u32>,
}

/// A page that does not hold what was written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub page: usize,
    pub version: u32,
    /// The first wrong byte's offset in the page, and how many of the page's words are wrong.
    pub offset: usize,
    pub wrong_words: usize,
    pub expected: u64,
    pub found: u64,
    pub guess: Guess,
}

/// What a wrong page seems to hold instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guess {
    /// Zeros.
    Zeros,
    /// Its own content, this many writes ago.
    Stale(u32),
    /// The present content of another of the thread's pages.
    OtherPage(usize),
    /// None of that.
    Unknown,
}

impl Memory {
    pub fn filled(seed: u64, dirty: usize, idle: usize) -> Memory {
        let count = dirty + idle;
        let mut memory = Memory { seed, dirty, pages: vec![Page([0; WORDS]); count], versions: vec![0; count] };
        (0..count).for_each(|page| memory.fill(page));
        memory
    }

    pub fn len(&self) -> usize {
        self.pages.len()
    }

    pub fn dirty_len(&self) -> usize {
        self.dirty
    }

    /// Writes a page's next version over its present one.
    pub fn rewrite(&mut self, page: usize) {
        self.versions[page] = self.versions[page].wrapping_add(1);
        self.fill(page);
    }

    /// Reads a whole page. A wrong one is reported once and then put right, so that it is not counted for ever.
    pub fn verify(&mut self, page: usize) -> Result<(), Mismatch> {
        let first = self.first_word(page, self.versions[page]);
        // Nothing may be assumed of memory that was written a moment ago: that is what is being tested.
        let words = &black_box(&self.pages)[page].0;
        let mut word = first;
        let mut difference = 0;
        for found in words {
            difference |= found ^ word;
            word = word.wrapping_add(STEP);
        }
        if difference == 0 {
            return Ok(());
        }
        let mismatch = self.describe(page);
        self.fill(page);
        Err(mismatch)
    }

    fn fill(&mut self, page: usize) {
        let mut word = self.first_word(page, self.versions[page]);
        for slot in &mut black_box(&mut self.pages)[page].0 {
            *slot = word;
            word = word.wrapping_add(STEP);
        }
    }

    fn first_word(&self, page: usize, version: u32) -> u64 {
        mix(self.seed.wrapping_add((page as u64) << 32).wrapping_add(u64::from(version)))
    }

    #[cold]
    fn describe(&self, page: usize) -> Mismatch {
        let version = self.versions[page];
        let words = &self.pages[page].0;
        let first = self.first_word(page, version);
        let expected = |at: usize| first.wrapping_add(STEP.wrapping_mul(at as u64));
        let wrong = || words.iter().enumerate().filter(|(at, word)| **word != expected(*at));
        let (at, found) = wrong().next().map_or((0, first), |(at, word)| (at, *word));
        // What the page's first word would be, if the wrong one were of another version or page.
        let origin = found.wrapping_sub(STEP.wrapping_mul(at as u64));
        let stale = (1..=version.min(10_000)).find(|age| self.first_word(page, version - age) == origin);
        let other = || (0..self.len()).find(|other| self.first_word(*other, self.versions[*other]) == origin);
        let guess = match stale {
            _ if found == 0 => Guess::Zeros,
            Some(age) => Guess::Stale(age),
            None => other().map_or(Guess::Unknown, Guess::OtherPage),
        };
        let byte = ((found ^ expected(at)).trailing_zeros() / 8) as usize % 8;
        Mismatch {
            page,
            version,
            offset: at * 8 + byte,
            wrong_words: wrong().count(),
            expected: expected(at),
            found,
            guess,
        }
    }

    /// Where a page is, for comparing with what a kernel or hypervisor says.
    pub fn address_of(&self, page: usize) -> usize {
        (&raw const self.pages[page]).addr()
    }
}

/// A reproducible order.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        ((u128::from(mix(self.0)) * u128::from(bound)) >> 64) as u64
    }
}

/// Spreads a number over all 64 bits (the finaliser of splitmix64).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        let mut memory = Memory::filled(7, 8, 2);
        (0..20).for_each(|_| memory.rewrite(3));
        memory
    }

    #[test]
    fn what_was_written_is_found_right() {
        let mut memory = memory();
        (0..10).for_each(|page| memory.verify(page).unwrap());
    }

    #[test]
    fn any_wrong_byte_is_found_once() {
        for offset in [0, 1, 100, 4088, 4095] {
            let mut memory = memory();
            memory.pages[3].0[offset / 8] ^= 0x10 << (8 * (offset % 8));
            let mismatch = memory.verify(3).unwrap_err();
            assert_eq!((mismatch.offset, mismatch.wrong_words), (offset, 1));
            memory.verify(3).unwrap();
        }
    }

    #[test]
    fn the_usual_mistakes_are_recognised() {
        let mut zeros = memory();
        zeros.pages[3].0 = [0; WORDS];
        assert_eq!(zeros.verify(3).unwrap_err().guess, Guess::Zeros);

        let mut stale = memory();
        let old = stale.pages[3].clone();
        stale.rewrite(3);
        stale.rewrite(3);
        stale.pages[3] = old;
        assert_eq!(stale.verify(3).unwrap_err().guess, Guess::Stale(2));

        let mut swapped = memory();
        swapped.pages.swap(4, 9);
        assert_eq!(swapped.verify(4).unwrap_err().guess, Guess::OtherPage(9));
    }

    #[test]
    fn an_order_can_be_had_again() {
        let order = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(order(5), order(5));
        assert_ne!(order(5), order(6));
        assert!(order(5).iter().all(|number| *number < 1000));
    }
}
