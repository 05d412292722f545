//! `hvm/hvm_op.h`, `hvm/params.h`, `hvm/dm_op.h`, `hvm/save.h`: what only translated guests have.

use common::DomId;

/// Sets a parameter.
pub const HVMOP_SET_PARAM: u32 = 0;
/// Reads a parameter.
pub const HVMOP_GET_PARAM: u32 = 1;

/// `struct xen_hvm_param`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct HvmParam {
    /// In: the domain.
    pub domid: DomId,
    /// Padding.
    pub pad: u16,
    /// In: `PARAM_`.
    pub index: u32,
    /// In or out: the value.
    pub value: u64,
}

/// Says how a page is treated.
pub const HVMOP_GET_MEM_TYPE: u32 = 15;

/// `struct xen_hvm_get_mem_type`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct HvmGetMemType {
    /// In: the domain.
    pub domid: DomId,
    /// Out: `MEM_`.
    pub mem_type: u16,
    /// Padding.
    pub pad: [u16; 2],
    /// In: the page.
    pub pfn: u64,
}

/// Frame of the xenstore ring.
pub const PARAM_STORE_PFN: u32 = 1;
/// Event channel of the xenstore ring.
pub const PARAM_STORE_EVTCHN: u32 = 2;
/// Frame of the default device model's requests.
pub const PARAM_IOREQ_PFN: u32 = 5;
/// Frame of its buffered requests.
pub const PARAM_BUFIOREQ_PFN: u32 = 6;
/// Microsoft's enlightenments.
pub const PARAM_VIRIDIAN: u32 = 9;
/// Address of an identity-mapping page table.
pub const PARAM_IDENT_PT: u32 = 12;
/// Frame of the console ring.
pub const PARAM_CONSOLE_PFN: u32 = 17;
/// Event channel of the console ring.
pub const PARAM_CONSOLE_EVTCHN: u32 = 18;
/// Which addresses the power-management ports have.
pub const PARAM_ACPI_IOPORTS_LOCATION: u32 = 19;
/// Frame of the paging ring.
pub const PARAM_PAGING_RING_PFN: u32 = 27;
/// Frame of the monitor ring.
pub const PARAM_MONITOR_RING_PFN: u32 = 28;
/// Frame of the sharing ring.
pub const PARAM_SHARING_RING_PFN: u32 = 29;
/// Frames of secondary device models' requests.
pub const PARAM_IOREQ_SERVER_PFN: u32 = 32;
/// How many of them.
pub const PARAM_NR_IOREQ_SERVER_PAGES: u32 = 33;
/// Address of the VM generation identifier.
pub const PARAM_VM_GENERATION_ID_ADDR: u32 = 34;
/// Width of the saved floating-point instruction pointer.
pub const PARAM_X87_FIP_WIDTH: u32 = 36;
/// Address (low half) and size of a task state segment for real mode.
pub const PARAM_VM86_TSS_SIZED: u32 = 37;
/// Machine-check capabilities.
pub const PARAM_MCA_CAP: u32 = 38;

/// `struct xen_dm_op` with `struct xen_dm_op_set_mem_type` in it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DmOpSetMemType {
    /// In: [`DMOP_SET_MEM_TYPE`].
    pub op: u32,
    /// Padding.
    pub pad: u32,
    /// In: how many pages.
    pub nr: u32,
    /// In: [`MEM_RAM_RW`].
    pub mem_type: u16,
    /// Padding.
    pub pad2: u16,
    /// In: the first page.
    pub first_pfn: u64,
    /// The rest of the union.
    pub rest: u64,
}

/// One buffer of a device model's operation (`struct xen_dm_op_buf`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DmOpBuffer {
    /// Where.
    pub data: *mut u8,
    /// How many bytes.
    pub size: u64,
}

/// Changes how pages are treated.
pub const DMOP_SET_MEM_TYPE: u32 = 12;
/// Ordinary RAM.
pub const MEM_RAM_RW: u16 = 0;
/// RAM that the guest cannot write to as it is.
pub const MEM_RAM_RO: u16 = 1;
/// Nothing.
pub const MEM_MMIO_DM: u16 = 2;

/// Record: the end.
pub const SAVE_END: u16 = 0;
/// Record: `struct hvm_hw_cpu`.
pub const SAVE_CPU: u16 = 2;

/// Where the fields of `struct hvm_hw_cpu` stand that say what a virtual CPU touches first.
pub mod cpu {
    /// Bytes of the record, at least.
    pub const SIZE: usize = 1032;
    /// The first of 16 general registers.
    pub const GENERAL: usize = 512;
    /// Stack pointer.
    pub const RSP: usize = 568;
    /// Instruction pointer.
    pub const RIP: usize = 640;
    /// Control register 0.
    pub const CR0: usize = 656;
    /// Root of the page tables.
    pub const CR3: usize = 672;
    /// Control register 4.
    pub const CR4: usize = 680;
    /// Base of the per-CPU area, in kernel mode.
    pub const GS_BASE: usize = 840;
    /// Base of the task state.
    pub const TR_BASE: usize = 856;
    /// Base of the interrupt descriptors.
    pub const IDTR_BASE: usize = 872;
    /// Base of the segment descriptors.
    pub const GDTR_BASE: usize = 880;
    /// Kernel's GS base while user code runs.
    pub const SHADOW_GS: usize = 944;
    /// System-call entry.
    pub const MSR_LSTAR: usize = 960;
    /// Extended features.
    pub const MSR_EFER: usize = 992;
}
