//! Random bytes that are fit for keys.
//!
//! The processor's own generator, a seed that the toolstack drew for this start, and what tells this domain from others are
//! hashed (BLAKE2s) into the key of a generator (ChaCha20). One of the first two must be there: the rest can be guessed.
//! After each use the generator takes a new key from itself and from the processor, so that who reads its state
//! learns nothing of what it gave before, and, where there is a processor's generator, nothing of what comes after.

use core::arch::x86_64::{__cpuid, __cpuid_count, _rdtsc};
use core::fmt;

use blake2::{Blake2s256, Digest};
use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use common::hex;
use zeroize::{Zeroize, Zeroizing};

use crate::time;

/// Bytes of a seed.
const SEED: usize = 32;

/// Words of the processor's generator that go into a key: one for each of its 32-bit words.
const WORDS: usize = 8;

/// Bytes that the toolstack drew for one start.
pub struct Seed(Zeroizing<[u8; SEED]>);

impl Seed {
    /// Reads 64 hexadecimal digits, in constant time.
    pub fn parse(digits: &str) -> Option<Self> {
        let mut seed = Zeroizing::new([0; SEED]);
        hex::parse_into(digits, &mut *seed)?;
        Some(Self(seed))
    }
}

/// What the random bytes rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The processor alone.
    Processor,
    /// The toolstack's seed alone.
    Seed,
    /// Both.
    Both,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Processor => "the processor",
            Self::Seed => "the seed",
            Self::Both => "the processor and the seed",
        })
    }
}

/// Neither the processor nor the toolstack gives anything that could not be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the processor offers no random numbers (RDRAND), and the module has no 'seed' line as 'tsmc module' writes it"
)]
pub struct NoEntropy;

/// Gives the next word of the processor's generator.
type Processor = fn() -> Option<u64>;

/// A source of random bytes.
pub struct Entropy {
    generator: ChaCha20Rng,
    processor: Processor,
    origin: Origin,
}

impl Entropy {
    /// Takes what the processor offers, `seed`, the time, and `domain`: what differs from other domains and other starts.
    pub fn new(seed: Option<&Seed>, domain: &[&[u8]]) -> Result<Self, NoEntropy> {
        Self::gather(processor_word, seed, domain)
    }

    fn gather(processor: Processor, seed: Option<&Seed>, domain: &[&[u8]]) -> Result<Self, NoEntropy> {
        let words = words(processor);
        let origin = match (&words, seed) {
            (Some(_), Some(_)) => Origin::Both,
            (Some(_), None) => Origin::Processor,
            (None, Some(_)) => Origin::Seed,
            (None, None) => return Err(NoEntropy),
        };
        let mut hash = Blake2s256::new();
        let mut mix = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        words.iter().flat_map(|words| words.iter()).for_each(|word| mix(&word.to_le_bytes()));
        mix(seed.map_or(&[], |seed| &*seed.0));
        mix(&time::since_1970().as_nanos().to_le_bytes());
        // SAFETY: every x86-64 processor has it.
        mix(&unsafe { _rdtsc() }.to_le_bytes());
        domain.iter().for_each(|value| mix(value));
        let mut key: [u8; 32] = hash.finalize().into();
        let generator = ChaCha20Rng::from_seed(key);
        key.zeroize();
        Ok(Self { generator, processor, origin })
    }

    /// What the bytes rest on.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.generator.fill_bytes(bytes);
        let mut key = [0; 32];
        self.generator.fill_bytes(&mut key);
        if let Some(words) = words(self.processor) {
            for (part, word) in key.chunks_exact_mut(4).zip(words.iter()) {
                part.iter_mut().zip(word.to_le_bytes()).for_each(|(byte, new)| *byte ^= new);
            }
        }
        self.generator = ChaCha20Rng::from_seed(key);
        key.zeroize();
    }
}

/// Words for one key; nothing if the processor has none, or if its generator is stuck: some have been seen to give the same
/// word for ever after a resume.
fn words(processor: Processor) -> Option<Zeroizing<[u64; WORDS]>> {
    let mut words = Zeroizing::new([0; WORDS]);
    for word in words.iter_mut() {
        *word = processor()?;
    }
    words.windows(2).all(|pair| pair[0] != pair[1]).then_some(words)
}

/// RDSEED, which may run dry when others use it too, else RDRAND, for which ten tries are what Intel's manual asks for.
fn processor_word() -> Option<u64> {
    #[target_feature(enable = "rdseed")]
    fn rdseed() -> Option<u64> {
        let mut word = 0;
        (core::arch::x86_64::_rdseed64_step(&mut word) == 1).then_some(word)
    }
    #[target_feature(enable = "rdrand")]
    fn rdrand() -> Option<u64> {
        let mut word = 0;
        (core::arch::x86_64::_rdrand64_step(&mut word) == 1).then_some(word)
    }
    let highest = __cpuid(0).eax;
    let has_rdseed = highest >= 7 && __cpuid_count(7, 0).ebx >> 18 & 1 != 0;
    let has_rdrand = highest >= 1 && __cpuid(1).ecx >> 30 & 1 != 0;
    // SAFETY: only where CPUID says that it exists.
    let seed = || (0..10).find_map(|_| unsafe { rdseed() });
    // SAFETY: as above.
    let random = || (0..10).find_map(|_| unsafe { rdrand() });
    has_rdseed.then(seed).flatten().or_else(|| has_rdrand.then(random).flatten())
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn none() -> Option<u64> {
        None
    }

    fn stuck() -> Option<u64> {
        Some(u64::MAX)
    }

    fn counting() -> Option<u64> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Some(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn seed() -> Seed {
        Seed(Zeroizing::new([1; SEED]))
    }

    fn taken(entropy: &mut Entropy) -> [u8; 33] {
        let mut bytes = [0; 33];
        entropy.fill(&mut bytes);
        bytes
    }

    #[test]
    fn without_processor_and_seed_there_is_none() {
        assert_eq!(Entropy::gather(none, None, &[b"domain"]).err(), Some(NoEntropy));
        assert_eq!(Entropy::gather(stuck, None, &[b"domain"]).err(), Some(NoEntropy));
    }

    #[test]
    fn one_of_both_is_enough() {
        let origin = |processor: Processor, seed: Option<Seed>| {
            Entropy::gather(processor, seed.as_ref(), &[]).map(|entropy| entropy.origin())
        };
        assert_eq!(origin(counting, None), Ok(Origin::Processor));
        assert_eq!(origin(none, Some(seed())), Ok(Origin::Seed));
        assert_eq!(origin(stuck, Some(seed())), Ok(Origin::Seed));
        assert_eq!(origin(counting, Some(seed())), Ok(Origin::Both));
    }

    #[test]
    fn a_seed_has_64_hexadecimal_digits() {
        let digits = "00fF".repeat(16);
        assert_eq!(*Seed::parse(&digits).unwrap().0, [0, 0xff].repeat(16)[..]);
        for digits in ["", &digits[1..], &digits[2..], &(digits.clone() + "00"), &digits.replace("fF", "+1")] {
            assert!(Seed::parse(digits).is_none(), "{digits}");
        }
    }

    #[test]
    fn bytes_do_not_repeat() {
        for processor in [none, counting] {
            let mut entropy = Entropy::gather(processor, Some(&seed()), &[]).unwrap();
            let (a, b) = (taken(&mut entropy), taken(&mut entropy));
            assert_ne!(a, b);
            assert_ne!(a[25..], [0; 8]);
        }
    }

    #[test]
    fn two_starts_with_one_seed_differ() {
        let start = |domain: &[u8]| taken(&mut Entropy::gather(none, Some(&seed()), &[domain]).unwrap());
        assert_ne!(start(b"1"), start(b"2"));
        // The same domain at another time.
        assert_ne!(start(b"1"), start(b"1"));
    }

    #[test]
    fn this_processor_gives_words_that_differ() {
        if let Some(word) = processor_word() {
            assert_ne!(Some(word), processor_word());
        }
    }
}
