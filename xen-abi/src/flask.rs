//! `xsm/flask_op.h`: labels of domains, and what the policy allows.

/// `XEN_FLASK_INTERFACE_VERSION`.
pub const INTERFACE_VERSION: u32 = 1;
/// Asks whether the policy is enforced: the call's result, 0 if it is not.
pub const GETENFORCE: u32 = 2;
/// Turns a label's text into its number.
pub const CONTEXT_TO_SID: u32 = 4;
/// Turns a label's number into its text.
pub const SID_TO_CONTEXT: u32 = 5;
/// Asks what one label may do to another.
pub const ACCESS: u32 = 6;
/// Gives a resource a label.
pub const ADD_OCONTEXT: u32 = 21;
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

/// Kinds of resources (`OCON_` in `xsm/flask/ss/policydb.h`): a PCI device.
pub const OCON_DEVICE: u32 = 4;

/// `struct xen_flask_op` with `struct xen_flask_ocontext` in it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct OcontextOp {
    /// In: [`ADD_OCONTEXT`].
    pub cmd: u32,
    /// In: [`INTERFACE_VERSION`].
    pub interface_version: u32,
    /// In: the kind, `OCON_`.
    pub ocon: u32,
    /// In: the label's number.
    pub sid: u32,
    /// In: the first of them.
    pub low: u64,
    /// In: the last.
    pub high: u64,
    /// The rest of the union.
    pub rest: u64,
}

/// The class `domain` (`xsm/flask/policy/security_classes`: counted from 1), and permissions of it (`access_vectors`: one bit each,
/// in their order there).
pub const CLASS_DOMAIN: u32 = 3;
/// Taking from a domain's pause count.
pub const DOMAIN_UNPAUSE: u32 = 1 << 2;
/// Ending a domain's shutdown.
pub const DOMAIN_RESUME: u32 = 1 << 3;
/// Destroying a domain.
pub const DOMAIN_DESTROY: u32 = 1 << 7;

/// The class `mmu`.
pub const CLASS_MMU: u32 = 6;
/// Mapping a domain's pages to read them.
pub const MMU_MAP_READ: u32 = 1;

/// `struct xen_flask_op` with `struct xen_flask_access` in it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AccessOp {
    /// In: [`ACCESS`], or [`GETENFORCE`], which takes nothing else.
    pub cmd: u32,
    /// In: [`INTERFACE_VERSION`].
    pub interface_version: u32,
    /// In: who.
    pub ssid: u32,
    /// In: to whom.
    pub tsid: u32,
    /// In: the class.
    pub tclass: u32,
    /// In: permissions.
    pub req: u32,
    /// Out: those, perhaps among others, that the policy allows.
    pub allowed: u32,
    /// Out: what is logged when it is allowed.
    pub audit_allow: u32,
    /// Out: what is logged when it is refused.
    pub audit_deny: u32,
    /// Out: which policy this is.
    pub seqno: u32,
}

impl AccessOp {
    /// A question with nothing in it yet.
    pub const fn new(cmd: u32) -> Self {
        Self {
            cmd,
            interface_version: INTERFACE_VERSION,
            ssid: 0,
            tsid: 0,
            tclass: 0,
            req: 0,
            allowed: 0,
            audit_allow: 0,
            audit_deny: 0,
            seqno: 0,
        }
    }
}
