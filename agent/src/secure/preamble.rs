//! The first bytes that a caller sends on a connection, in clear.
//!
//! They let the other side drop whoever it does not expect before it computes anything, and they are the prologue of
//! the handshake: changed on the way, the handshake fails. Whoever reads them learns which session is meant, and not the
//! token without which nobody is let in.

use common::control::SessionToken;
use snow::params::HashChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};

use crate::error::{NoPreamble, Refusal, VersionMismatch};
use crate::wire::ConnectionRole;

const MAGIC: [u8; 4] = *b"TSMC";
/// The version of the protocol: of this, and of all that follows. 1 had the token itself in clear.
const VERSION: u8 = 7;

/// Whether a connection is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Protection {
    /// Records without cipher and tag.
    Plain = 0,
    /// A handshake, then sealed records.
    Sealed = 1,
}

/// Why this agent does not talk to a peer whose connections are protected like that.
impl From<Protection> for Refusal {
    fn from(peer: Protection) -> Self {
        match peer {
            Protection::Plain => Self::PeerIsPlain,
            Protection::Sealed => Self::PeerIsSealed,
        }
    }
}

/// What a session is called in clear: the first half of a hash of its token (BLAKE2s).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionName(pub(crate) [u8; 16]);

impl SessionName {
    pub(crate) fn of(token: SessionToken) -> Self {
        let mut hash = DefaultResolver.resolve_hash(&HashChoice::Blake2s).expect("built in");
        hash.input(b"tsmc session");
        hash.input(&token.0);
        let (mut whole, mut name) = ([0; 32], [0; 16]);
        hash.result(&mut whole);
        name.copy_from_slice(&whole[..16]);
        Self(name)
    }
}

/// What a connection is for: magic (4 bytes), version (1), protection (1), role (1), zero (1), the session's name (16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preamble {
    pub(crate) protection: Protection,
    pub(crate) role: ConnectionRole,
    pub(crate) session: SessionName,
}

impl Preamble {
    /// Its bytes on the wire.
    pub(crate) const LEN: usize = 24;

    /// Checks what a caller sent.
    pub(crate) fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, NoPreamble> {
        let [m, a, g, i, version, protection, role, zero, session @ ..] = bytes;
        if [*m, *a, *g, *i] != MAGIC {
            return Err(NoPreamble::Strange);
        }
        if *version != VERSION {
            let mismatch = VersionMismatch { theirs: *version, ours: VERSION };
            return Err(NoPreamble::Version(mismatch, *session));
        }
        let protection = match protection {
            0 => Protection::Plain,
            1 => Protection::Sealed,
            _ => return Err(NoPreamble::Strange),
        };
        let role = ConnectionRole::from_number(*role).filter(|_| *zero == 0).ok_or(NoPreamble::Strange)?;
        Ok(Self { protection, role, session: SessionName(*session) })
    }

    /// Its bytes.
    pub(crate) fn emit(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..7].copy_from_slice(&[VERSION, self.protection as u8, self.role as u8]);
        bytes[8..].copy_from_slice(&self.session.0);
        bytes
    }

    /// What a caller of another version hears: magic, this version, zeros.
    pub(crate) fn other_version() -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes
    }

    /// What an agent says of its version with this answer, if that is another one.
    pub(crate) fn mismatch(answer: &[u8]) -> Option<VersionMismatch> {
        let theirs = *answer.strip_prefix(&MAGIC)?.first()?;
        (theirs != VERSION).then_some(VersionMismatch { theirs, ours: VERSION })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_survives_the_wire_and_nothing_else_passes() {
        for protection in [Protection::Plain, Protection::Sealed] {
            for role in [ConnectionRole::Control, ConnectionRole::Bulk] {
                let preamble = Preamble { protection, role, session: SessionName([0xa5; 16]) };
                assert_eq!(Preamble::parse(&preamble.emit()), Ok(preamble));
                for at in 0..8 {
                    let mut bytes = preamble.emit();
                    bytes[at] ^= 0x80;
                    let mismatch = VersionMismatch { theirs: VERSION ^ 0x80, ours: VERSION };
                    let version = NoPreamble::Version(mismatch, [0xa5; 16]);
                    let expected = if at == 4 { version } else { NoPreamble::Strange };
                    assert_eq!(Preamble::parse(&bytes), Err(expected), "byte {at}");
                }
            }
        }
    }

    #[test]
    fn a_session_s_name_does_not_tell_its_token() {
        let token = SessionToken([7; 16]);
        let name = SessionName::of(token);
        assert_eq!(name, SessionName::of(token));
        assert_ne!(name.0, token.0);
        assert_ne!(name, SessionName::of(SessionToken(name.0)));
    }
}
