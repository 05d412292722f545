//! The page that a PCI frontend shares with its backend (`io/pciif.h`).

/// `XEN_PCI_MAGIC`: the version of the protocol.
pub const MAGIC: u32 = 7;

/// Bit of the flags: the operation waits for the backend.
pub const XEN_PCIF_ACTIVE: u32 = 1;

/// Reads configuration space.
pub const XEN_PCI_OP_CONF_READ: u32 = 0;
/// Writes configuration space.
pub const XEN_PCI_OP_CONF_WRITE: u32 = 1;
/// Enables MSI-X for the entries that the operation lists.
pub const XEN_PCI_OP_ENABLE_MSIX: u32 = 4;
/// Disables MSI-X.
pub const XEN_PCI_OP_DISABLE_MSIX: u32 = 5;

/// The operation did what it should.
pub const XEN_PCI_ERR_SUCCESS: i32 = 0;
/// The backend has no such device.
pub const XEN_PCI_ERR_DEV_NOT_FOUND: i32 = -1;
/// It does not let that register be read or written.
pub const XEN_PCI_ERR_ACCESS_DENIED: i32 = -3;

/// `struct xen_pci_op`, without the entries of MSI-X that follow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PciOp {
    /// In: an `XEN_PCI_OP_`.
    pub cmd: u32,
    /// Out: an `XEN_PCI_ERR_`, or a negative error number of the backend's.
    pub err: i32,
    /// In: the device.
    pub domain: u32,
    /// In: the device.
    pub bus: u32,
    /// In: the device.
    pub devfn: u32,
    /// In: the register.
    pub offset: i32,
    /// In: its bytes: 1, 2 or 4.
    pub size: i32,
    /// In and out: what is written or was read; for MSI-X how many entries, and 0.
    pub value: u32,
    /// In: not used.
    pub info: u32,
}

/// `struct xen_msix_entry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MsixEntry {
    /// Out: the physical interrupt as this domain binds it.
    pub vector: u16,
    /// In: the number of the entry in the device's table.
    pub entry: u16,
}

/// The start of `struct xen_pci_sharedinfo`, with the first entry of MSI-X.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SharedInfo {
    /// [`XEN_PCIF_ACTIVE`] and others.
    pub flags: u32,
    /// The operation.
    pub op: PciOp,
    /// The first entry.
    pub msix: MsixEntry,
}
