//! The two grants that a toolstack makes for a new guest: xenstore's and the console's ring.

use super::abi::memory::{MemAcquireResource, RESOURCE_GRANT_TABLE, XENMEM_ACQUIRE_RESOURCE};
use super::error::{Operation, Result};
use super::reach::Reach;
use crate::abi::grant_table::{GTF_PERMIT_ACCESS, GrantEntryV1};
use crate::abi::{DomId, Errno, Gfn};
use crate::hypercall;

/// Who may map which ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reserved {
    pub(super) console: (DomId, Gfn),
    pub(super) store: (DomId, Gfn),
}

/// Fills entries 0 and 1 of the guest's grant table, `GNTTAB_RESERVED_CONSOLE` and `GNTTAB_RESERVED_XENSTORE`.
pub(super) fn seed(reach: &Reach, domain: DomId, reserved: Reserved) -> Result {
    let mut mfn = 0u64;
    let mut arg = MemAcquireResource {
        domid: domain,
        r#type: RESOURCE_GRANT_TABLE,
        id: 0,
        nr_frames: 1,
        pad: 0,
        frame: 0,
        frame_list: &mut mfn,
    };
    // SAFETY: Xen writes one frame number.
    unsafe { hypercall::memory_op(XENMEM_ACQUIRE_RESOURCE, &mut arg) }
        .map_err(|errno| Operation::GrantTable.error(errno))?;
    let entries = [reserved.console, reserved.store].map(|(domid, gfn)| {
        let frame = u32::try_from(gfn.0).map_err(|_| Operation::GrantTable.error(Errno::ERANGE))?;
        Ok(GrantEntryV1 { flags: GTF_PERMIT_ACCESS, domid, frame })
    });
    let [console, store] = entries;
    reach.write_grants(domain, mfn, [console?, store?])
}
