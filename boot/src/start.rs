//! From Xen's entry to a machine that works: memory, heap, console, events, grants, xenstore.

use alloc::string::String;
use core::fmt;

use xen_abi::Errno;
use xen_abi::start_info::StartInfo;
use xen_pv::guest::features::xen_version;
use xen_pv::memory::{Memory, Pages};
use xen_pv::module::{Module, ModuleError};
use xen_pv::xenstore::Xenstore;
use xen_pv::{console, grant, hypercall, shared_info};

use crate::heap;
use crate::layout::{STACK, VIRT_BASE};

/// Pages kept out of the heap: buffers of the network, and the page tables of windows.
const POOL_PAGES: usize = 640;

/// The domain, ready for use.
pub struct Machine {
    /// Addresses for windows; its last pages.
    pub memory: Memory,
    /// The rest of the pool.
    pub pool: Pool,
    /// xenstore; none only in the first control domain.
    pub store: Option<Xenstore>,
    /// What the toolstack gave beside the image: the agent's identity.
    pub module: Result<Option<Module>, ModuleError>,
    /// What the toolstack wrote after `extra=`. What is no UTF-8 makes a word that nobody knows.
    pub command_line: String,
    /// Frames that Xen chose for this domain at this start.
    pub frames: [u64; 3],
}

/// Pages for sharing with other domains.
pub struct Pool(Option<Pages>);

impl Pool {
    /// Takes pages for good.
    pub fn take(&mut self, count: usize) -> Result<Pages, Errno> {
        let rest = self.0.take().ok_or(Errno::ENOMEM)?;
        if count >= rest.count() {
            self.0 = Some(rest);
            return Err(Errno::ENOMEM);
        }
        let (taken, rest) = rest.split(count);
        self.0 = Some(rest);
        Ok(taken)
    }
}

impl Machine {
    /// Sets everything up.
    ///
    /// # Safety
    /// `info` must be what Xen passed to the image's entry; once only.
    pub unsafe fn new(info: &'static StartInfo) -> Result<Self, Errno> {
        // SAFETY: the caller's promise; `image.ld` puts frame 0 at VIRT_BASE.
        let mut memory = unsafe { Memory::new(info, VIRT_BASE)? };
        shared_info::init(info, &mut memory)?;
        console::init(info);
        protect_image(&memory)?;
        let pool = memory.take(POOL_PAGES)?;
        // Windows made later take a page each for their table.
        heap::init(memory.take_all_but(32)?);
        grant::init(&mut memory)?;
        let command_line = info.cmd_line.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(Self {
            memory,
            pool: Pool(Some(pool)),
            store: Xenstore::new(info),
            // SAFETY: the caller's promise.
            module: unsafe { Module::find(info, end_of_image()) },
            command_line: String::from_utf8_lossy(command_line).into_owned(),
            frames: [info.shared_info, info.store_mfn.0, info.console_mfn.0],
        })
    }
}

// Places that `image.ld` names.
unsafe extern "C" {
    static image_start: u8;
    static image_writable: u8;
    static image_end: u8;
    static stack_end: u8;
}

fn end_of_image() -> u64 {
    &raw const image_end as u64
}

/// From here on code and constants are read-only, nothing else can be executed, and a stack that grows too long ends the
/// domain.
fn protect_image(memory: &Memory) -> Result<(), Errno> {
    let (start, writable) = (&raw const image_start as u64, &raw const image_writable as u64);
    let end = end_of_image();
    let guard = &raw const stack_end as u64 - STACK as u64;
    // SAFETY: the linker put code and constants up to `image_writable` and data behind; the lowest page of the stack is not
    // in use yet.
    unsafe {
        memory.protect(start, writable, end)?;
        memory.unmap(guard)
    }
}

/// The hypervisor's version with what its distribution has added, as it prints itself.
pub struct XenRelease;

impl fmt::Display for XenRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut extra = [0u8; 16];
        // SAFETY: the command fills 16 bytes.
        let _ = unsafe { hypercall::xen_version(xen_abi::version::XENVER_EXTRAVERSION, &mut extra) };
        let extra = extra.split(|&byte| byte == 0).next().unwrap_or_default();
        write!(f, "{}{}", xen_version(), core::str::from_utf8(extra).unwrap_or_default())
    }
}
