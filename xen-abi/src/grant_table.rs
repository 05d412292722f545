//! Grant tables, version 1 (`grant_table.h`).

use common::DomId;

/// Makes the domain's table at least so many frames long and says where they are.
pub const GNTTABOP_SETUP_TABLE: u32 = 2;
/// Copies between frames, by grant or by frame number.
pub const GNTTABOP_COPY: u32 = 5;
/// Says how long a domain's table is.
pub const GNTTABOP_QUERY_SIZE: u32 = 6;
/// Says in which version a domain's entries are.
pub const GNTTABOP_GET_VERSION: u32 = 10;

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

impl GrantEntryV1 {
    /// The entry as the 8 bytes that are exchanged at once.
    pub const fn to_word(self) -> u64 {
        self.flags as u64 | (self.domid.0 as u64) << 16 | (self.frame as u64) << 32
    }

    /// The entry in these 8 bytes.
    pub const fn of_word(word: u64) -> Self {
        Self { flags: word as u16, domid: DomId((word >> 16) as u16), frame: (word >> 32) as u32 }
    }

    /// Whether `domain` may use the frame.
    pub fn is_for(self, domain: DomId) -> bool {
        self.flags & GTF_PERMIT_ACCESS != 0 && self.domid == domain
    }
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

/// One end of a copy (`struct gnttab_copy`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct CopyEnd {
    /// A grant reference, or a frame of the caller's own.
    pub frame: u64,
    /// Whose.
    pub domid: u16,
    /// The first byte in it.
    pub offset: u16,
    /// Padding.
    pub pad: u32,
}

/// `struct gnttab_copy`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct GrantCopy {
    /// In: from where.
    pub source: CopyEnd,
    /// In: to where.
    pub dest: CopyEnd,
    /// In: bytes, within one page at either end.
    pub len: u16,
    /// In: which ends are grants.
    pub flags: u16,
    /// Out: a `GNTST_` status.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

/// The source is a grant.
pub const COPY_SOURCE_GREF: u16 = 1;
/// The destination is a grant.
pub const COPY_DEST_GREF: u16 = 2;

/// `struct gnttab_query_size`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct QuerySize {
    /// In: whose table.
    pub dom: DomId,
    /// Out: its frames.
    pub nr_frames: u32,
    /// Out: the most it may have.
    pub max_nr_frames: u32,
    /// Out: a `GNTST_` status.
    pub status: i16,
}

/// `struct gnttab_get_version`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GetVersion {
    /// In: whose table.
    pub dom: DomId,
    /// Nothing.
    pub pad: u16,
    /// Out: 1 or 2, or 0 for a table that nobody has used yet.
    pub version: u32,
}

/// It worked.
pub const GNTST_OKAY: i16 = 0;
/// The security module forbids it.
pub const GNTST_PERMISSION_DENIED: i16 = -8;
