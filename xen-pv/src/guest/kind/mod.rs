//! The kinds of guests that can move, with a table of facts for each.
//!
//! [`pinned`] finds the pages that must never be absent.

use core::ops::Range;

use common::Gfn;
use xen_abi::PAGE_SHIFT;
use xen_abi::domctl::{DOMINF_HVM_GUEST, GetDomainInfo};

use super::error::{Error, Result};

pub mod pinned;
mod pvh;

pub use pvh::PVH;

/// What a kind of guest has.
#[derive(Debug)]
pub struct Kind {
    /// The frame numbers below 4 GiB where the toolstack puts its tables and special pages.
    pub(super) special: Range<u64>,
    /// Where its builder would put the pager's ring.
    pub(super) paging_ring: Gfn,
    /// The HVM parameters that it keeps when it moves, and what they name. The two event channels are not among them: the
    /// target's toolstack allocates new ones.
    pub(super) params: &'static [(u32, Names)],
    /// Those of them that name pages which it needs before it runs.
    pub(super) needed: &'static [u32],
}

/// What the value of a parameter names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Names {
    /// No page.
    Nothing,
    /// A page, by its frame number.
    Page,
    /// An address.
    Address,
    /// An address in its lower half.
    LowAddress,
}

impl Kind {
    /// The kind of a guest that is to leave.
    pub(super) fn of(info: &GetDomainInfo) -> Result<&'static Self> {
        if info.flags & DOMINF_HVM_GUEST == 0 {
            return Err(Error::Refused("only PVH guests can be migrated, this one is PV"));
        }
        if info.emulation_flags & !pvh::EMULATED != 0 {
            return Err(Error::Refused("only PVH guests can be migrated, this one has emulated devices"));
        }
        Ok(&PVH)
    }

    /// The kind of guest that a domain was made for.
    pub(super) fn made_for(info: &GetDomainInfo) -> Result<&'static Self> {
        if info.flags & DOMINF_HVM_GUEST == 0 {
            return Err(Error::Refused("a PVH guest needs a PVH domain"));
        }
        Ok(&PVH)
    }

    /// The page that a parameter names, if it does.
    pub(super) fn page(&self, index: u32, value: u64) -> Option<Gfn> {
        self.params.iter().find(|param| param.0 == index).and_then(|param| param.1.page(value))
    }
}

impl Names {
    fn page(self, value: u64) -> Option<Gfn> {
        let gfn = |address: u64| (address != 0).then_some(Gfn(address >> PAGE_SHIFT));
        match self {
            Self::Nothing => None,
            Self::Page => Some(Gfn(value)),
            Self::Address => gfn(value),
            Self::LowAddress => gfn(value & 0xffff_ffff),
        }
    }
}
