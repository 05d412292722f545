//! Measured streams over TCP, with a checksum over every byte: what both ends know. The testbed's programs and the image's
//! self-test serve them, and ask each other for them.
//!
//! Two services, on two ports ([`SINK_PORT`], [`SERVE_PORT`]):
//!
//! ```text
//! sink:   client sends any stream and shuts down its sending side;
//!         server answers with a trailer (16 bytes) and closes.
//! serve:  client sends a byte count N (u64, little-endian);
//!         server answers with the first N bytes of the pattern, then a trailer, and closes.
//!
//! trailer:  count: u64 little-endian, the stream's bytes;  checksum: u64 little-endian, of those bytes
//! checksum: the stream as little-endian u64 words w, the last one padded with zero bytes; a = b = 0;
//!           for each word: a += w, b += a (both wrapping);  the checksum is a ^ b.rotate_left(32)
//! pattern:  word number i (from 0) of the stream is (i + 1) * 0x9E3779B97F4A7C15 (wrapping), little-endian
//! ```

/// Where streams are taken.
pub const SINK_PORT: u16 = 7001;
/// Where streams are given.
pub const SERVE_PORT: u16 = 7002;

/// The checksum of a stream that arrives in pieces.
#[derive(Clone, Debug, Default)]
pub struct Checksum {
    a: u64,
    b: u64,
    count: u64,
    /// The bytes of a word that is not complete yet.
    partial: u64,
}

impl Checksum {
    /// Adds the stream's next bytes.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !self.count.is_multiple_of(8) {
            let Some((first, rest)) = bytes.split_first() else { return };
            self.partial |= u64::from(*first) << (8 * (self.count % 8));
            self.count += 1;
            bytes = rest;
            if self.count.is_multiple_of(8) {
                self.word(self.partial);
                self.partial = 0;
            }
        }
        let (words, tail) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        self.count += (words.len() * 8) as u64;
        for byte in tail {
            self.partial |= u64::from(*byte) << (8 * (self.count % 8));
            self.count += 1;
        }
    }

    /// The stream's bytes so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What is known of the stream so far.
    pub fn trailer(&self) -> Trailer {
        let mut whole = self.clone();
        if !self.count.is_multiple_of(8) {
            whole.word(self.partial);
        }
        Trailer { count: self.count, checksum: whole.a ^ whole.b.rotate_left(32) }
    }

    fn word(&mut self, word: u64) {
        self.a = self.a.wrapping_add(word);
        self.b = self.b.wrapping_add(self.a);
    }
}

/// What ends an exchange: how much was carried, and its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Bytes in the stream.
    pub count: u64,
    /// Their checksum.
    pub checksum: u64,
}

impl Trailer {
    /// Bytes of one on the wire.
    pub const LEN: usize = 16;

    /// As it travels.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        (u128::from(self.checksum) << 64 | u128::from(self.count)).to_le_bytes()
    }

    /// One that has travelled.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let both = u128::from_le_bytes(bytes);
        Self { count: both as u64, checksum: (both >> 64) as u64 }
    }
}

/// The pattern's bytes, from its beginning on.
#[derive(Default)]
pub struct Pattern {
    words: u64,
}

impl Pattern {
    /// Fills `block`, whose length is a multiple of 8, with the pattern's next bytes.
    pub fn fill(&mut self, block: &mut [u8]) {
        for word in block.as_chunks_mut::<8>().0 {
            self.words += 1;
            *word = self.words.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn sum_of(pieces: &[&[u8]]) -> Trailer {
        let mut sum = Checksum::default();
        pieces.iter().for_each(|piece| sum.add(piece));
        sum.trailer()
    }

    #[test]
    fn the_checksum_does_not_depend_on_how_the_stream_arrives() {
        let bytes: Vec<u8> = (0..100).collect();
        let whole = sum_of(&[&bytes]);
        for cut in 0..100 {
            assert_eq!(sum_of(&[&bytes[..cut], &bytes[cut..]]), whole);
            assert_eq!(sum_of(&[&bytes[..cut / 2], &bytes[cut / 2..cut], &bytes[cut..]]), whole);
        }
    }

    #[test]
    fn the_checksum_sees_swapped_words() {
        let (a, b) = ([1; 8], [2; 8]);
        assert_ne!(sum_of(&[&a, &b]), sum_of(&[&b, &a]));
    }

    #[test]
    fn the_written_down_example_holds() {
        // 1, 2 as words, then one byte 3: a = 6, b = 1 + 3 + 6.
        let mut bytes = Vec::new();
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        bytes.push(3);
        let trailer = Trailer { count: 17, checksum: 6 ^ (10 << 32) };
        assert_eq!(sum_of(&[&bytes]), trailer);
        assert_eq!(trailer.to_bytes(), [17, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 10, 0, 0, 0]);
        assert_eq!(Trailer::from_bytes(trailer.to_bytes()), trailer);
    }
}
