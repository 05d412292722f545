//! A guest's grant table: the two grants that a toolstack makes for a new guest, xenstore's and the console's ring, and no
//! others; and what backends have mapped.

use alloc::vec::Vec;

use common::{DomId, Gfn};
use xen_abi::grant_table::{
    GNTST_OKAY, GNTTABOP_GET_VERSION, GNTTABOP_QUERY_SIZE, GTF_PERMIT_ACCESS, GTF_WRITING, GetVersion, GrantEntryV1,
    QuerySize,
};
use xen_abi::memory::{MemAcquireResource, RESOURCE_GRANT_TABLE, XENMEM_ACQUIRE_RESOURCE};
use xen_abi::{Errno, Mfn};

use super::call;
use super::error::{Error, Operation, Result};
use super::reach::Reach;
use crate::{broker, hypercall};

/// Who may map which ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reserved {
    pub(super) console: (DomId, Gfn),
    pub(super) store: (DomId, Gfn),
}

/// Fills entries 0 and 1 of the guest's grant table, `GNTTAB_RESERVED_CONSOLE` and `GNTTAB_RESERVED_XENSTORE`, and clears the
/// others: whoever made the domain could have written there grants of memory that was still to come. A table that has
/// grown is refused.
pub(super) fn seed(reach: &Reach, domain: DomId, reserved: Reserved) -> Result {
    let entries = [reserved.console, reserved.store].map(|(domid, gfn)| {
        let frame = u32::try_from(gfn.0).map_err(|_| Operation::GrantTable.error(Errno::ERANGE))?;
        Ok(GrantEntryV1 { flags: GTF_PERMIT_ACCESS, domid, frame })
    });
    let [console, store] = entries;
    let entries = [console?, store?];
    if broker::is_needed() {
        return broker::reserve(domain, entries).map_err(|errno| Operation::GrantTable.error(errno));
    }
    if frames(domain)? != 1 {
        return Err(Error::Refused("the domain's grant table is in use already"));
    }
    reach.write_grants(domain, table_frame(domain, 0)?, entries)
}

/// Adds the pages that other domains have mapped for writing: rings, above all. Xen logs what they write when
/// they unmap it (`unmap_common`, grant_table.c), which may be never.
///
/// Of a table in version 2, which no guest uses by itself, nothing is read: what backends write to its rings after they were
/// copied is lost, as in Xen's own migration, and guests' drivers begin anew.
pub(super) fn find_mapped(reach: &Reach, domain: DomId, mapped: &mut Vec<Gfn>) -> Result {
    if version(domain)? > 1 {
        return Ok(());
    }
    if broker::is_needed() {
        mapped.extend(broker::mapped(domain).map_err(|errno| Operation::GrantTable.error(errno))?);
        return Ok(());
    }
    for index in 0..frames(domain)? {
        let entries = reach.read_grants(domain, table_frame(domain, index)?)?;
        let writing = entries.iter().filter(|entry| entry.flags & GTF_WRITING != 0);
        mapped.extend(writing.map(|entry| Gfn(entry.frame.into())));
    }
    Ok(())
}

/// The frame that holds the part of the guest's grant table with this index, which must be below [`frames`].
fn table_frame(domain: DomId, index: u32) -> Result<Mfn> {
    let mut mfn = 0;
    let mut arg = MemAcquireResource {
        domid: domain,
        r#type: RESOURCE_GRANT_TABLE,
        id: 0,
        nr_frames: 1,
        pad: 0,
        frame: index.into(),
        frame_list: &mut mfn,
    };
    // SAFETY: Xen writes one frame number.
    unsafe { hypercall::memory_op(XENMEM_ACQUIRE_RESOURCE, &mut arg) }
        .map_err(|errno| Operation::GrantTable.error(errno))?;
    Ok(Mfn(mfn))
}

/// The version of the guest's grant table.
pub(super) fn version(domain: DomId) -> Result<u32> {
    let mut question = GetVersion { dom: domain, pad: 0, version: 0 };
    // SAFETY: the structure of this operation; nothing is mapped or unmapped.
    unsafe { call::grant_table_op(GNTTABOP_GET_VERSION, domain, &mut question) }
        .map_err(|errno| Operation::GrantTableSize.error(errno))?;
    Ok(question.version)
}

/// The frames of the guest's grant table.
pub(super) fn frames(domain: DomId) -> Result<u32> {
    size(domain).map(|size| size.nr_frames)
}

/// Fails unless the domain may have a grant table of so many frames. A guest that arrives asks for as many as it had, and can use
/// none of its devices when it does not get them.
pub(super) fn check_room(domain: DomId, frames: u32) -> Result {
    if frames <= size(domain)?.max_nr_frames { Ok(()) } else { Err(Error::Refused(TOO_LONG)) }
}

const TOO_LONG: &str = "the guest's grant table is longer than the target allows: raise gnttab_max_frames= on its Xen's command \
                        line, or max_grant_frames in the guest's configuration";

fn size(domain: DomId) -> Result<QuerySize> {
    let mut size = QuerySize { dom: domain, nr_frames: 0, max_nr_frames: 0, status: GNTST_OKAY };
    // SAFETY: the structure of this operation; nothing is mapped or unmapped.
    unsafe { call::grant_table_op(GNTTABOP_QUERY_SIZE, domain, &mut size) }
        .map_err(|errno| Operation::GrantTableSize.error(errno))?;
    if size.status == GNTST_OKAY { Ok(size) } else { Err(Operation::GrantTableSize.error(Errno::EACCES)) }
}
