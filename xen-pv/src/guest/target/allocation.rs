//! How the memory of a guest that arrives is allocated.

use alloc::vec::Vec;

use common::{Gfn, Span};

use super::Target;
use crate::guest::error::{Error, Result};
use crate::guest::memory;

/// Frames of 2 MiB, the most that Xen lets a domain like ours allocate as one extent, and its order.
const EXTENT: u64 = 1 << EXTENT_ORDER;
const EXTENT_ORDER: u32 = 9;
const MAX_GFN: u64 = 1 << 40;

impl Target {
    /// Allocates the frames of a span that nothing stands behind yet, in extents of 2 MiB where it can. The rings have theirs.
    pub fn populate(&mut self, span: Span) -> Result {
        if span.end().0 > MAX_GFN {
            return Err(Error::Malformed("span of guest memory"));
        }
        let rings = self.ring_gfns();
        let (mut whole, mut single) = (Vec::new(), Vec::new());
        let mut next = span.first.0;
        while next < span.end().0 {
            let extent = next..next + EXTENT;
            let fits = next.is_multiple_of(EXTENT) && extent.end <= span.end().0;
            if fits && !rings.iter().any(|gfn| extent.contains(&gfn.0)) {
                whole.push(next);
                next = extent.end;
                continue;
            }
            if !rings.contains(&Gfn(next)) {
                single.push(next);
            }
            next += 1;
            if single.len() == EXTENT as usize {
                self.populate_single(&mut single)?;
            }
        }
        self.populate_single(&mut single)?;
        // Where memory is scattered, a page at a time.
        let made = memory::populate_some(self.domain, &mut whole, EXTENT_ORDER).unwrap_or_default();
        for first in whole.into_iter().skip(made) {
            self.populate_single(&mut (first..first + EXTENT).collect())?;
        }
        Ok(())
    }

    /// Allocates these frames, of which none is left then.
    fn populate_single(&self, gfns: &mut Vec<u64>) -> Result {
        let done = memory::populate_some(self.domain, gfns, 0);
        memory::all(done, gfns.len()).map_err(|error| self.without_room().unwrap_or(error))?;
        gfns.clear();
        Ok(())
    }

    /// The better reason why frames could not be allocated: the toolstack lets the domain have no more.
    fn without_room(&self) -> Option<Error> {
        let info = self.info().ok()?;
        let is_full = info.tot_pages >= info.max_pages;
        is_full.then_some(Error::Refused("the guest has grown since the toolstack made a domain for it here"))
    }
}
