//! `xsm/flask_op.h`: labels of domains.

/// `XEN_FLASK_INTERFACE_VERSION`.
pub const INTERFACE_VERSION: u32 = 1;
/// Turns a label's text into its number.
pub const CONTEXT_TO_SID: u32 = 4;
/// Gives a domain another label.
pub const RELABEL_DOMAIN: u32 = 24;

/// `struct xen_flask_op` with `struct xen_flask_sid_context` in it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SidContextOp {
    /// In: [`CONTEXT_TO_SID`].
    pub cmd: u32,
    /// In: [`INTERFACE_VERSION`].
    pub interface_version: u32,
    /// Out: the number.
    pub sid: u32,
    /// In: bytes of the text.
    pub size: u32,
    /// In: the text.
    pub context: *const u8,
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
