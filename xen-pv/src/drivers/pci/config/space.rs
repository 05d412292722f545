//! A device's configuration space, for tests and the fuzzer.

use super::{Config, Failure, Width};

/// Configuration space as an array, whose BARs remember only the bits above their size.
pub struct Space {
    /// All of it.
    pub bytes: [u8; 256],
    /// The mask of each BAR register.
    pub bars: [u32; 6],
}

impl Space {
    /// Nothing but zeros.
    #[expect(clippy::new_without_default)]
    pub fn new() -> Self {
        Self { bytes: [0; 256], bars: [0; 6] }
    }

    /// Puts 4 bytes somewhere.
    pub fn word(&mut self, at: usize, value: u32) -> &mut Self {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self
    }
}

impl Config for Space {
    fn read(&mut self, offset: u16, width: Width) -> Result<u32, Failure> {
        let at = usize::from(offset);
        let bytes = self.bytes.get(at..).ok_or(Failure::Denied)?;
        let mut value = [0; 4];
        let count = match width {
            Width::Byte => 1,
            Width::Word => 2,
            Width::Double => 4,
        };
        value[..count].copy_from_slice(bytes.get(..count).ok_or(Failure::Denied)?);
        Ok(u32::from_le_bytes(value))
    }

    fn write(&mut self, offset: u16, width: Width, value: u32) -> Result<(), Failure> {
        let at = usize::from(offset);
        match width {
            Width::Double if (0x10..0x28).contains(&at) => {
                let mask = self.bars[(at - 0x10) / 4];
                let flags = self.read(offset, width)? & !mask;
                self.word(at, value & mask | flags & 15);
            }
            _ => self.bytes[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes()),
        }
        Ok(())
    }
}
