//! A guest and its memory.

use core::fmt;
use core::num::ParseIntError;
use core::str::FromStr;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// Most pages that one call to a guest's memory names: one bit each in a [`PageMask`](crate::PageMask).
pub const BATCH: usize = 64;

/// The bytes of one page.
pub type Page = [u8; PAGE_SIZE];

/// A guest frame number: the guest's physical address divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Gfn(pub u64);

/// Neighbouring frames: `first .. first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first of them.
    pub first: Gfn,
    /// How many there are.
    pub count: u64,
}

impl Span {
    /// The frames `first .. end`.
    pub fn between(first: Gfn, end: Gfn) -> Self {
        Self { first, count: end.0.saturating_sub(first.0) }
    }

    /// The frame behind the last.
    pub fn end(self) -> Gfn {
        Gfn(self.first.0.saturating_add(self.count))
    }
}

/// The version of a hypervisor, without what distributions add.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct XenVersion {
    /// Its first number.
    pub major: u32,
    /// Its second.
    pub minor: u32,
}

impl fmt::Display for XenVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A domain's number on its host (`domid_t` of Xen's `xen.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct DomId(pub u16);

impl DomId {
    /// The control domain.
    pub const DOM0: DomId = DomId(0);
    /// The calling domain itself (`DOMID_SELF`).
    pub const SELF: DomId = DomId(0x7ff0);
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DomId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

/// What is written to a page.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// These bytes.
    Bytes(&'a Page),
    /// Zeros: the hypervisor does not clear what it allocates.
    Zero,
}

/// Why somebody waits for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The page that is missing. It may be named again before it is filled.
    pub gfn: Gfn,
    /// A virtual CPU of the guest waits. Otherwise a backend does, and polls.
    pub vcpu_waits: bool,
    /// The guest gave the page back; nobody needs its content any more.
    pub dropped: bool,
}

/// Whether an earlier life of the agent still held an arriving guest back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The guest had everything it needs to run, but the source had not been heard to commit: that life's pause count is there,
    /// unless the domain runs, and is taken over.
    Held,
    /// That life had given its pause count back.
    Released,
}

/// Where the toolstack's backends for an arriving guest live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backends {
    /// xenstore's event channel, as allocated in the guest.
    pub store_port: u32,
    /// The domain that serves xenstore.
    pub store_domain: DomId,
    /// The console's event channel, as allocated in the guest.
    pub console_port: u32,
    /// The domain that serves the console.
    pub console_domain: DomId,
}

/// Guest frames of the rings that the toolstack's backends serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// xenstore's ring.
    pub store: Gfn,
    /// The console's ring.
    pub console: Gfn,
}

/// What the hypervisor lets the agent do, found once at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// A guest's pages can be made absent and faults on them served.
    pub paging: bool,
    /// Guests bear labels of a security policy, by which the agent keeps dom0's hands off one that has left. Where they bear none, dom0
    /// lends the agent each guest.
    pub labels: bool,
}
