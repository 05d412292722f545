//! Grants: letting another domain read or write one of our frames. Version 1 of the table, mapped whole.

use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering};

use common::DomId;
use spin::Mutex;
use xen_abi::grant_table::{
    ENTRIES_PER_FRAME, GNTST_OKAY, GNTTABOP_SETUP_TABLE, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_WRITING,
    GrantEntryV1, RESERVED_ENTRIES, SetupTable,
};
use xen_abi::{Errno, GrantRef, Mfn};

use crate::hypercall;
use crate::memory::Memory;
use crate::window::Access;

/// Frames of the table: entries for four network queues' worth of buffers.
const TABLE_FRAMES: usize = 4;

struct Table {
    entries: NonNull<GrantEntryV1>,
    free: Vec<u32>,
}

// SAFETY: one thread; the entries are only touched as `Table` does it.
unsafe impl Send for Table {}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

/// Sets the table up; needs the heap.
pub fn init(memory: &mut Memory) -> Result<(), Errno> {
    let mut frames = [0u64; TABLE_FRAMES];
    let mut call = [SetupTable {
        dom: DomId::SELF,
        nr_frames: TABLE_FRAMES as u32,
        status: GNTST_OKAY,
        frame_list: frames.as_mut_ptr(),
    }];
    // SAFETY: the structure of this operation, with room for the frames it asks for.
    unsafe { hypercall::grant_table_op(GNTTABOP_SETUP_TABLE, &mut call)? };
    if call[0].status != GNTST_OKAY {
        return Err(Errno::ENOMEM);
    }
    let entries = memory.window()?.keep(DomId::SELF, &frames, Access::Write)?.cast();
    let count = (TABLE_FRAMES * ENTRIES_PER_FRAME) as u32;
    *TABLE.lock() = Some(Table { entries, free: (RESERVED_ENTRIES..count).rev().collect() });
    Ok(())
}

/// One frame of ours that another domain may use; dropping it ends that.
#[derive(Debug)]
pub struct Grant(GrantRef);

impl Grant {
    /// Lets `domain` use `frame`.
    pub fn new(domain: DomId, frame: Mfn, access: Access) -> Result<Self, Errno> {
        let frame = u32::try_from(frame.0).map_err(|_| Errno::ERANGE)?;
        let mut table = TABLE.lock();
        let table = table.as_mut().ok_or(Errno::ENODEV)?;
        let index = table.free.pop().ok_or(Errno::ENOSPC)?;
        let flags = match access {
            Access::Read => GTF_PERMIT_ACCESS | GTF_READONLY,
            Access::Write => GTF_PERMIT_ACCESS,
        };
        // SAFETY: an entry inside the table that is not in use, so Xen does not look at the rest before `flags` says so.
        unsafe {
            let entry = table.entries.add(index as usize).as_ptr();
            (&raw mut (*entry).domid).write_volatile(domain);
            (&raw mut (*entry).frame).write_volatile(frame);
            table.flags(index).store(flags, Ordering::Release);
        }
        Ok(Self(GrantRef(index)))
    }

    /// A number that means nothing to anybody.
    #[cfg(fuzzing)]
    pub(crate) fn of_nothing(number: u32) -> Self {
        Self(GrantRef(number))
    }

    /// Its number, as the other domain must know it.
    pub fn reference(&self) -> GrantRef {
        self.0
    }
}

impl Drop for Grant {
    /// Ends the grant. If the other side still has the frame mapped, the entry is given up for good: pages for grants are
    /// never used for anything else.
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        let Some(table) = table.as_mut() else { return };
        let flags = table.flags(self.0.0);
        let mut seen = flags.load(Ordering::Acquire);
        while seen & (GTF_READING | GTF_WRITING) == 0 {
            match flags.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    table.free.push(self.0.0);
                    return;
                }
                Err(now) => seen = now,
            }
        }
    }
}

impl Table {
    fn flags(&self, index: u32) -> &'static AtomicU16 {
        // SAFETY: callers pass an index that came from `free`; the table stays mapped; Xen too changes flags atomically.
        unsafe { AtomicU16::from_ptr((&raw mut (*self.entries.add(index as usize).as_ptr()).flags).cast()) }
    }
}
