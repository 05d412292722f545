//! `domctl.h`: what a toolstack asks about a domain.

use common::DomId;

use crate::sched::{SHUTDOWN_CRASH, SHUTDOWN_SUSPEND};

mod version;

pub use version::{INTERFACE_VERSIONS, NOBODY, version_question};

/// Ends a domain.
pub const DESTROYDOMAIN: u32 = 2;
/// Adds one to a domain's pause count.
pub const PAUSEDOMAIN: u32 = 3;
/// Takes one from it.
pub const UNPAUSEDOMAIN: u32 = 4;
/// Says what a domain is.
pub const GETDOMAININFO: u32 = 5;
/// The dirty log.
pub const SHADOW_OP: u32 = 10;
/// Loads a virtual CPU's registers.
pub const SETVCPUCONTEXT: u32 = 12;
/// Reads them.
pub const GETVCPUCONTEXT: u32 = 13;
/// Gives a domain device memory, or takes it.
pub const IOMEM_PERMISSION: u32 = 20;
/// Ends a shutdown: the domain's virtual CPUs go on.
pub const RESUMEDOMAIN: u32 = 27;
/// Reads an HVM domain's machine state.
pub const GETHVMCONTEXT: u32 = 33;
/// Loads it.
pub const SETHVMCONTEXT: u32 = 34;
/// Sets up and takes down the rings of `vm_event.h`.
pub const VM_EVENT_OP: u32 = 56;
/// Reads how a domain sees the time-stamp counter.
pub const GETTSCINFO: u32 = 59;
/// Sets it.
pub const SETTSCINFO: u32 = 60;
/// Says what stands behind frame numbers.
pub const GETPAGEFRAMEINFO3: u32 = 61;
/// Reads which processor features a domain sees.
pub const GET_CPU_POLICY: u32 = 82;
/// Sets them.
pub const SET_CPU_POLICY: u32 = 83;

/// `struct xen_domctl`, with the structure that its command takes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Domctl<T: Plain = ()> {
    /// In: which operation.
    pub cmd: u32,
    /// In: the hypervisor's, one of [`INTERFACE_VERSIONS`].
    pub interface_version: u32,
    /// In: the domain.
    pub domain: DomId,
    /// Padding.
    pub _pad: [u16; 3],
    /// The operation's own structure.
    pub u: Body<T>,
}

impl<T: Plain> Domctl<T> {
    /// A command as a hypervisor of this version takes it.
    pub fn new(interface_version: u32, cmd: u32, domain: DomId, structure: T) -> Self {
        Self { cmd, interface_version, domain, _pad: [0; 3], u: Body::new(structure) }
    }
}

/// The union at the end of `struct xen_domctl`: always as long, whatever stands at its beginning.
#[derive(Clone, Copy)]
#[repr(C)]
pub union Body<T: Plain> {
    bytes: [u64; 16],
    structure: T,
}

impl<T: Plain> Body<T> {
    /// The structure, and zeros behind it.
    pub fn new(structure: T) -> Self {
        const { assert!(size_of::<Self>() == 128 && align_of::<Self>() == 8) };
        let mut body = Self { bytes: [0; 16] };
        body.structure = structure;
        body
    }

    /// What stands there now.
    pub fn structure(&self) -> T {
        // SAFETY: zeros were written to all bytes, then a `T` without padding: each is initialised. Whatever Xen wrote over them
        // is a `T` too, as any bits are.
        unsafe { self.structure }
    }
}

/// Data that is built from any bytes, and whose own bytes are all initialised.
///
/// # Safety
/// Every bit pattern must be a value of the type, and it must have no padding but fields that are there for it.
pub unsafe trait Plain: Copy {}

/// `struct xen_domctl_getdomaininfo`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct GetDomainInfo {
    /// Out: the domain.
    pub domain: u16,
    /// Padding.
    pub pad1: u16,
    /// Out: `DOMINF_` flags.
    pub flags: u32,
    /// Out: pages it owns.
    pub tot_pages: u64,
    /// Out: most pages it may own.
    pub max_pages: u64,
    /// Out: pages claimed for it.
    pub outstanding_pages: u64,
    /// Out: pages it shares.
    pub shr_pages: u64,
    /// Out: pages evicted.
    pub paged_pages: u64,
    /// Out: the frame of its `shared_info`.
    pub shared_info_frame: u64,
    /// Out: nanoseconds its virtual CPUs have run.
    pub cpu_time: u64,
    /// Out: virtual CPUs online.
    pub nr_online_vcpus: u32,
    /// Out: the highest virtual CPU, or all ones.
    pub max_vcpu_id: u32,
    /// Out: its security identifier.
    pub ssidref: u32,
    /// Out: its UUID.
    pub handle: [u8; 16],
    /// Out: its cpupool.
    pub cpupool: u32,
    /// Out: bits of its physical addresses.
    pub gpaddr_bits: u8,
    /// Padding.
    pub pad2: [u8; 7],
    /// Out: `XEN_X86_EMU_` flags.
    pub emulation_flags: u32,
    /// Out: miscellaneous flags.
    pub misc_flags: u32,
}

impl GetDomainInfo {
    /// The guest stopped, for whatever reason.
    pub fn is_shut_down(&self) -> bool {
        self.flags & DOMINF_SHUTDOWN != 0
    }

    /// The guest stopped because it was asked to suspend.
    pub fn is_suspended(&self) -> bool {
        self.is_shut_down() && (self.flags >> DOMINF_SHUTDOWN_SHIFT) & 0xff == SHUTDOWN_SUSPEND
    }

    /// The guest stopped because it crashed.
    pub fn has_crashed(&self) -> bool {
        self.is_shut_down() && (self.flags >> DOMINF_SHUTDOWN_SHIFT) & 0xff == SHUTDOWN_CRASH
    }

    /// Somebody holds the domain by a pause count; Xen does not say who, nor how many.
    pub fn is_paused(&self) -> bool {
        self.flags & DOMINF_PAUSED != 0
    }

    /// Virtual CPUs the domain was made with.
    pub fn vcpus(&self) -> u32 {
        self.max_vcpu_id.wrapping_add(1)
    }
}

/// The domain is dying.
pub const DOMINF_DYING: u32 = 1 << 0;
/// It is an HVM or PVH domain.
pub const DOMINF_HVM_GUEST: u32 = 1 << 1;
/// It has shut down; the reason is in bits 16 to 23.
pub const DOMINF_SHUTDOWN: u32 = 1 << 2;
/// It is paused by a toolstack's count.
pub const DOMINF_PAUSED: u32 = 1 << 3;
/// It uses hardware-assisted paging.
pub const DOMINF_HAP: u32 = 1 << 8;
/// Where the reason of a shutdown stands in the flags.
pub const DOMINF_SHUTDOWN_SHIFT: u32 = 16;

/// `struct xen_domctl_getpageframeinfo3`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GetPageFrameInfo3 {
    /// In: entries of the array, at most [`PAGE_FRAME_INFOS`].
    pub num: u64,
    /// In: frame numbers. Out: what stands there (`PFINFO_`).
    pub array: *mut u64,
}

/// Most entries of one `getpageframeinfo3`.
pub const PAGE_FRAME_INFOS: usize = 1024;

/// Whether an entry that Xen has filled stands for RAM.
pub fn is_ram(info: u64) -> bool {
    !matches!(info & PFINFO_LTAB_MASK, PFINFO_XTAB | PFINFO_XALLOC | PFINFO_BROKEN)
}
/// Mask of the type in an answer.
pub const PFINFO_LTAB_MASK: u64 = 0xf << 28;
/// Nothing that belongs to the domain's memory.
pub const PFINFO_XTAB: u64 = 0xf << 28;
/// Allocated, no content.
pub const PFINFO_XALLOC: u64 = 0xe << 28;
/// A broken page.
pub const PFINFO_BROKEN: u64 = 0xd << 28;

/// `struct xen_domctl_shadow_op`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ShadowOp {
    /// In: `SHADOW_OP_`.
    pub op: u32,
    /// In: `SHADOW_LOGDIRTY_` flags.
    pub mode: u32,
    /// Unused here.
    pub mb: u32,
    /// Padding.
    pub _pad: u32,
    /// In: where the bitmap goes.
    pub dirty_bitmap: *mut u64,
    /// In: bits of the bitmap. Out: bits written.
    pub pages: u64,
    /// Out: faults since the last clean.
    pub fault_count: u32,
    /// Out: dirty pages since the last clean.
    pub dirty_count: u32,
}

/// Ends the dirty log.
pub const SHADOW_OP_OFF: u32 = 0;
/// Starts the dirty log.
pub const SHADOW_OP_ENABLE_LOGDIRTY: u32 = 2;
/// Reads and clears it.
pub const SHADOW_OP_CLEAN: u32 = 11;
/// Reads it.
pub const SHADOW_OP_PEEK: u32 = 12;
/// The last reading: include what the hypervisor itself has mapped for writing.
pub const SHADOW_LOGDIRTY_FINAL: u32 = 1;

/// `struct xen_domctl_vcpucontext`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VcpuContext {
    /// In: which virtual CPU.
    pub vcpu: u32,
    /// Padding.
    pub _pad: u32,
    /// In or out: its registers.
    pub ctxt: *mut VcpuGuestContext,
}

/// `struct vcpu_guest_context`, of which only `user_regs.rax` has a name here.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct VcpuGuestContext {
    /// Everything up to `rax`.
    pub before_rax: [u8; 600],
    /// `user_regs.rax`: what a guest in a hypercall finds as its result.
    pub rax: u64,
    /// Everything after it.
    pub after_rax: [u8; 4560],
}

/// `struct xen_domctl_hvmcontext`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct HvmContext {
    /// In: bytes of the buffer. Out: bytes needed or written.
    pub size: u32,
    /// Padding.
    pub _pad: u32,
    /// In: the buffer, or null to ask for the size.
    pub buffer: *mut u8,
}

/// `struct xen_domctl_tsc_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TscInfo {
    /// `TSC_MODE_`.
    pub tsc_mode: u32,
    /// The frequency the guest sees.
    pub gtsc_khz: u32,
    /// How often the guest has moved.
    pub incarnation: u32,
    /// Padding.
    pub pad: u32,
    /// Nanoseconds of the guest's own time.
    pub elapsed_nsec: u64,
}

/// `struct xen_domctl_vm_event_op`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct VmEventOp {
    /// In: `VM_EVENT_`.
    pub op: u32,
    /// In: which ring.
    pub mode: u32,
    /// Out, of an enable: the event channel, in the guest.
    pub port: u32,
}

/// Sets the ring up.
pub const VM_EVENT_ENABLE: u32 = 0;
/// Takes it down.
pub const VM_EVENT_DISABLE: u32 = 1;
/// The ring of memory paging.
pub const VM_EVENT_OP_PAGING: u32 = 1;

/// `struct xen_domctl_cpu_policy`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CpuPolicy {
    /// In: room for leaves. Out: leaves.
    pub nr_leaves: u32,
    /// In: room for registers. Out: registers.
    pub nr_msrs: u32,
    /// The leaves.
    pub leaves: *mut CpuidLeaf,
    /// The registers.
    pub msrs: *mut MsrEntry,
    /// Out, of a set: the leaf that was refused.
    pub err_leaf: u32,
    /// And its subleaf.
    pub err_subleaf: u32,
    /// Out, of a set: the register that was refused.
    pub err_msr: u32,
    /// Padding.
    pub _pad: u32,
}

/// `struct xen_cpuid_leaf`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CpuidLeaf {
    /// `eax` of the question.
    pub leaf: u32,
    /// `ecx` of the question, or all ones.
    pub subleaf: u32,
    /// `eax` of the answer.
    pub a: u32,
    /// `ebx` of the answer.
    pub b: u32,
    /// `ecx` of the answer.
    pub c: u32,
    /// `edx` of the answer.
    pub d: u32,
}

/// `struct xen_msr_entry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MsrEntry {
    /// The register.
    pub idx: u32,
    /// Zero.
    pub flags: u32,
    /// Its value.
    pub val: u64,
}

/// `struct xen_domctl_iomem_permission`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct IomemPermission {
    /// In: the first frame.
    pub first_mfn: u64,
    /// In: how many.
    pub nr_mfns: u64,
    /// In: whether the domain may map them from now on.
    pub allow_access: u8,
    /// Padding.
    pub _pad: [u8; 7],
}

// SAFETY: nothing at all.
unsafe impl Plain for () {}
// SAFETY: integers, without gaps between them.
unsafe impl Plain for GetDomainInfo {}
// SAFETY: a number and a raw pointer of eight bytes each.
unsafe impl Plain for GetPageFrameInfo3 {}
// SAFETY: integers and a raw pointer, the gap before it filled by `_pad`.
unsafe impl Plain for ShadowOp {}
// SAFETY: a number and a raw pointer, the gap between them filled by `_pad`.
unsafe impl Plain for VcpuContext {}
// SAFETY: a number and a raw pointer, the gap between them filled by `_pad`.
unsafe impl Plain for HvmContext {}
// SAFETY: four integers of four bytes and one of eight.
unsafe impl Plain for TscInfo {}
// SAFETY: integers, the gap behind them filled by `_pad`.
unsafe impl Plain for IomemPermission {}
// SAFETY: three integers of four bytes.
unsafe impl Plain for VmEventOp {}
// SAFETY: integers and raw pointers, the gap behind them filled by `_pad`.
unsafe impl Plain for CpuPolicy {}
