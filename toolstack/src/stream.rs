//! What we put into the migration stream: libxc's headers, one record of our own, the end.
//!
//! libxl's stream carries libxc's inside it (Xen's `docs/specs/libxc-migration-stream.pandoc`). Ours is valid as far as
//! the format goes, and its one record is *mandatory*: a stock helper that meets it refuses, rather than start a guest
//! without memory. The end is written together with the record: at the commit nothing is left to send but libxl's own end,
//! which it writes when the helper has left.

use std::net::SocketAddrV4;

use common::control::{Mode, SessionToken, Size};
use common::{Line, ParseError, PublicKey, XenVersion};

/// What our record begins with.
const NAME: &str = "tsmc";
/// The version of our record.
const RECORD_VERSION: &str = "2";

/// Type of our record: unassigned in Xen's format, and mandatory (bit 31 is clear).
pub const RECORD: u32 = 0x5453_4d43;

/// Bytes from the start of a stream to the end of its first record's header: enough to tell whose it is.
pub const HEAD: usize = 24 + 16 + 8;

/// Longest body of our record.
const MAX_BODY: usize = 1024;

const MARKER: u64 = u64::MAX;
const ID: u32 = 0x5845_4e46;
const VERSION: u32 = 3;
const DOMAIN_HVM: u32 = 2;
const PAGE_SHIFT: u16 = 12;
const RECORD_END: u32 = 0;

/// Where the receiving agent finds the sending one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// Names the migration to both agents.
    pub session: SessionToken,
    /// The sending agent.
    pub peer: SocketAddrV4,
    /// Its public key; nothing if its connections are plain.
    pub key: Option<PublicKey>,
    /// How pages are to move.
    pub mode: Mode,
    /// What the receiving agent must have room for.
    pub size: Size,
}

/// The stream is not one that this version can take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The sending helper speaks another version.
    #[error("the sending side's save helper speaks version {0}, this one {RECORD_VERSION}")]
    Version(String),
    /// A record of ours that says nothing sensible.
    #[error("malformed migration stream: {0}")]
    Malformed(&'static str),
}

/// What the head of a stream says about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Ours: after the head come this many bytes, padding and end included, of which the first `body` are the record's.
    Us {
        /// Bytes in the record's body.
        body: usize,
        /// Bytes to take from the stream after the head.
        rest: usize,
    },
    /// Somebody else's.
    Others,
}

/// Looks at the first [`HEAD`] bytes of a stream.
pub fn owner(head: &[u8; HEAD]) -> Result<Owner, StreamError> {
    let big_endian_version = u32_at(head, 12).swap_bytes();
    let stranger = u64_at(head, 0) != MARKER || u32_at(head, 8).swap_bytes() != ID || big_endian_version != VERSION;
    // Bit 0 of the options: the rest is big-endian, which no x86 host writes.
    if stranger || head[17] & 1 != 0 || u32_at(head, 40) != RECORD {
        return Ok(Owner::Others);
    }
    let body = u32_at(head, 44) as usize;
    if body > MAX_BODY {
        return Err(StreamError::Malformed("our record is too long"));
    }
    Ok(Owner::Us { body, rest: body.next_multiple_of(8) + 8 })
}

impl Invitation {
    /// The whole stream.
    pub fn encode(&self, xen: XenVersion) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MARKER.to_be_bytes());
        out.extend_from_slice(&ID.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&DOMAIN_HVM.to_le_bytes());
        out.extend_from_slice(&u32::from(PAGE_SHIFT).to_le_bytes());
        out.extend_from_slice(&xen.major.to_le_bytes());
        out.extend_from_slice(&xen.minor.to_le_bytes());
        let Self { session, peer, key, mode, size } = self;
        let key = key.map_or_else(String::new, |key| format!(" key={key}"));
        let body = format!("{NAME} version={RECORD_VERSION} session={session} peer={peer} mode={mode} {size}{key}");
        out.extend_from_slice(&RECORD.to_le_bytes());
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(body.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
        out.extend_from_slice(&RECORD_END.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out
    }

    /// Reads what follows the head of a stream of ours; `body` is from [`owner`].
    pub fn decode(rest: &[u8], body: usize) -> Result<Self, StreamError> {
        let end = rest.len().checked_sub(8).ok_or(StreamError::Malformed("it is cut short"))?;
        if rest[end..] != [0; 8] {
            return Err(StreamError::Malformed("more than one record"));
        }
        let body = rest.get(..body).ok_or(StreamError::Malformed("it is cut short"))?;
        let line = str::from_utf8(body).map_err(|_| StreamError::Malformed("our record is no text"))?;
        let line = Line::new(line);
        if line.word() != NAME {
            return Err(StreamError::Malformed("our record does not start with its name"));
        }
        match line.field::<String>("version") {
            Ok(version) if version == RECORD_VERSION => {}
            other => return Err(StreamError::Version(other.unwrap_or("unknown".into()))),
        }
        let no_sense = |_| StreamError::Malformed("our record names no session, peer or mode, or no proper key");
        Self::of_line(&line).map_err(no_sense)
    }

    fn of_line(line: &Line<'_>) -> Result<Self, ParseError> {
        let (session, peer, mode) = (line.field("session")?, line.field("peer")?, line.field("mode")?);
        Ok(Self { session, peer, key: line.optional("key")?, mode, size: Size::of_line(line)? })
    }
}

fn u32_at(bytes: &[u8; HEAD], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; HEAD], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const XEN: XenVersion = XenVersion { major: 4, minor: 17 };

    fn invitation() -> Invitation {
        let peer = "10.77.0.11:7077".parse().expect("an address");
        let (session, key) = (SessionToken([0xa5; 16]), Some(PublicKey([0x5a; 32])));
        Invitation { session, peer, key, mode: Mode::Tsmc, size: Size { frames: 1 << 20, digests: 77 } }
    }

    fn head(stream: &[u8]) -> [u8; HEAD] {
        stream[..HEAD].try_into().expect("long enough")
    }

    #[test]
    fn an_invitation_survives_the_stream() {
        for invitation in [invitation(), Invitation { key: None, ..invitation() }] {
            let stream = invitation.encode(XEN);
            let Ok(Owner::Us { body, rest }) = owner(&head(&stream)) else { panic!("not ours") };
            assert_eq!(stream.len(), HEAD + rest);
            assert_eq!(Invitation::decode(&stream[HEAD..], body), Ok(invitation));
        }
    }

    #[test]
    fn the_headers_are_those_of_the_format() {
        let stream = invitation().encode(XEN);
        let expected = b"\xff\xff\xff\xff\xff\xff\xff\xffXENF\0\0\0\x03\0\0\0\0\0\0\0\0\
            \x02\0\0\0\x0c\0\0\0\x04\0\0\0\x11\0\0\0";
        assert_eq!(&stream[..40], expected);
        assert_eq!(RECORD & 0x8000_0000, 0, "a stock helper must refuse our record, not skip it");
        assert_eq!(stream[stream.len() - 8..], [0; 8]);
    }

    #[test]
    fn other_streams_are_left_alone() {
        let mut stream = head(&invitation().encode(XEN));
        stream[40..44].copy_from_slice(&0x11u32.to_le_bytes());
        assert_eq!(owner(&stream), Ok(Owner::Others));
        assert_eq!(owner(&[0; HEAD]), Ok(Owner::Others));
        assert_eq!(owner(&[0xff; HEAD]), Ok(Owner::Others));
    }

    #[test]
    fn malformed_records_are_refused() {
        let mut long = head(&invitation().encode(XEN));
        long[44..48].copy_from_slice(&100_000u32.to_le_bytes());
        assert!(owner(&long).is_err());
        let refused = [
            "",
            "tsmc",
            "tsmc version=1 session=0123456789abcdef0123456789abcdef peer=10.0.0.1:1 mode=tsmc",
            "tsmc version=2 session=012 peer=10.0.0.1:1 mode=tsmc",
            "tsmc version=2 session=0123456789abcdef0123456789abcdeZ peer=10.0.0.1:1 mode=tsmc",
            "tsmc version=2 session=0123456789abcdef0123456789abcdef peer=nowhere mode=tsmc",
            "tsmc version=2 session=0123456789abcdef0123456789abcdef peer=10.0.0.1:1",
            "tsmc version=2 session=0123456789abcdef0123456789abcdef peer=10.0.0.1:1 mode=fast",
            "tsmc version=2 session=0123456789abcdef0123456789abcdef peer=10.0.0.1:1 mode=tsmc key=",
            "tsmc version=2 session=0123456789abcdef0123456789abcdef peer=10.0.0.1:1 mode=tsmc frames=many",
            "tsmc version=2 session=0123456789abcdef0123456789abcdef peer=10.0.0.1:1 mode=tsmc key=5a5a",
        ];
        for line in refused {
            let mut rest = Vec::from(line);
            rest.resize(line.len().next_multiple_of(8) + 8, 0);
            assert!(Invitation::decode(&rest, line.len()).is_err(), "{line}");
        }
        assert!(Invitation::decode(&[], 0).is_err());
        assert!(Invitation::decode(&[0; 8], 9).is_err());
    }
}
