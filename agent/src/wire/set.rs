//! A part of a page set, in whichever form is smallest.
//!
//! Body: first frame (8 bytes), frames in the part (4), form (1), three zero bytes, then by form
//! * raw: one bit per frame, the last byte's spare bits zero;
//! * runs: offset of the first frame and length minus one, 2 bytes each, ascending and not touching;
//! * list: offsets, 2 bytes each, ascending.

use alloc::vec::Vec;

use common::{Gfn, PageSet, Span};

use super::cursor::Cursor;
use crate::error::WireError;

/// Most frames that one message covers: 128 MiB of guest.
pub const CHUNK: u64 = 32768;

const HEAD: usize = 16;
pub(super) const LIMIT: usize = HEAD + CHUNK as usize / 8;

const RAW: u8 = 0;
const RUNS: u8 = 1;
const LIST: u8 = 2;

/// A checked part of a page set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set<'a> {
    first: u64,
    count: u64,
    form: u8,
    body: &'a [u8],
}

impl<'a> Set<'a> {
    /// Checks what a peer sent.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(bytes);
        let (first, count, form) = (cursor.u64()?, u64::from(cursor.u32()?), cursor.u8()?);
        if cursor.array()? != [0; 3] {
            return Err(WireError::Reserved);
        }
        if count == 0 || count > CHUNK || first.checked_add(count).is_none() {
            return Err(WireError::Value("range of frames"));
        }
        let set = Self { first, count, form, body: cursor.rest() };
        set.check()?;
        Ok(set)
    }

    fn check(&self) -> Result<(), WireError> {
        const BAD: WireError = WireError::Value("page set");
        match self.form {
            RAW => {
                let whole = self.body.len() as u64 == self.count.div_ceil(8);
                let spare = match (self.count % 8, self.body.last()) {
                    (0, _) | (_, None) => 0,
                    (used, Some(last)) => last >> used,
                };
                if whole && spare == 0 { Ok(()) } else { Err(BAD) }
            }
            RUNS | LIST => {
                let unit = if self.form == RUNS { 4 } else { 2 };
                if !self.body.len().is_multiple_of(unit) {
                    return Err(BAD);
                }
                // The least offset that the next entry may have: lists ascend, runs also leave a gap.
                let mut least = 0;
                for Span { first: Gfn(offset), count } in self.entries() {
                    if offset < least || offset + count > self.count {
                        return Err(BAD);
                    }
                    least = offset + count + u64::from(self.form == RUNS);
                }
                Ok(())
            }
            _ => Err(WireError::Value("form of a page set")),
        }
    }

    /// The first frame that the part covers.
    pub fn first(&self) -> Gfn {
        Gfn(self.first)
    }

    /// How many frames the part covers.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The members as runs, ascending.
    pub fn runs(&self) -> impl Iterator<Item = Span> + use<'a> {
        let first = self.first;
        self.entries().map(move |entry| Span { first: Gfn(first + entry.first.0), ..entry })
    }

    /// The members, ascending.
    pub fn gfns(&self) -> impl Iterator<Item = Gfn> + use<'a> {
        self.runs().flat_map(|run| (run.first.0..run.end().0).map(Gfn))
    }

    /// Every entry, counted from the first frame of the part; raw sets give runs of one.
    fn entries(&self) -> impl Iterator<Item = Span> + use<'a> {
        let entry = |offset, count| Span { first: Gfn(offset), count };
        let number = |bytes: [u8; 2]| u64::from(u16::from_le_bytes(bytes));
        let (raw, pairs, singles): (&[u8], &[u8], &[u8]) = match self.form {
            RAW => (self.body, &[], &[]),
            RUNS => (&[], self.body, &[]),
            _ => (&[], &[], self.body),
        };
        let raw = raw.iter().enumerate().flat_map(move |(index, byte)| {
            (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| entry(index as u64 * 8 + bit, 1))
        });
        let pairs = pairs.as_chunks().0.iter().map(move |&[a, b, c, d]| entry(number([a, b]), number([c, d]) + 1));
        let singles = singles.as_chunks().0.iter().map(move |single| entry(number(*single), 1));
        raw.chain(pairs).chain(singles)
    }

    /// Appends the body for the frames `span` of `set`, up to [`CHUNK`].
    pub fn emit(set: &PageSet, span: Span, into: &mut Vec<u8>) {
        let (first, count) = (span.first, span.count.min(CHUNK));
        let span = Span { first, count };
        let (mut runs, mut members) = (0, 0);
        for run in set.runs(span) {
            runs += 1;
            members += run.count as usize;
        }
        let raw = count.div_ceil(8) as usize;
        let (form, _) = [(RAW, raw), (RUNS, runs * 4), (LIST, members * 2)]
            .into_iter()
            .min_by_key(|(_, size)| *size)
            .unwrap_or((RAW, raw));
        into.extend_from_slice(&first.0.to_le_bytes());
        into.extend_from_slice(&(count as u32).to_le_bytes());
        into.extend_from_slice(&[form, 0, 0, 0]);
        let offset = |gfn: Gfn| ((gfn.0 - first.0) as u16).to_le_bytes();
        match form {
            RUNS => {
                for run in set.runs(span) {
                    into.extend_from_slice(&offset(run.first));
                    into.extend_from_slice(&((run.count - 1) as u16).to_le_bytes());
                }
            }
            LIST => set.range(span).for_each(|gfn| into.extend_from_slice(&offset(gfn))),
            _ => {
                let start = into.len();
                into.resize(start + raw, 0);
                for gfn in set.range(span) {
                    let bit = (gfn.0 - first.0) as usize;
                    into[start + bit / 8] |= 1 << (bit % 8);
                }
            }
        }
    }
}
