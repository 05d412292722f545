//! `memory.h`: a guest's frames.

use common::DomId;

/// Frees frames of a domain.
pub const XENMEM_DECREASE_RESERVATION: u32 = 1;
/// Puts frames behind frame numbers of a domain.
pub const XENMEM_POPULATE_PHYSMAP: u32 = 6;
/// The highest frame number in use.
pub const XENMEM_MAXIMUM_GPFN: u32 = 14;
/// Makes pages absent and present again.
pub const XENMEM_PAGING_OP: u32 = 20;
/// Reserves a quantity of memory for a domain.
pub const XENMEM_CLAIM_PAGES: u32 = 24;
/// Finds the machine frames of a domain's resource.
pub const XENMEM_ACQUIRE_RESOURCE: u32 = 28;

/// `struct xen_memory_reservation`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MemoryReservation {
    /// In: frame numbers, the first of each extent.
    pub extent_start: *mut u64,
    /// In: how many extents.
    pub nr_extents: u64,
    /// In: binary logarithm of the pages in one.
    pub extent_order: u32,
    /// In: `XENMEMF_` flags.
    pub mem_flags: u32,
    /// In: the domain.
    pub domid: DomId,
}

/// `struct xen_mem_paging_op`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MemPagingOp {
    /// In: `PAGING_OP_`.
    pub op: u8,
    /// In: the domain.
    pub domain: DomId,
    /// In: content, only where the page has no frame.
    pub buffer: *const u8,
    /// In: the page.
    pub gfn: u64,
}

/// The page becomes absent for the guest and keeps its frame.
pub const PAGING_OP_NOMINATE: u8 = 0;
/// A page that somebody waits for becomes present.
pub const PAGING_OP_PREP: u8 = 2;

/// `struct xen_mem_acquire_resource`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MemAcquireResource {
    /// In: the domain.
    pub domid: DomId,
    /// In: `RESOURCE_`.
    pub r#type: u16,
    /// In: which one of that type.
    pub id: u32,
    /// In: how many frames.
    pub nr_frames: u32,
    /// Zero.
    pub pad: u32,
    /// In: the first frame.
    pub frame: u64,
    /// Out: machine frames.
    pub frame_list: *mut u64,
}

/// The domain's grant table; with id 0 its shared frames.
pub const RESOURCE_GRANT_TABLE: u16 = 1;
