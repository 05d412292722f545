//! What is said by datagram, beside the connections: requests for pages, and pages in pieces.
//!
//! A datagram carries one of these and nothing else: a kind (1 byte), then what the kind needs.

use alloc::vec::Vec;

use common::{BATCH, Gfn, PAGE_SIZE};

use super::cursor::Cursor;
use crate::error::WireError;

/// Bytes of a piece of a page. With all that goes around it, it fits into a packet that any network carries.
pub const PIECE: usize = 1024;
/// Pieces of a page.
pub const PIECES: usize = PAGE_SIZE / PIECE;
/// Most bytes of a datagram's meaning.
pub const RESCUE_LIMIT: usize = 1 + 8 + 1 + PIECE;

/// Bytes of a frame number and a mask of pieces.
const WANTED: usize = 9;

/// Which pieces of a page: bit `i` stands for the `i`-th.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PieceMask(u8);

impl PieceMask {
    /// All of them.
    pub const WHOLE: Self = Self((1 << PIECES) - 1);

    /// Some pieces, and only such as there are.
    pub fn from_bits(bits: u8) -> Option<Self> {
        (1..=Self::WHOLE.0).contains(&bits).then_some(Self(bits))
    }

    /// Whether this piece is one of them.
    pub fn contains(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }

    /// One more.
    pub fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    /// Those that are not among them.
    pub fn others(self) -> Self {
        Self(Self::WHOLE.0 & !self.0)
    }
}

/// The meaning of a datagram, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rescue<'a> {
    /// Target: how long is the way? The stamp means something to its sender only.
    Probe(u64),
    /// Source: the answer, with the same stamp.
    Echo(u64),
    /// Target: these pieces of pages. See [`Rescue::wanted`].
    Ask(&'a [u8]),
    /// Source: the page is zero.
    Zero(Gfn),
    /// Source: a piece of a page.
    Piece {
        /// Which page.
        gfn: Gfn,
        /// Which piece of it, below [`PIECES`].
        index: usize,
        /// Its bytes.
        bytes: &'a [u8; PIECE],
    },
}

impl<'a> Rescue<'a> {
    /// Checks what a peer sent.
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body);
        let rescue = match cursor.u8()? {
            1 => Self::Probe(cursor.u64()?),
            2 => Self::Echo(cursor.u64()?),
            3 => {
                let wanted = cursor.rest();
                let whole = wanted.len().is_multiple_of(WANTED) && (1..=BATCH).contains(&(wanted.len() / WANTED));
                let masks = wanted.iter().skip(WANTED - 1).step_by(WANTED);
                let sensible = masks.clone().all(|mask| PieceMask::from_bits(*mask).is_some());
                return if whole && sensible {
                    Ok(Self::Ask(wanted))
                } else {
                    Err(WireError::Value("request for pages"))
                };
            }
            4 => Self::Zero(Gfn(cursor.u64()?)),
            5 => {
                let (gfn, index) = (Gfn(cursor.u64()?), usize::from(cursor.u8()?));
                if index >= PIECES {
                    return Err(WireError::Value("piece of a page"));
                }
                let bytes = cursor.take(PIECE)?.first_chunk().ok_or(WireError::Truncated)?;
                Self::Piece { gfn, index, bytes }
            }
            _ => return Err(WireError::Value("kind of datagram")),
        };
        cursor.end()?;
        Ok(rescue)
    }

    /// Appends it to `into`.
    pub fn emit(&self, into: &mut Vec<u8>) {
        let mut numbered = |kind: u8, number: u64| {
            into.push(kind);
            into.extend_from_slice(&number.to_le_bytes());
        };
        match self {
            Self::Probe(stamp) => numbered(1, *stamp),
            Self::Echo(stamp) => numbered(2, *stamp),
            Self::Ask(wanted) => {
                into.push(3);
                into.extend_from_slice(wanted);
            }
            Self::Zero(gfn) => numbered(4, gfn.0),
            Self::Piece { gfn, index, bytes } => {
                numbered(5, gfn.0);
                into.push(*index as u8);
                into.extend_from_slice(&bytes[..]);
            }
        }
    }

    /// Appends an entry to the body of [`Rescue::Ask`].
    pub fn want(into: &mut Vec<u8>, gfn: Gfn, pieces: PieceMask) {
        into.extend_from_slice(&gfn.0.to_le_bytes());
        into.push(pieces.0);
    }

    /// The pages that a body of [`Rescue::Ask`] names, and which pieces of each.
    pub fn wanted(body: &[u8]) -> impl Iterator<Item = (Gfn, PieceMask)> + '_ {
        let entry =
            |[gfn @ .., pieces]: &[u8; WANTED]| Some((Gfn(u64::from_le_bytes(*gfn)), PieceMask::from_bits(*pieces)?));
        body.as_chunks().0.iter().filter_map(entry)
    }
}

const _: () = assert!(PIECES * PIECE == PAGE_SIZE && WANTED * BATCH < RESCUE_LIMIT);
