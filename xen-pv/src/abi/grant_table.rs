//! Grant tables, version 1 (`grant_table.h`).

use super::{DomId, GrantRef};

/// Maps a foreign grant.
pub const GNTTABOP_MAP_GRANT_REF: u32 = 0;
/// Unmaps one.
pub const GNTTABOP_UNMAP_GRANT_REF: u32 = 1;
/// Makes the domain's table at least so many frames long and says where they are.
pub const GNTTABOP_SETUP_TABLE: u32 = 2;
/// Says how long the table is and may become.
pub const GNTTABOP_QUERY_SIZE: u32 = 6;

/// One entry of the shared table (`struct grant_entry_v1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GrantEntryV1 {
    /// `GTF_` flags.
    pub flags: u16,
    /// Who may use the frame.
    pub domid: DomId,
    /// The frame: a machine frame for a paravirtual domain, a gfn for a translated one.
    pub frame: u32,
}

/// Entries in one frame of the table.
pub const ENTRIES_PER_FRAME: usize = 512;
/// The first entries belong to the toolstack (console, xenstore).
pub const RESERVED_ENTRIES: u32 = 8;

/// The entry lets `domid` map or copy the frame.
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// Only for reading.
pub const GTF_READONLY: u16 = 1 << 2;
/// The other side has it mapped for reading.
pub const GTF_READING: u16 = 1 << 3;
/// The other side has it mapped for writing.
pub const GTF_WRITING: u16 = 1 << 4;

/// `struct gnttab_setup_table`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SetupTable {
    /// In: whose table.
    pub dom: DomId,
    /// In: how many frames.
    pub nr_frames: u32,
    /// Out: a `GNTST_` status.
    pub status: i16,
    /// Out: the frames go here, one `u64` each.
    pub frame_list: *mut u64,
}

/// `struct gnttab_query_size`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct QuerySize {
    /// In: whose table.
    pub dom: DomId,
    /// Out: frames in use.
    pub nr_frames: u32,
    /// Out: most frames.
    pub max_nr_frames: u32,
    /// Out: a `GNTST_` status.
    pub status: i16,
}

/// `struct gnttab_map_grant_ref`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MapGrantRef {
    /// In: where, a virtual address, or a machine address of an entry with [`GNTMAP_CONTAINS_PTE`].
    pub host_addr: u64,
    /// In: `GNTMAP_` flags.
    pub flags: u32,
    /// In: the grant.
    pub gref: GrantRef,
    /// In: whose grant.
    pub dom: DomId,
    /// Out: a `GNTST_` status.
    pub status: i16,
    /// Out: names the mapping when it is undone.
    pub handle: u32,
    /// Out: unused here.
    pub dev_bus_addr: u64,
}

/// `struct gnttab_unmap_grant_ref`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct UnmapGrantRef {
    /// In: as when it was mapped.
    pub host_addr: u64,
    /// In: unused here, 0.
    pub dev_bus_addr: u64,
    /// In: what mapping it returned.
    pub handle: u32,
    /// Out: a `GNTST_` status.
    pub status: i16,
}

/// Map for the processor.
pub const GNTMAP_HOST_MAP: u32 = 1 << 1;
/// Map for reading only.
pub const GNTMAP_READONLY: u32 = 1 << 2;
/// `host_addr` is the machine address of the page-table entry.
pub const GNTMAP_CONTAINS_PTE: u32 = 1 << 4;

/// It worked.
pub const GNTST_OKAY: i16 = 0;
/// Try again: the page is paged out.
pub const GNTST_EAGAIN: i16 = -12;
