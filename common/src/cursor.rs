//! Bytes taken from the front, each taking checked.

/// What is left of some bytes.
#[derive(Debug)]
pub struct Cursor<'a>(&'a [u8]);

/// There are fewer bytes than what they should hold, or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongLength {
    /// They end too early.
    Truncated,
    /// Something is left.
    Trailing,
}

impl<'a> Cursor<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], WrongLength> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(WrongLength::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WrongLength> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(WrongLength::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, WrongLength> {
        self.array().map(u8::from_le_bytes)
    }

    /// The next number of 2 bytes, little-endian.
    pub fn u16(&mut self) -> Result<u16, WrongLength> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next number of 4 bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32, WrongLength> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next number of 8 bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64, WrongLength> {
        self.array().map(u64::from_le_bytes)
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), WrongLength> {
        if self.0.is_empty() { Ok(()) } else { Err(WrongLength::Trailing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_taken() {
        let mut cursor = Cursor::new(&[1, 2, 0, 3, 4, 5]);
        assert_eq!((cursor.u8(), cursor.u16()), (Ok(1), Ok(2)));
        assert_eq!(cursor.u32(), Err(WrongLength::Truncated));
        assert_eq!(cursor.take(2), Ok(&[3, 4][..]));
        assert_eq!(cursor.take(2), Err(WrongLength::Truncated));
        assert_eq!(cursor.end(), Err(WrongLength::Trailing));
    }
}
