//! The dirty log of a guest that leaves.

use alloc::vec::Vec;

use common::{Gfn, PageMask, bits};
use xen_abi::hvm::MEM_RAM_RO;

use super::Source;
use crate::broker;
use crate::guest::dirty_log::{DirtyLog, Read};
use crate::guest::error::{Error, Result};
use crate::guest::{grants, memory};

impl Source {
    /// Turns the dirty log on.
    pub fn log_on(&mut self) -> Result {
        self.log = Some(DirtyLog::start(self.domain)?);
        // From here on what is copied by grant must be protected.
        self.reach.end_grants(self.domain, self.hap)?;
        Ok(())
    }

    /// Turns the dirty log off.
    pub(super) fn log_off(&mut self) -> Result {
        self.log.take().map_or(Ok(()), DirtyLog::stop)
    }

    /// A guest that has left writes nothing: nobody needs to turn its log off.
    pub(super) fn leave_log(&mut self) {
        if let Some(log) = self.log.take() {
            log.leave();
        }
    }

    /// Which of up to [`BATCH`] pages are RAM of which the next write will be recorded.
    pub fn protected(&self, gfns: &[Gfn]) -> Result<PageMask> {
        if !self.hap || broker::is_needed() {
            // A page that is copied by grant is looked at afterwards ([`Reach::end_grants`]).
            // With shadow paging a page is recorded when it is first mapped for writing, however new it is.
            return Ok(PageMask::first(gfns.len()));
        }
        let types = memory::types(self.domain, gfns)?;
        Ok((0..gfns.len()).filter(|index| types[*index] == MEM_RAM_RO).collect())
    }

    /// Copies the dirty log into `dirty` without clearing it.
    pub fn peek(&mut self, dirty: &mut [u64]) -> Result {
        self.read_log(Read::Peek, dirty)
    }

    /// Copies the dirty log into `dirty` and clears it.
    pub fn clean(&mut self, dirty: &mut [u64]) -> Result {
        self.read_log(Read::Clean, dirty)
    }

    pub(super) fn read_log(&mut self, how: Read, dirty: &mut [u64]) -> Result {
        if how != Read::Peek && self.max_gfn()? >= dirty.len() as u64 * 64 {
            return Err(Error::Refused("the guest's physical address space grew while it was copied"));
        }
        let mut mapped = Vec::new();
        if how != Read::Peek {
            // Before the log is cleared. A guest that stands still changes nothing: then from here on all is copied as it is.
            mapped.extend(self.reach.end_grants(self.domain, self.hap && how == Read::Clean)?);
        }
        if how == Read::Final {
            // What a backend unmaps after the log is read was mapped before; what it maps then is mapped afterwards.
            grants::find_mapped(&self.reach, self.domain, &mut mapped)?;
        }
        let log = self.log.as_ref().ok_or(Error::Refused("the dirty log is not on"))?;
        match log.read(how, dirty) {
            // Xen could not note every page: whatever was not noted may be dirty.
            Err(error) if error.is_log_overflow() => dirty.fill(u64::MAX),
            result => drop(result?),
        }
        if how == Read::Final {
            grants::find_mapped(&self.reach, self.domain, &mut mapped)?;
        }
        mapped.into_iter().for_each(|gfn| bits::insert(dirty, gfn));
        self.private.into_iter().for_each(|gfn| bits::remove(dirty, gfn));
        Ok(())
    }
}
