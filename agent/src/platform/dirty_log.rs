//! Which pages a guest writes to.

use common::{Gfn, PageMask};

use super::Result;

/// The record of a guest's writes, while it is copied.
pub trait DirtyLog {
    /// Turns the dirty log on; from here on every write is recorded, until `SourceHold::give_back` or drop.
    fn log_on(&mut self) -> Result<()>;
    /// Which of up to [`BATCH`](common::BATCH) pages are RAM of which the next write will be recorded. The log alone does
    /// not tell: pages that the guest has been given since it was turned on or cleaned are written to unrecorded until it
    /// is cleaned.
    fn protected(&mut self, gfns: &[Gfn]) -> Result<PageMask>;
    /// Copies the dirty log, one bit a frame as in `SourceMemory::find_ram`, without clearing it. Takes as long as `dirty`
    /// is.
    fn peek(&mut self, dirty: &mut [u64]) -> Result<()>;
    /// Copies the dirty log and clears it. Dear: a handful per migration.
    fn clean(&mut self, dirty: &mut [u64]) -> Result<()>;
}
