//! Xen's public interface as data: layouts and numbers, after `xen/include/public` of Xen 4.17. Nothing here calls anything, but
//! for `privcmd`, which is there for programs in dom0 that ask for it (a feature).
//!
//! The modules are called after the headers; [`hypercall`] has the calls' own numbers, and [`xenstore`] the messages that
//! xenstored takes and gives. `tests/abi.rs` holds every layout and number against Xen's own headers.
#![no_std]
extern crate alloc;

use core::fmt;

pub mod broker;
pub mod domctl;
pub mod event_channel;
pub mod flask;
pub mod grant_table;
pub mod hvm;
pub mod hypercall;
pub mod memory;
pub mod mmu;
pub mod netif;
pub mod pciif;
#[cfg(feature = "privcmd")]
pub mod privcmd;
pub mod ring;
pub mod sched;
pub mod start_info;
pub mod version;
pub mod vm_event;
pub mod xenstore;

/// Binary logarithm of [`common::PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// An event channel of this domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Port(pub u32);

/// An entry of a grant table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct GrantRef(pub u32);

/// A machine frame number: a frame of the host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Mfn(pub u64);

/// A frame number of this domain's own, contiguous numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pfn(pub u64);

/// Why a hypercall failed: Xen's error number, positive (`errno.h`).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Errno(pub u16);

macro_rules! errnos {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Errno = Errno($value);)*

            /// The name in Xen's header and what it means.
            fn describe(self) -> Option<(&'static str, &'static str)> {
                match self.0 {
                    $($value => Some((stringify!($name), $text)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such entry";
    ESRCH = 3, "no such domain";
    EINTR = 4, "interrupted";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such address";
    E2BIG = 7, "argument list too long";
    EAGAIN = 11, "try again";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address";
    EBUSY = 16, "busy";
    EEXIST = 17, "exists already";
    EXDEV = 18, "cross-device link";
    ENODEV = 19, "no such device";
    EINVAL = 22, "invalid argument";
    ENOSPC = 28, "no space left";
    EROFS = 30, "read-only";
    ERANGE = 34, "out of range";
    ENOSYS = 38, "not implemented";
    ENODATA = 61, "no data";
    ETIME = 62, "timer expired";
    EOVERFLOW = 75, "value too large";
    EILSEQ = 84, "illegal byte sequence";
    ERESTART = 85, "should be restarted";
    EMSGSIZE = 90, "message too large";
    EOPNOTSUPP = 95, "not supported";
    EADDRINUSE = 98, "address in use";
    ENOBUFS = 105, "no buffer space";
    ETIMEDOUT = 110, "timed out";
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.describe() {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.describe() {
            Some((_, text)) => f.write_str(text),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl core::error::Error for Errno {}
