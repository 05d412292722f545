//! Bytes as hexadecimal text. Neither branches nor table look-ups depend on them: some are private keys.

use core::fmt;

use base16ct::HexDisplay;

/// Bytes as they are shown: two digits for each.
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&HexDisplay(self.0), f)
    }
}

/// Reads exactly two digits for each of `N` bytes.
pub fn parse<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    parse_into(text, &mut bytes)?;
    Some(bytes)
}

/// Reads exactly two digits for each of `bytes`, and leaves no copy elsewhere. If that fails, they hold anything.
pub fn parse_into(text: &str, bytes: &mut [u8]) -> Option<()> {
    if text.len() != 2 * bytes.len() {
        return None;
    }
    base16ct::mixed::decode(text, bytes).ok().map(drop)
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn digits_of_either_case_are_read_and_nothing_else() {
        assert_eq!(parse("00fFa5"), Some([0, 255, 0xa5]));
        assert_eq!(Shown(&[0, 255, 0xa5]).to_string(), "00ffa5");
        for text in ["", "00ffa", "00ffa5a5", "00ffg5", "+0ffa5", "00 fa5", "\u{e9}ffa5"] {
            assert_eq!(parse::<3>(text), None, "{text}");
        }
    }
}
