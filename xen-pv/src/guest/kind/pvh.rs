//! Guests that run in hardware virtualisation with no device model.

use common::Gfn;
use xen_abi::hvm::*;

use super::Kind;
use super::Names::{Address, LowAddress, Nothing, Page};

/// The only device a PVH guest has in the hypervisor: its local interrupt controllers.
pub(super) const EMULATED: u32 = 1;

/// A PVH guest.
pub static PVH: Kind = Kind {
    // ACPI tables (`libxl_x86_acpi.c`) and special pages (`xg_dom_x86.c`).
    special: 0xfc000..0xff000,
    paging_ring: Gfn(0xfeff8),
    params: &[
        (PARAM_STORE_PFN, Page),
        (PARAM_IOREQ_PFN, Page),
        (PARAM_BUFIOREQ_PFN, Page),
        (PARAM_VIRIDIAN, Nothing),
        (PARAM_IDENT_PT, Address),
        (PARAM_CONSOLE_PFN, Page),
        (PARAM_ACPI_IOPORTS_LOCATION, Nothing),
        (PARAM_PAGING_RING_PFN, Page),
        (PARAM_MONITOR_RING_PFN, Page),
        (PARAM_SHARING_RING_PFN, Page),
        (PARAM_IOREQ_SERVER_PFN, Page),
        (PARAM_NR_IOREQ_SERVER_PAGES, Nothing),
        (PARAM_VM_GENERATION_ID_ADDR, Address),
        (PARAM_X87_FIP_WIDTH, Nothing),
        (PARAM_VM86_TSS_SIZED, LowAddress),
        (PARAM_MCA_CAP, Nothing),
    ],
    needed: &[PARAM_IDENT_PT, PARAM_VM86_TSS_SIZED],
};
