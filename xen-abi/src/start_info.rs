//! What a paravirtual domain finds when it starts (`xen.h`, `arch-x86/xen.h`).

use super::{Mfn, Port};

/// Longest command line, with its end.
pub const MAX_GUEST_CMDLINE: usize = 1024;

/// `struct start_info`, the console as a domU sees it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct StartInfo {
    /// `xen-<version>-<platform>`.
    pub magic: [u8; 32],
    /// Pages of the domain.
    pub nr_pages: u64,
    /// Machine address of [`SharedInfo`].
    pub shared_info: u64,
    /// `SIF_` flags.
    pub flags: u32,
    /// Frame of the xenstore ring.
    pub store_mfn: Mfn,
    /// Its event channel.
    pub store_evtchn: Port,
    /// Frame of the console ring.
    pub console_mfn: Mfn,
    /// Its event channel.
    pub console_evtchn: Port,
    /// Virtual address of the top-level page table.
    pub pt_base: u64,
    /// Page-table frames the builder made.
    pub nr_pt_frames: u64,
    /// Virtual address of the list of machine frames, indexed by pfn.
    pub mfn_list: u64,
    /// Virtual address of the module, if there is one; a frame number with [`SIF_MOD_START_PFN`].
    pub mod_start: u64,
    /// Its length in bytes.
    pub mod_len: u64,
    /// The command line, ended by a zero.
    pub cmd_line: [u8; MAX_GUEST_CMDLINE],
    /// First frame of the list of machine frames.
    pub first_p2m_pfn: u64,
    /// Frames of it.
    pub nr_p2m_frames: u64,
}

/// The domain is the initial control domain.
pub const SIF_INITDOMAIN: u32 = 1 << 1;
/// `mod_start` is a frame number.
pub const SIF_MOD_START_PFN: u32 = 1 << 3;

/// `struct vcpu_time_info`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VcpuTimeInfo {
    /// Odd while Xen writes.
    pub version: u32,
    /// Padding.
    pub pad0: u32,
    /// Cycle counter at `system_time`.
    pub tsc_timestamp: u64,
    /// Nanoseconds since the host started.
    pub system_time: u64,
    /// Nanoseconds per (shifted) cycle, as a 32-bit fraction.
    pub tsc_to_system_mul: u32,
    /// Shift of the cycle count before the multiplication.
    pub tsc_shift: i8,
    /// `XEN_PVCLOCK_` flags.
    pub flags: u8,
    /// Padding.
    pub pad1: [u8; 2],
}

/// `struct vcpu_info` with the architecture's part.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VcpuInfo {
    /// Xen has something to say.
    pub evtchn_upcall_pending: u8,
    /// The domain does not want to be interrupted.
    pub evtchn_upcall_mask: u8,
    /// Words of pending bits that are not zero.
    pub evtchn_pending_sel: u64,
    /// Faulting address of the last page fault.
    pub cr2: u64,
    /// Padding.
    pub pad: u64,
    /// The clock.
    pub time: VcpuTimeInfo,
}

/// `struct shared_info` with the architecture's part.
#[repr(C)]
pub struct SharedInfo {
    /// The first virtual CPUs.
    pub vcpu_info: [VcpuInfo; 32],
    /// One bit for each port that was notified.
    pub evtchn_pending: [u64; 64],
    /// One bit for each port that may not interrupt.
    pub evtchn_mask: [u64; 64],
    /// Odd while Xen writes the wall clock.
    pub wc_version: u32,
    /// Seconds from 1970 to the host's start.
    pub wc_sec: u32,
    /// And nanoseconds.
    pub wc_nsec: u32,
    /// High half of the seconds.
    pub wc_sec_hi: u32,
    /// `arch_shared_info`: highest pfn.
    pub max_pfn: u64,
    /// Frame list for the toolstack.
    pub pfn_to_mfn_frame_list_list: u64,
    /// Why an NMI came.
    pub nmi_reason: u64,
    /// Linear frame list for the toolstack: page table.
    pub p2m_cr3: u64,
    /// Its address.
    pub p2m_vaddr: u64,
    /// Its generation.
    pub p2m_generation: u64,
}

const _: () = {
    assert!(size_of::<VcpuTimeInfo>() == 32);
    assert!(size_of::<VcpuInfo>() == 64);
    assert!(core::mem::offset_of!(SharedInfo, evtchn_pending) == 2048);
    assert!(core::mem::offset_of!(SharedInfo, wc_version) == 3072);
    assert!(core::mem::offset_of!(StartInfo, cmd_line) == 32 + 8 * 12);
};
