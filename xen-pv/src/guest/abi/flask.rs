//! `xsm/flask_op.h`: labels of domains.

/// `XEN_FLASK_INTERFACE_VERSION`.
pub const INTERFACE_VERSION: u32 = 1;
/// Turns a label's text into its number.
pub const CONTEXT_TO_SID: u32 = 4;
/// Turns a label's number into its text.
pub const SID_TO_CONTEXT: u32 = 5;
/// Gives a domain another label.
pub const RELABEL_DOMAIN: u32 = 24;

/// `struct xen_flask_op` with `struct xen_flask_sid_context` in it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SidContextOp {
    /// In: [`CONTEXT_TO_SID`] or [`SID_TO_CONTEXT`].
    pub cmd: u32,
    /// In: [`INTERFACE_VERSION`].
    pub interface_version: u32,
    /// In or out: the number.
    pub sid: u32,
    /// In: bytes of the text, or room for it. Out: bytes of the text, with a terminating zero.
    pub size: u32,
    /// In or out: the text.
    pub context: *mut u8,
    /// The rest of the union.
    pub rest: [u64; 2],
}

/// `struct xen_flask_op` with `struct xen_flask_relabel` in it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RelabelOp {
    /// In: [`RELABEL_DOMAIN`].
    pub cmd: u32,
    /// In: [`INTERFACE_VERSION`].
    pub interface_version: u32,
    /// In: the domain.
    pub domid: u32,
    /// In: the label's number.
    pub sid: u32,
    /// The rest of the union.
    pub rest: [u64; 3],
}
