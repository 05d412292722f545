//! The first bytes that a caller sends on a connection, in clear.
//!
//! They let the other side drop whoever it does not expect before it computes anything, and they are the prologue of
//! the handshake: changed on the way, the handshake fails.

use crate::control::SessionToken;
use crate::wire::Channel;

const MAGIC: [u8; 4] = *b"TSMC";
const VERSION: u8 = 1;

/// Whether a connection is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Protection {
    /// Records without cipher and tag.
    Plain = 0,
    /// A handshake, then sealed records.
    Sealed = 1,
}

/// What a connection is for: magic (4 bytes), version (1), protection (1), channel (1), zero (1), session (16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preamble {
    pub(crate) protection: Protection,
    pub(crate) channel: Channel,
    pub(crate) session: SessionToken,
}

impl Preamble {
    /// Its bytes on the wire.
    pub(crate) const LEN: usize = 24;

    /// Checks what a caller sent.
    pub(crate) fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let (front, session) = bytes.split_last_chunk::<16>()?;
        let [magic @ .., version, protection, channel, zero] = front else { return None };
        let protection = match protection {
            0 => Protection::Plain,
            1 => Protection::Sealed,
            _ => return None,
        };
        let fits = *magic == MAGIC && *version == VERSION && *zero == 0;
        let channel = Channel::from_number(*channel)?;
        fits.then_some(Self { protection, channel, session: SessionToken(*session) })
    }

    /// Its bytes.
    pub(crate) fn emit(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..7].copy_from_slice(&[VERSION, self.protection as u8, self.channel as u8]);
        bytes[8..].copy_from_slice(&self.session.0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_survives_the_wire_and_nothing_else_passes() {
        for protection in [Protection::Plain, Protection::Sealed] {
            for channel in [Channel::Control, Channel::Bulk] {
                let preamble = Preamble { protection, channel, session: SessionToken([0xa5; 16]) };
                assert_eq!(Preamble::parse(&preamble.emit()), Some(preamble));
                for at in 0..8 {
                    let mut bytes = preamble.emit();
                    bytes[at] ^= 0x80;
                    assert_eq!(Preamble::parse(&bytes), None, "byte {at}");
                }
            }
        }
    }
}
