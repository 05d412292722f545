//! Entropy: the processor's generator where there is one. Otherwise jitter, which is no more than hard to guess.

use core::arch::x86_64::{__cpuid, __cpuid_count, _rdtsc};

use crate::time;

/// Where random bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// RDRAND.
    Processor,
    /// Jitter of the cycle counter, mixed with the clock: not fit for keys.
    Jitter,
}

/// A source of random bytes.
#[derive(Debug)]
pub struct Entropy {
    origin: Origin,
    state: u64,
}

impl Entropy {
    /// Looks what the processor offers; `seed` is anything that differs between domains.
    pub fn new(seed: &[u8]) -> Self {
        let origin = if has_rdrand() { Origin::Processor } else { Origin::Jitter };
        let mut state = time::wall_clock_ns() ^ time::now_ns().rotate_left(32);
        for &byte in seed {
            state = mix(state ^ u64::from(byte));
        }
        Self { origin, state }
    }

    /// Where the bytes come from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.word().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    fn word(&mut self) -> u64 {
        let processor = match self.origin {
            Origin::Processor => rdrand().unwrap_or_else(jitter),
            Origin::Jitter => jitter(),
        };
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ processor.rotate_left(17);
        processor ^ mix(self.state)
    }
}

/// The finalizer of splitmix64: every input bit reaches every output bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn has_rdrand() -> bool {
    __cpuid(0).eax >= 1 && __cpuid_count(1, 0).ecx >> 30 & 1 != 0
}

/// RDRAND may run dry for a moment; ten tries are what Intel's manual asks for.
fn rdrand() -> Option<u64> {
    #[target_feature(enable = "rdrand")]
    fn step() -> Option<u64> {
        let mut word = 0;
        (core::arch::x86_64::_rdrand64_step(&mut word) == 1).then_some(word)
    }
    // SAFETY: only called where CPUID says that it exists.
    (0..10).find_map(|_| unsafe { step() })
}

fn jitter() -> u64 {
    let mut word = 0u64;
    for round in 0..64 {
        // SAFETY: every x86-64 processor has it.
        let tsc = unsafe { _rdtsc() };
        word = mix(word.rotate_left(5) ^ tsc ^ round);
        core::hint::spin_loop();
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_fills_differ() {
        for origin in [Origin::Jitter, if has_rdrand() { Origin::Processor } else { Origin::Jitter }] {
            let mut entropy = Entropy { origin, state: 1 };
            let (mut a, mut b) = ([0; 33], [0; 33]);
            entropy.fill(&mut a);
            entropy.fill(&mut b);
            assert_ne!(a, b);
            assert_ne!(a[25..], [0; 8]);
        }
    }
}
