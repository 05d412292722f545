//! The page that Xen shares with the domain: pending events and the clock.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64};

use common::DomId;
use spin::Once;
use xen_abi::start_info::{SharedInfo, StartInfo, VcpuInfo};
use xen_abi::{Errno, PAGE_SHIFT};

use crate::memory::Memory;
use crate::window::Access;

/// The parts of `struct shared_info` in use, as Xen changes them: under our feet.
#[repr(C)]
pub(crate) struct Shared {
    vcpu_info: UnsafeCell<[VcpuInfo; 32]>,
    pub(crate) evtchn_pending: [AtomicU64; 64],
    evtchn_mask: [AtomicU64; 64],
    pub(crate) wc_version: AtomicU32,
    pub(crate) wc_sec: AtomicU32,
    pub(crate) wc_nsec: AtomicU32,
    pub(crate) wc_sec_hi: AtomicU32,
}

const _: () = {
    assert!(core::mem::offset_of!(Shared, evtchn_pending) == core::mem::offset_of!(SharedInfo, evtchn_pending));
    assert!(core::mem::offset_of!(Shared, wc_version) == core::mem::offset_of!(SharedInfo, wc_version));
};

struct Page(NonNull<Shared>);

// SAFETY: one thread; Xen's own writes are met with atomics, and with volatile reads through `vcpu`.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

static PAGE: Once<Page> = Once::new();

/// Maps the page.
pub fn init(info: &StartInfo, memory: &mut Memory) -> Result<(), Errno> {
    let page = memory.window()?.keep(DomId::SELF, &[info.shared_info >> PAGE_SHIFT], Access::Write)?;
    PAGE.call_once(|| Page(page.cast()));
    Ok(())
}

pub(crate) fn get() -> Option<&'static Shared> {
    // SAFETY: mapped for ever; all fields are atomics or cells.
    PAGE.get().map(|page| unsafe { page.0.as_ref() })
}

/// Address of the first virtual CPU's part.
pub(crate) fn vcpu() -> Option<*const VcpuInfo> {
    get().map(|shared| shared.vcpu_info.get().cast_const().cast())
}
