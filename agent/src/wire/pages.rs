//! A batch of pages.
//!
//! Body: number of pages (1 byte), cause (1), six zero bytes, zero mask (8: bit `i` says that page `i` is all zeros
//! and sends no bytes), first frame (8), then the other frames as 4-byte distances from the first, ascending, then the
//! pages that are not zero, 4096 bytes each.

use alloc::vec::Vec;

use common::{BATCH, Content, Gfn, PAGE_SIZE, Page, PageMask};

use super::cursor::Cursor;
use crate::error::WireError;

const HEAD: usize = 24;
pub(super) const LIMIT: usize = HEAD + 4 * (BATCH - 1) + BATCH * PAGE_SIZE;

/// Why pages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// Stage 1, or a round of a pre-copy.
    Copy = 0,
    /// Stage 2: it must be there before the guest runs.
    Urgent = 1,
    /// Stage 3: in the background.
    Push = 2,
    /// The target demanded it.
    Demand = 3,
    /// It is a neighbour of a demanded one.
    Prepull = 4,
}

impl Cause {
    fn from_number(number: u8) -> Result<Self, WireError> {
        [Self::Copy, Self::Urgent, Self::Push, Self::Demand, Self::Prepull]
            .into_iter()
            .find(|cause| *cause as u8 == number)
            .ok_or(WireError::Value("cause of pages"))
    }
}

/// What goes before the bytes of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'a> {
    /// Why they are sent.
    pub cause: Cause,
    /// Which pages, ascending, at most [`BATCH`] and at least one, all within 2^32 frames of the first.
    pub gfns: &'a [Gfn],
    /// Which of them are zero.
    pub zero: PageMask,
}

impl Pages<'_> {
    /// Appends all of the body but the pages' own bytes. The pages that are not zero must follow.
    pub fn emit(&self, into: &mut Vec<u8>) {
        let first = self.gfns.first().copied().unwrap_or_default();
        into.extend_from_slice(&[self.gfns.len() as u8, self.cause as u8, 0, 0, 0, 0, 0, 0]);
        into.extend_from_slice(&self.zero.0.to_le_bytes());
        into.extend_from_slice(&first.0.to_le_bytes());
        for gfn in self.gfns.iter().skip(1) {
            into.extend_from_slice(&((gfn.0 - first.0) as u32).to_le_bytes());
        }
    }

    /// Bytes of the whole body.
    pub fn body_len(&self) -> usize {
        let filled = self.gfns.len() - self.zero.count();
        HEAD + 4 * (self.gfns.len() - 1) + filled * PAGE_SIZE
    }
}

/// A checked batch of pages from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arriving<'a> {
    cause: Cause,
    first: u64,
    distances: &'a [[u8; 4]],
    zero: PageMask,
    filled: &'a [u8],
}

impl<'a> Arriving<'a> {
    /// Checks what a peer sent.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(bytes);
        let count = usize::from(cursor.u8()?);
        let cause = Cause::from_number(cursor.u8()?)?;
        if cursor.array()? != [0; 6] {
            return Err(WireError::Reserved);
        }
        if count == 0 || count > BATCH {
            return Err(WireError::Value("number of pages"));
        }
        let zero = PageMask(cursor.u64()?);
        if !(zero - PageMask::first(count)).is_empty() {
            return Err(WireError::Value("zero mask"));
        }
        let first = cursor.u64()?;
        let (distances, _) = cursor.take(4 * (count - 1))?.as_chunks();
        let mut last = 0;
        for distance in distances.iter().copied().map(u32::from_le_bytes) {
            if distance <= last {
                return Err(WireError::Value("order of pages"));
            }
            last = distance;
        }
        if first.checked_add(u64::from(last)).is_none() {
            return Err(WireError::Value("frame number"));
        }
        let filled = cursor.take((count - zero.count()) * PAGE_SIZE)?;
        cursor.end()?;
        Ok(Self { cause, first, distances, zero, filled })
    }

    /// Why they were sent.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// How many of them are zero.
    pub fn zeros(&self) -> u64 {
        self.zero.count() as u64
    }

    /// Which pages, ascending.
    pub fn gfns(&self) -> impl Iterator<Item = Gfn> + use<'a> {
        let first = self.first;
        let distances = self.distances.iter().copied().map(u32::from_le_bytes);
        let others = distances.map(move |distance| Gfn(first + u64::from(distance)));
        core::iter::once(Gfn(first)).chain(others)
    }

    /// Every page with what it holds.
    pub fn contents(&self) -> impl Iterator<Item = (Gfn, Content<'a>)> + use<'a> {
        let zero = self.zero;
        let mut filled = self.filled.chunks_exact(PAGE_SIZE);
        self.gfns().enumerate().map(move |(index, gfn)| {
            let bytes = if zero.contains(index) { None } else { filled.next() };
            let page = bytes.and_then(|bytes| <&Page>::try_from(bytes).ok());
            (gfn, page.map_or(Content::Zero, Content::Bytes))
        })
    }
}
