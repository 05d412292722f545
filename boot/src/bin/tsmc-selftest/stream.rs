//! What both ends of a measured stream know: its ports, its pattern and its checksum.

/// Where streams are taken.
pub const SINK_PORT: u16 = 7001;
/// Where streams are given.
pub const SERVE_PORT: u16 = 7002;

/// The stream that both ends know: word `i` is `(i + 1)` times a constant.
#[derive(Default)]
pub struct Pattern {
    words: u64,
}

impl Pattern {
    /// Fills a block of whole words with the pattern's next bytes.
    pub fn fill(&mut self, block: &mut [u8]) {
        for word in block.as_chunks_mut::<8>().0 {
            self.words += 1;
            *word = self.words.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        }
    }
}

/// Two running sums over little-endian words.
#[derive(Default)]
pub struct Checksum {
    /// Bytes added.
    pub bytes: u64,
    a: u64,
    b: u64,
    partial: u64,
    partial_bytes: u32,
}

impl Checksum {
    /// Adds the stream's next bytes.
    pub fn add(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        while self.partial_bytes > 0
            && let Some((first, rest)) = bytes.split_first()
        {
            self.byte(*first);
            bytes = rest;
        }
        let (words, tail) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        tail.iter().for_each(|byte| self.byte(*byte));
    }

    fn byte(&mut self, byte: u8) {
        self.partial |= u64::from(byte) << (8 * self.partial_bytes);
        self.partial_bytes += 1;
        if self.partial_bytes == 8 {
            self.word(self.partial);
            (self.partial, self.partial_bytes) = (0, 0);
        }
    }

    fn word(&mut self, word: u64) {
        self.a = self.a.wrapping_add(word);
        self.b = self.b.wrapping_add(self.a);
    }

    /// The checksum so far; the last word is padded with zeros.
    pub fn value(&self) -> u64 {
        let (mut a, mut b) = (self.a, self.b);
        if self.partial_bytes > 0 {
            a = a.wrapping_add(self.partial);
            b = b.wrapping_add(a);
        }
        a ^ b.rotate_left(32)
    }

    /// Length and checksum, as they travel.
    pub fn trailer(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[8..].copy_from_slice(&self.value().to_le_bytes());
        bytes
    }
}
