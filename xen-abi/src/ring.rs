//! Pages that two domains share: rings of requests and responses (`io/ring.h`), and of bytes (`io/console.h`, `io/xs_wire.h`).
//!
//! The other side changes them at any time: every field is an atomic or a cell.

use core::cell::UnsafeCell;
use core::sync::atomic::AtomicU32;

/// The head of a page of requests and responses (`DEFINE_RING_TYPES`); the slots come behind it. Counters run freely and wrap.
#[derive(Debug)]
#[repr(C)]
pub struct RingHeader {
    /// Requests made.
    pub req_prod: AtomicU32,
    /// Notify at this request.
    pub req_event: AtomicU32,
    /// Responses made.
    pub rsp_prod: AtomicU32,
    /// Notify at this response.
    pub rsp_event: AtomicU32,
    /// Private.
    pub pad: [AtomicU32; 12],
}

/// Bytes of the console's ring of what is printed.
pub const CONSOLE_OUTPUT: usize = 2048;
/// Bytes of each of xenstore's rings.
pub const XENSTORE_RING_SIZE: usize = 1024;

/// `struct xencons_interface`: what is typed, and what is printed.
#[derive(Debug)]
#[repr(C)]
pub struct ConsoleInterface {
    /// The ring of what is typed.
    pub input: UnsafeCell<[u8; 1024]>,
    /// The ring of what is printed.
    pub output: UnsafeCell<[u8; CONSOLE_OUTPUT]>,
    /// Typed bytes taken.
    pub in_cons: AtomicU32,
    /// Typed bytes given.
    pub in_prod: AtomicU32,
    /// Printed bytes taken.
    pub out_cons: AtomicU32,
    /// Printed bytes given.
    pub out_prod: AtomicU32,
}

/// `struct xenstore_domain_interface`: a domain's requests, and xenstore's answers. What follows it in the page is not used.
#[derive(Debug)]
#[repr(C)]
pub struct XenstoreInterface {
    /// The ring of requests.
    pub req: UnsafeCell<[u8; XENSTORE_RING_SIZE]>,
    /// The ring of answers and watch events.
    pub rsp: UnsafeCell<[u8; XENSTORE_RING_SIZE]>,
    /// Bytes of requests taken.
    pub req_cons: AtomicU32,
    /// Bytes of requests given.
    pub req_prod: AtomicU32,
    /// Bytes of answers taken.
    pub rsp_cons: AtomicU32,
    /// Bytes of answers given.
    pub rsp_prod: AtomicU32,
}
