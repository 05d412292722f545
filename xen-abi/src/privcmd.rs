//! Hypercalls as any root process of dom0 may make them, through Linux's `privcmd` driver (`include/uapi/xen/privcmd.h`): what no tool
//! of Xen's own does.

extern crate std;

use core::ffi::c_void;
use core::ptr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use common::DomId;
use rustix::io::Result;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

use crate::Mfn;
use crate::domctl::{self, Domctl, IomemPermission};
use crate::flask::{self, OcontextOp, SidContextOp};
use crate::hypercall::{DOMCTL, XSM_OP};

mod guest;
mod mapped;

pub use mapped::{GrantFrames, Notifier, Offers, Shared};

/// Frames of a device's memory, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// The first of them.
    pub first: Mfn,
    /// How many there are.
    pub count: u64,
}

/// The driver, and what the hypervisor behind it speaks.
pub struct Privcmd {
    driver: File,
    /// The version of its domctl interface.
    domctl: u32,
}

/// `struct privcmd_hypercall`.
#[repr(C)]
struct Hypercall {
    op: u64,
    args: [u64; 5],
}

// SAFETY: this is the structure of `IOCTL_PRIVCMD_HYPERCALL`, and it lives as long as the call.
unsafe impl Ioctl for &mut Hypercall {
    type Output = u64;

    const IS_MUTATING: bool = true;

    /// `_IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall))`.
    fn opcode(&self) -> Opcode {
        ((size_of::<Hypercall>() as Opcode) << 16) | (Opcode::from(b'P') << 8)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut::<Hypercall>(self).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<u64> {
        // Errors are not given to this.
        Ok(output as u64)
    }
}

impl Privcmd {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        let driver = OpenOptions::new().read(true).write(true).open("/dev/xen/privcmd")?;
        let mut privcmd = Self { driver, domctl: 0 };
        let is_theirs = |version: &u32| {
            let mut question = domctl::version_question(*version);
            // SAFETY: a whole `struct xen_domctl`, without pointers.
            let answer = unsafe { privcmd.hypercall(DOMCTL, [(&raw mut question) as u64, 0, 0, 0, 0]) };
            answer == Err(rustix::io::Errno::SRCH)
        };
        privcmd.domctl = domctl::INTERFACE_VERSIONS.clone().find(is_theirs).ok_or_else(|| {
            io::Error::other("the version of this hypervisor's domctl interface is none of Xen 4.17 to 4.22")
        })?;
        Ok(privcmd)
    }

    /// A hypercall; its result. Xen's numbers of errors are Linux's.
    ///
    /// # Safety
    /// Addresses among the arguments must point to what the hypercall reads and writes there.
    pub unsafe fn hypercall(&self, op: u64, args: [u64; 5]) -> Result<u64> {
        // SAFETY: the structure of this ioctl; its pointers are the caller's promise.
        unsafe { ioctl(&self.driver, &mut Hypercall { op, args }) }
    }

    /// Lets a domain map so many frames of device memory, or no longer. What it has mapped stays mapped. The caller's own domain must
    /// be allowed to map all of them.
    pub fn permit_iomem(&self, domain: DomId, frames: Frames, allow: bool) -> Result<()> {
        let Frames { first, count } = frames;
        let permission =
            IomemPermission { first_mfn: first.0, nr_mfns: count, allow_access: allow.into(), ..Default::default() };
        let mut op = Domctl::new(self.domctl, domctl::IOMEM_PERMISSION, domain, permission);
        // SAFETY: a whole `struct xen_domctl`, without pointers for this command.
        unsafe { self.hypercall(DOMCTL, [(&raw mut op) as u64, 0, 0, 0, 0]) }.map(drop)
    }

    /// The number of a label.
    pub fn sid(&self, label: &str) -> Result<u32> {
        let mut op = SidContextOp {
            cmd: flask::CONTEXT_TO_SID,
            interface_version: flask::INTERFACE_VERSION,
            sid: 0,
            size: label.len() as u32,
            context: label.as_ptr().cast_mut(),
            rest: [0; 2],
        };
        // SAFETY: a whole `struct xen_flask_op`; Xen reads the text, as many bytes as it is told, and writes none.
        unsafe { self.hypercall(XSM_OP, [(&raw mut op) as u64, 0, 0, 0, 0]) }?;
        Ok(op.sid)
    }

    /// Gives a PCI device (segment, bus, device and function, as Xen writes them in one number) a label. It must not have another.
    pub fn label_device(&self, device: u32, sid: u32) -> Result<()> {
        let mut op = OcontextOp {
            cmd: flask::ADD_OCONTEXT,
            interface_version: flask::INTERFACE_VERSION,
            ocon: flask::OCON_DEVICE,
            sid,
            low: device.into(),
            high: device.into(),
            rest: 0,
        };
        // SAFETY: a whole `struct xen_flask_op`, without pointers for this command.
        unsafe { self.hypercall(XSM_OP, [(&raw mut op) as u64, 0, 0, 0, 0]) }.map(drop)
    }
}

impl AsFd for Privcmd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.driver.as_fd()
    }
}
