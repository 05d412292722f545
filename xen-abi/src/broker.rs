//! What an agent without a right of its own on guests asks of a program in dom0 that has it, the broker: hypercalls on the one guest that
//! it is lent, and grants of that guest's pages. Both ends read the same tables here.
//!
//! The agent grants dom0 [`PAGES`] pages in a row, a header and room for data, and leaves an event channel unbound. It writes a request
//! into the pages, counts [`ASKED`] up and notifies; the broker carries it out, leaves the answer in the same place and sets
//! [`ANSWERED`] to the same number. There is one request at a time.
//!
//! A request for a hypercall is its structure, then each of its [`Buffer`]s that Xen reads; the answer is the structure as Xen has left
//! it, then each that Xen writes. All else is numbers of 8 bytes, and so every part is a multiple of 8 bytes long.

use core::mem::offset_of;

use common::DomId;

use crate::domctl::{
    self, CpuPolicy, CpuidLeaf, Domctl, GetPageFrameInfo3, HvmContext, MsrEntry, ShadowOp, VcpuContext,
    VcpuGuestContext,
};
use crate::grant_table::{GNTTABOP_GET_VERSION, GNTTABOP_QUERY_SIZE, GetVersion, QuerySize};
use crate::hvm::{HVMOP_GET_PARAM, HVMOP_SET_PARAM, HvmParam};
use crate::hypercall::{DOMCTL, GRANT_TABLE_OP, HVM_OP, MEMORY_OP};
use crate::memory::{
    MemoryReservation, XENMEM_CLAIM_PAGES, XENMEM_DECREASE_RESERVATION, XENMEM_MAXIMUM_GPFN, XENMEM_POPULATE_PHYSMAP,
};

/// Pages of data.
pub const DATA_PAGES: usize = 128;
/// All pages of a ring: the header comes first.
pub const PAGES: usize = 1 + DATA_PAGES;
/// Bytes of data.
pub const DATA: usize = DATA_PAGES * common::PAGE_SIZE;

/// Header, 4 bytes: the domain that is lent, or [`NOBODY`]. The broker's.
pub const LENT: usize = 0;
/// Header, 4 bytes: how often something was asked. The agent's.
pub const ASKED: usize = 4;
/// Header, 4 bytes: how often it was answered. The broker's.
pub const ANSWERED: usize = 8;
/// Header, 4 bytes: bytes of the request, or of the answer.
pub const LENGTH: usize = 12;
/// Header, 4 bytes: the hypercall's number, or one of those below. The agent's.
pub const OPERATION: usize = 16;
/// Header, 4 bytes: the hypercall's command, or what goes with the operation. The agent's.
pub const COMMAND: usize = 20;
/// Header, 8 bytes: what the hypercall returned, an error if negative. The broker's.
pub const STATUS: usize = 24;
/// Header, 4 bytes: the [`VERSION`] that the agent speaks. The agent's.
pub const SPOKEN: usize = 32;
/// Header: references of the pages of data, 4 bytes each. The agent's.
pub const REFERENCES: usize = 2048;

/// The version of all that is described here.
pub const VERSION: u32 = 2;

/// No domain is lent.
pub const NOBODY: u32 = u32::MAX;

/// Ends the grants that were made before, and lets the agent's domain use other pages of the guest. The command says how: [`WRITABLE`],
/// [`LOGGED`]. In: which of the earlier grants were used, a bit each in the order in which they were asked for ([`USED`] numbers); then
/// frame numbers, [`WINDOW`] at most. Out: as many references; then the frame numbers of the used grants that did not stand the test:
/// what was copied by them may be anything.
pub const LEND: u64 = 0x100;
/// Which pages other domains have mapped for writing, by the guest's grants. Out: frame numbers.
pub const MAPPED: u64 = 0x102;
/// Fills the entries of a new guest's grant table that belong to the toolstack. In: both.
pub const RESERVE: u64 = 0x103;
/// Which frames of a span hold RAM. In: the first, and how many, [`RAM_SPAN`] at most. Out: a bit each.
pub const RAM: u64 = 0x104;

/// Of [`LEND`]: the agent's domain may write.
pub const WRITABLE: u32 = 1;
/// Of [`LEND`]: when these grants end, a page whose next write the dirty log would not record has not stood the test either. Xen protects
/// a page that the guest was given after the log went on only when the log is cleaned: one that is protected at the end, without
/// that in between, has been protected all the time.
pub const LOGGED: u32 = 2;

/// No reference: the guest's table has no more room.
pub const NO_GRANT: u32 = u32::MAX;

/// Most frames that [`RAM`] looks at.
pub const RAM_SPAN: u64 = 4096;

/// Most pages of a guest that are granted at a time: what eight pages of its table hold.
pub const WINDOW: usize = 4096;
/// Numbers that tell which of them were used.
pub const USED: usize = WINDOW / 64;

/// What a structure's address names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Where in the structure the address is.
    pub pointer: usize,
    /// Bytes.
    pub length: usize,
    /// What Xen does with it.
    pub access: Access,
}

/// What Xen does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads it.
    Read,
    /// It writes it.
    Write,
    /// It reads it, and writes it then.
    Both,
}

/// The structure of a hypercall on a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes.
    pub size: usize,
    /// Where in it the domain is named.
    pub domain: usize,
    /// What it points at.
    pub buffers: [Option<Buffer>; 2],
}

impl Layout {
    /// Bytes of a request.
    pub fn request(&self) -> usize {
        self.without(Access::Write)
    }

    /// Bytes of its answer.
    pub fn answer(&self) -> usize {
        self.without(Access::Read)
    }

    fn without(&self, access: Access) -> usize {
        let others = self.buffers.iter().flatten().filter(|buffer| buffer.access != access);
        self.size.next_multiple_of(8) + others.map(|buffer| buffer.length.next_multiple_of(8)).sum::<usize>()
    }
}

/// The layout of a hypercall that the broker makes; nothing for all others, and for what is too long. `word` reads a number of 4 bytes
/// from the structure.
pub fn layout(operation: u64, command: u32, word: impl Fn(usize) -> u32) -> Option<Layout> {
    let layout = match operation {
        DOMCTL => {
            let size = size_of::<Domctl>();
            Layout { size, domain: offset_of!(Domctl, domain), buffers: domctl_buffers(command, word)? }
        }
        MEMORY_OP => {
            let (domain, length) = (offset_of!(MemoryReservation, domid), offset_of!(MemoryReservation, nr_extents));
            let buffers = match command {
                XENMEM_MAXIMUM_GPFN => return Some(Layout { size: size_of::<DomId>(), domain: 0, buffers: NONE }),
                XENMEM_CLAIM_PAGES => NONE,
                XENMEM_POPULATE_PHYSMAP | XENMEM_DECREASE_RESERVATION => {
                    let extents = items(word(length), word(length + 4), 8)?;
                    one(offset_of!(MemoryReservation, extent_start), extents, Access::Read)
                }
                _ => return None,
            };
            Layout { size: size_of::<MemoryReservation>(), domain, buffers }
        }
        HVM_OP if matches!(command, HVMOP_GET_PARAM | HVMOP_SET_PARAM) => {
            Layout { size: size_of::<HvmParam>(), domain: offset_of!(HvmParam, domid), buffers: NONE }
        }
        GRANT_TABLE_OP if command == GNTTABOP_GET_VERSION => {
            Layout { size: size_of::<GetVersion>(), domain: offset_of!(GetVersion, dom), buffers: NONE }
        }
        GRANT_TABLE_OP if command == GNTTABOP_QUERY_SIZE => {
            Layout { size: size_of::<QuerySize>(), domain: offset_of!(QuerySize, dom), buffers: NONE }
        }
        _ => return None,
    };
    (layout.request().max(layout.answer()) <= DATA).then_some(layout)
}

fn domctl_buffers(command: u32, word: impl Fn(usize) -> u32) -> Option<[Option<Buffer>; 2]> {
    let body = offset_of!(Domctl, u);
    let long = |at: usize| [word(body + at), word(body + at + 4)];
    let is_null = |at: usize| long(at) == [0; 2];
    if word(offset_of!(Domctl, cmd)) != command {
        return None;
    }
    Some(match command {
        domctl::DESTROYDOMAIN
        | domctl::PAUSEDOMAIN
        | domctl::UNPAUSEDOMAIN
        | domctl::RESUMEDOMAIN
        | domctl::GETDOMAININFO
        | domctl::GETTSCINFO
        | domctl::SETTSCINFO => NONE,
        domctl::GETPAGEFRAMEINFO3 => {
            let [low, high] = long(offset_of!(GetPageFrameInfo3, num));
            one(body + offset_of!(GetPageFrameInfo3, array), items(low, high, 8)?, Access::Both)
        }
        domctl::SHADOW_OP => {
            let known = [
                domctl::SHADOW_OP_OFF,
                domctl::SHADOW_OP_ENABLE_LOGDIRTY,
                domctl::SHADOW_OP_CLEAN,
                domctl::SHADOW_OP_PEEK,
            ];
            let [low, high] = long(offset_of!(ShadowOp, pages));
            let bytes = items(low, high, 1)?.div_ceil(8);
            let bitmap = one(body + offset_of!(ShadowOp, dirty_bitmap), bytes, Access::Write);
            known.contains(&word(body)).then_some(bitmap)?
        }
        domctl::GETVCPUCONTEXT | domctl::SETVCPUCONTEXT => {
            let access = of(command == domctl::GETVCPUCONTEXT);
            one(body + offset_of!(VcpuContext, ctxt), size_of::<VcpuGuestContext>(), access)
        }
        domctl::GETHVMCONTEXT if is_null(offset_of!(HvmContext, buffer)) => NONE,
        domctl::GETHVMCONTEXT | domctl::SETHVMCONTEXT => {
            let length = items(word(body + offset_of!(HvmContext, size)), 0, 1)?;
            one(body + offset_of!(HvmContext, buffer), length, of(command == domctl::GETHVMCONTEXT))
        }
        domctl::GET_CPU_POLICY | domctl::SET_CPU_POLICY => {
            let count = |at: usize, size: usize| items(word(body + at), 0, size);
            let leaves = count(offset_of!(CpuPolicy, nr_leaves), size_of::<CpuidLeaf>())?;
            let msrs = count(offset_of!(CpuPolicy, nr_msrs), size_of::<MsrEntry>())?;
            let access = of(command == domctl::GET_CPU_POLICY);
            [
                Some(Buffer { pointer: body + offset_of!(CpuPolicy, leaves), length: leaves, access }),
                Some(Buffer { pointer: body + offset_of!(CpuPolicy, msrs), length: msrs, access }),
            ]
        }
        _ => return None,
    })
}

const NONE: [Option<Buffer>; 2] = [None; 2];

fn one(pointer: usize, length: usize, access: Access) -> [Option<Buffer>; 2] {
    [Some(Buffer { pointer, length, access }), None]
}

/// What Xen does with the buffer of a command that asks for something, or sets it.
fn of(asks: bool) -> Access {
    if asks { Access::Write } else { Access::Read }
}

/// Bytes of so many items; nothing if they are more than could be asked for.
fn items(low: u32, high: u32, size: usize) -> Option<usize> {
    let count = usize::try_from(u64::from(high) << 32 | u64::from(low)).ok()?;
    // A bitmap is an eighth of what it counts.
    count.checked_mul(size).filter(|bytes| *bytes <= 8 * DATA)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domctl::Body;

    fn layout_of<T: crate::domctl::Plain>(cmd: u32, structure: T) -> Option<Layout> {
        let domctl = Domctl { cmd, interface_version: 0, domain: DomId(3), _pad: [0; 3], u: Body::new(structure) };
        // SAFETY: a whole domctl, all of whose bytes are initialised, read inside of it.
        layout(DOMCTL, cmd, |at| unsafe { (&raw const domctl).cast::<u8>().add(at).cast::<u32>().read() })
    }

    #[test]
    fn only_what_a_migration_asks_has_a_layout_and_only_as_long_as_the_data() {
        let array = core::ptr::null_mut::<u64>();
        let types = |num| layout_of(domctl::GETPAGEFRAMEINFO3, GetPageFrameInfo3 { num, array });
        assert_eq!(types(1024).map(|layout| layout.buffers), Some(one(24, 8192, Access::Both)));
        assert_eq!([types(1 << 20), types(1 << 61), types(u64::MAX)], [None; 3]);
        let log = |op, pages| {
            let log =
                ShadowOp { op, mode: 0, mb: 0, _pad: 0, dirty_bitmap: array, pages, fault_count: 0, dirty_count: 0 };
            layout_of(domctl::SHADOW_OP, log).and_then(|layout| layout.buffers[0])
        };
        let bitmap = |length| Buffer { pointer: 32, length, access: Access::Write };
        assert_eq!(log(domctl::SHADOW_OP_PEEK, 1 << 20), Some(bitmap(1 << 17)));
        assert_eq!(log(domctl::SHADOW_OP_PEEK, 1 << 23), None);
        assert_eq!(log(99, 64), None);
        let question = HvmContext { size: u32::MAX, _pad: 0, buffer: core::ptr::null_mut() };
        assert_eq!(layout_of(domctl::GETHVMCONTEXT, question).map(|layout| layout.buffers), Some(NONE));
        assert_eq!(layout_of(domctl::SETHVMCONTEXT, question), None);
        assert_eq!(layout_of(domctl::IOMEM_PERMISSION, ()), None);
        assert_eq!(layout(HVM_OP, 99, |_| 0), None);
        assert_eq!(layout(DOMCTL, domctl::PAUSEDOMAIN, |_| domctl::UNPAUSEDOMAIN), None);
    }
}
