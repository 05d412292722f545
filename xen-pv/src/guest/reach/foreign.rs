//! Guests' memory by foreign mapping: page-table entries of ours that name the guest's frames.

use alloc::vec::Vec;

use common::{BATCH, DomId, Gfn};
use xen_abi::mmu::{MMU_PT_UPDATE_NO_TRANSLATE, MMUEXT_TLB_FLUSH_LOCAL, MmuUpdate, MmuextOp};
use xen_abi::{Errno, Mfn, PAGE_SHIFT};

use super::Provider;
use crate::guest::error::{Error, Operation, Result};
use crate::hypercall;
use crate::pte::{read_only, read_write};
use crate::window::{Access, Held, Mapping, Window};

/// One window for batches, and spare windows for rings.
pub(super) struct Foreign {
    batch: Window,
    spare: Vec<Window>,
}

impl Foreign {
    pub(super) fn new(batch: Window, spare: Vec<Window>) -> Self {
        Self { batch, spare }
    }
}

impl Provider for Foreign {
    fn map(&mut self, domain: DomId, gfns: &[Gfn], access: Access) -> Result<Mapping<'_>> {
        let mut frames = [0; BATCH];
        for (frame, gfn) in frames.iter_mut().zip(gfns) {
            *frame = gfn.0;
        }
        let mapping = self.batch.map(domain, &frames[..gfns.len().min(BATCH)], access);
        match mapping.error() {
            // Refusals of the whole guest. Anything else is about single pages: holes, mostly.
            Some(errno @ (Errno::EPERM | Errno::EACCES | Errno::ESRCH)) => Err(operation(access).error(errno)),
            _ => Ok(mapping),
        }
    }

    fn hold(&mut self, domain: DomId, gfn: Gfn) -> Result<Held> {
        let window = self.spare.pop().ok_or(Error::Refused("more guests arrive at once than this agent serves"))?;
        window.hold(domain, gfn.0, Access::Write).map_err(|(window, errno)| {
            self.spare.push(window);
            Operation::MapWrite.error(errno)
        })
    }

    fn let_go(&mut self, held: Held) {
        self.spare.push(held.release());
    }

    fn with_grants(&mut self, domain: DomId, frame: Mfn, access: Access, work: impl FnOnce(*mut u8)) -> Result {
        let flags = match access {
            Access::Read => read_only(),
            Access::Write => read_write(),
        };
        let (entry, page) = (self.batch.entry(0), self.batch.page(0));
        let error = |errno| operation(access).error(errno);
        let map = MmuUpdate { ptr: entry | MMU_PT_UPDATE_NO_TRANSLATE, val: frame.0 << PAGE_SHIFT | flags };
        let unmap = MmuUpdate { ptr: entry, val: 0 };
        let flush = MmuextOp { cmd: MMUEXT_TLB_FLUSH_LOCAL, ..MmuextOp::default() };
        // SAFETY: the window is ours alone while it is borrowed, and empty. Nothing points there when it is unmapped.
        unsafe {
            hypercall::mmu_update(&[map], domain).1.map_err(error)?;
            work(page.as_ptr());
            hypercall::mmu_update(&[unmap], DomId::SELF).1.map_err(error)?;
            hypercall::mmuext_op(&[flush], DomId::SELF).map_err(error)
        }
    }
}

fn operation(access: Access) -> Operation {
    match access {
        Access::Read => Operation::MapRead,
        Access::Write => Operation::MapWrite,
    }
}
