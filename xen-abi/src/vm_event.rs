//! `vm_event.h`: requests of the hypervisor to a pager, and the responses.

use common::PAGE_SIZE;

use crate::ring::RingHeader;

/// `VM_EVENT_INTERFACE_VERSION`; a response with another one is dropped.
pub const INTERFACE_VERSION: u32 = 7;
/// The virtual CPU waits for the response. A response with it lets it go on.
pub const FLAG_VCPU_PAUSED: u32 = 1 << 0;
/// Somebody else than the guest touched the page.
pub const FLAG_FOREIGN: u32 = 1 << 1;
/// It is about paging.
pub const REASON_MEM_PAGING: u32 = 3;
/// The guest gave the page back.
pub const MEM_PAGING_DROP_PAGE: u32 = 1 << 0;

/// `struct vm_event_st`: request and response are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct VmEvent {
    /// [`INTERFACE_VERSION`].
    pub version: u32,
    /// `FLAG_`.
    pub flags: u32,
    /// `REASON_`.
    pub reason: u32,
    /// Which virtual CPU touched the page.
    pub vcpu_id: u32,
    /// Which second-level table.
    pub altp2m_idx: u16,
    /// Padding.
    pub _pad: [u16; 3],
    /// What it is about, for paging.
    pub mem_paging: MemPaging,
    /// The rest of the union.
    pub rest_of_u: [u64; 2],
    /// Registers: unused by paging.
    pub data: [u64; 43],
}

/// `struct vm_event_paging`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemPaging {
    /// The page.
    pub gfn: u64,
    /// Its type before.
    pub p2mt: u32,
    /// `MEM_PAGING_`.
    pub flags: u32,
}

/// Slots of the ring: what a page holds, rounded down to a power of two.
pub const SLOTS: u32 = 8;

const _: () = {
    assert!(size_of::<VmEvent>() == 400);
    assert!(SLOTS == 1 << ((PAGE_SIZE - size_of::<RingHeader>()) / size_of::<VmEvent>()).ilog2());
};
