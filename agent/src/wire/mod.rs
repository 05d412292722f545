//! What the agents say to each other, as bytes.
//!
//! Every message is a [`Header`] of fixed size and a body. The header is checked, and the length held against the
//! limit of its kind, before a byte of the body is read. All numbers are little-endian. Bodies have two layers:
//! a *view* of bytes that has been checked once and cannot fail afterwards ([`Set`], [`Pages`]), and the meaning
//! ([`Message`]). Framing never judges meaning, and meaning never parses bytes.

pub(crate) mod cursor;
mod digests;
mod message;
mod pages;
mod rescue;
mod set;

pub use digests::Digests;
pub use message::{ConnectionRole, Demanded, Hello, Message, Purpose, Welcome};
pub use pages::{Arriving, Cause, Pages};
pub use rescue::{PIECE, PIECES, PieceMask, RESCUE_LIMIT, Rescue};
pub use set::{CHUNK, Set};

use common::{BATCH, PAGE_SIZE};

use crate::error::WireError;

/// What every message starts with.
const MAGIC: u32 = u32::from_le_bytes(*b"TSMC");

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Target: who calls, and for which session.
    Hello = 1,
    /// Source: what the guest is.
    Welcome = 2,
    /// Target: the guest is built.
    Built = 3,
    /// Source: which frames of a chunk are RAM.
    Ram = 4,
    /// Source: pages.
    Pages = 5,
    /// Source: pages that are known to be stale.
    Hints = 6,
    /// Source: pages that are stale at the switch.
    Dirty = 7,
    /// Source: the machine state.
    State = 8,
    /// Source: all that the target needs to be ready has been sent.
    Switch = 9,
    /// Target: the guest could run here.
    Ready = 10,
    /// Source: the guest is yours. The commit.
    Commit = 11,
    /// Target: these pages, now.
    Demand = 12,
    /// Target: nothing is missing. The source says it back.
    Complete = 13,
    /// Both, before the commit: it is over, and why. After it the source's answer to [`Kind::Revoked`].
    Abort = 14,
    /// Target, on a connection that recovers a session: which pages it misses; an empty set ends it.
    Missing = 15,
    /// Target: the guest never ran here and never will.
    Revoked = 16,
    /// Source, when asked to verify: what pages hold at the switch.
    Digests = 17,
    /// Both, at any time: nothing. It follows what may have been lost.
    Nudge = 18,
    /// Source, before the switch: frames that are RAM no more, since the guest gave them back.
    Gone = 19,
}

impl Kind {
    /// Most bytes that a body of this kind has.
    pub const fn limit(self) -> usize {
        match self {
            Self::Hello => 56,
            Self::Welcome => 64 << 10,
            Self::Built => 4,
            Self::Ram | Self::Hints | Self::Dirty | Self::Missing => set::LIMIT,
            Self::Pages => pages::LIMIT,
            Self::State => 1 << 20,
            Self::Switch | Self::Ready | Self::Commit | Self::Complete | Self::Revoked | Self::Nudge => 0,
            Self::Demand | Self::Gone => 8 * BATCH,
            Self::Abort => 512,
            Self::Digests => digests::LIMIT,
        }
    }

    fn from_number(number: u16) -> Result<Self, WireError> {
        const ALL: [Kind; 19] = [
            Kind::Hello,
            Kind::Welcome,
            Kind::Built,
            Kind::Ram,
            Kind::Pages,
            Kind::Hints,
            Kind::Dirty,
            Kind::State,
            Kind::Switch,
            Kind::Ready,
            Kind::Commit,
            Kind::Demand,
            Kind::Complete,
            Kind::Abort,
            Kind::Missing,
            Kind::Revoked,
            Kind::Digests,
            Kind::Nudge,
            Kind::Gone,
        ];
        ALL.into_iter().find(|kind| *kind as u16 == number).ok_or(WireError::UnknownKind(number))
    }
}

/// The front of every message: magic, kind, two bytes that must be zero, length of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the body is.
    pub kind: Kind,
    /// Bytes of the body; never above the limit of the kind.
    pub length: usize,
}

impl Header {
    /// Bytes of a header.
    pub const LEN: usize = 12;

    /// Checks a header that a peer sent.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, WireError> {
        let mut cursor = cursor::Cursor::new(bytes);
        if cursor.u32()? != MAGIC {
            return Err(WireError::Magic);
        }
        let kind = Kind::from_number(cursor.u16()?)?;
        if cursor.u16()? != 0 {
            return Err(WireError::Reserved);
        }
        let length = cursor.u32()? as usize;
        if length > kind.limit() {
            return Err(WireError::TooLong { kind: kind as u16, length });
        }
        Ok(Self { kind, length })
    }

    /// The header as bytes.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[8..].copy_from_slice(&(self.length as u32).to_le_bytes());
        bytes
    }
}

const _: () = assert!(PAGE_SIZE == 4096 && BATCH == 64, "the wire carries 4 KiB pages in batches of at most 64");

#[cfg(test)]
mod tests;
