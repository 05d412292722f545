//! What pages hold at the switch, as digests.
//!
//! Body: first frame (8 bytes, a multiple of 64), which of the 64 frames from there on it is about (8: bit `i` is frame `i`),
//! which of those are zero (8), which of them are spared (8), then 8 bytes for each of the others, ascending.

use alloc::vec::Vec;

use common::{BATCH, Gfn, PageMask};

use super::cursor::Cursor;
use crate::digest::{Digest, ZERO_PAGE};
use crate::error::WireError;

const HEAD: usize = 32;
pub(super) const LIMIT: usize = HEAD + 8 * BATCH;
/// Frames that one message is about, at most.
const SPAN: u64 = BATCH as u64;

/// Checked digests from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests<'a> {
    first: u64,
    pages: PageMask,
    zero: PageMask,
    spared: PageMask,
    digests: &'a [u8],
}

impl<'a> Digests<'a> {
    /// Checks what a peer sent.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(bytes);
        let first = cursor.u64()?;
        let [pages, zero, spared] = [cursor.u64()?, cursor.u64()?, cursor.u64()?].map(PageMask);
        if !first.is_multiple_of(SPAN) || first.checked_add(SPAN).is_none() {
            return Err(WireError::Value("frame number"));
        }
        if pages.is_empty() || !((zero | spared) - pages).is_empty() || !(zero & spared).is_empty() {
            return Err(WireError::Value("mask of digests"));
        }
        let digests = cursor.take(8 * (pages - zero - spared).count())?;
        if digests.as_chunks::<8>().0.contains(&[0; 8]) {
            return Err(WireError::Value("digest"));
        }
        cursor.end()?;
        Ok(Self { first, pages, zero, spared, digests })
    }

    /// Every page with its digest, ascending; a page that is spared has none.
    pub fn each(&self) -> impl Iterator<Item = (Gfn, Option<Digest>)> + use<'a> {
        let Self { first, pages, zero, spared, digests } = *self;
        let mut digests = digests.as_chunks::<8>().0.iter();
        pages.iter().map(move |index| {
            let digest = match (zero.contains(index), spared.contains(index)) {
                (true, _) => Some(ZERO_PAGE),
                (_, true) => None,
                _ => digests.next().and_then(|bytes| Digest::new(u64::from_le_bytes(*bytes))),
            };
            (Gfn(first + index as u64), digest)
        })
    }

    /// Appends the body for `pages`: ascending, all within the same 64 frames, at least one.
    pub fn emit(pages: &[(Gfn, Option<Digest>)], into: &mut Vec<u8>) {
        let first = pages.first().map_or(0, |(gfn, _)| gfn.0 / SPAN * SPAN);
        let mask = |which: fn(Option<Digest>) -> bool| {
            let chosen = pages.iter().filter(|(_, digest)| which(*digest));
            chosen.map(|(gfn, _)| (gfn.0 % SPAN) as usize).collect::<PageMask>().0
        };
        let masks = [mask(|_| true), mask(|digest| digest == Some(ZERO_PAGE)), mask(|digest| digest.is_none())];
        [first].into_iter().chain(masks).for_each(|word| into.extend_from_slice(&word.to_le_bytes()));
        let told = pages.iter().filter_map(|(_, digest)| digest.filter(|digest| *digest != ZERO_PAGE));
        told.for_each(|digest| into.extend_from_slice(&digest.get().to_le_bytes()));
    }
}
