//! The page through which the backend is asked to do something with the device (`io/pciif.h`): one operation at a time.
//!
//! The backend may write to the page whenever it likes. What it answers is copied once and looked at in the copy.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use common::PAGE_SIZE;
use xen_abi::pciif::{
    MsixEntry, PciOp, SharedInfo, XEN_PCI_ERR_ACCESS_DENIED, XEN_PCI_ERR_DEV_NOT_FOUND, XEN_PCI_ERR_SUCCESS,
    XEN_PCI_OP_CONF_READ, XEN_PCI_OP_CONF_WRITE, XEN_PCI_OP_DISABLE_MSIX, XEN_PCI_OP_ENABLE_MSIX, XEN_PCIF_ACTIVE,
};

/// Where a device is, as the backend numbers them for this domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    domain: u32,
    bus: u32,
    devfn: u32,
}

impl Address {
    /// Reads `0000:00:00.00`: domain, bus, slot and function, hexadecimal.
    pub fn parse(text: &str) -> Option<Self> {
        let (place, function) = text.trim().rsplit_once('.')?;
        let mut parts = place.splitn(3, ':').map(|part| u32::from_str_radix(part, 16));
        let (domain, bus, slot) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
        let function = u32::from_str_radix(function, 16).ok()?;
        let fits = domain <= 0xffff && bus <= 0xff && slot <= 0x1f && function <= 7;
        fits.then_some(Self { domain, bus, devfn: slot << 3 | function })
    }
}

/// A register of configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Word,
    /// 4 bytes.
    Double,
}

impl Width {
    fn bytes(self) -> i32 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Double => 4,
        }
    }

    fn mask(self) -> u32 {
        match self {
            Self::Byte => 0xff,
            Self::Word => 0xffff,
            Self::Double => u32::MAX,
        }
    }
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads a register.
    Read(u16, Width),
    /// Writes a register.
    Write(u16, Width, u32),
    /// Enables MSI-X for entry 0.
    EnableMsix,
    /// Disables MSI-X.
    DisableMsix,
}

/// Why an operation did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The backend has no such device, any more.
    #[error("the backend does not have the device any more")]
    NoDevice,
    /// It does not let us.
    #[error("the backend does not allow it")]
    Denied,
    /// It says something else: its own number.
    #[error("the backend gives error {0}")]
    Other(i32),
    /// The device has not enough interrupts; how many are there.
    #[error("the device has {0} MSI-X interrupts to give")]
    Interrupts(u32),
    /// It answered in time, with what cannot be.
    #[error("the backend's answer makes no sense")]
    Nonsense,
    /// It did not answer in time.
    #[error("the backend does not answer")]
    Silent,
}

/// The shared page.
#[derive(Debug)]
pub struct OperationPage(NonNull<SharedInfo>);

impl OperationPage {
    /// Clears a page for operations.
    ///
    /// # Safety
    /// The page must be ours for ever, and only this may use it.
    pub unsafe fn new(page: NonNull<u8>) -> Self {
        // SAFETY: the caller's promise.
        unsafe { page.write_bytes(0, PAGE_SIZE) };
        Self(page.cast())
    }

    /// Writes an operation down and hands it to the backend, which is still to be notified.
    pub fn begin(&mut self, address: Address, operation: Operation) {
        let Address { domain, bus, devfn } = address;
        let op = PciOp { domain, bus, devfn, ..PciOp::default() };
        let (cmd, offset, width, value) = match operation {
            Operation::Read(offset, width) => (XEN_PCI_OP_CONF_READ, offset, width.bytes(), 0),
            Operation::Write(offset, width, value) => (XEN_PCI_OP_CONF_WRITE, offset, width.bytes(), value),
            Operation::EnableMsix => (XEN_PCI_OP_ENABLE_MSIX, 0, 0, 1),
            Operation::DisableMsix => (XEN_PCI_OP_DISABLE_MSIX, 0, 0, 0),
        };
        let op = PciOp { cmd, offset: offset.into(), size: width, value, ..op };
        let page = self.0.as_ptr();
        // SAFETY: inside the page, which the backend does not look at before the flag is set.
        unsafe {
            (&raw mut (*page).op).write_volatile(op);
            (&raw mut (*page).msix).write_volatile(MsixEntry { vector: u16::MAX, entry: 0 });
        }
        self.flags().fetch_or(XEN_PCIF_ACTIVE, Ordering::SeqCst);
    }

    /// Whether the backend is done.
    pub fn is_done(&self) -> bool {
        self.flags().load(Ordering::Acquire) & XEN_PCIF_ACTIVE == 0
    }

    /// What came of an operation that is done: what was read, the interrupt, or 0.
    pub fn answer(&self, operation: Operation) -> Result<u32, Failure> {
        // SAFETY: inside the page; any bytes make a value, and the copy cannot change any more.
        let SharedInfo { op, msix, .. } = unsafe { self.0.as_ptr().read_volatile() };
        match op.err {
            XEN_PCI_ERR_SUCCESS => {}
            XEN_PCI_ERR_DEV_NOT_FOUND => return Err(Failure::NoDevice),
            XEN_PCI_ERR_ACCESS_DENIED => return Err(Failure::Denied),
            error => return Err(Failure::Other(error)),
        }
        match operation {
            Operation::Read(_, width) => Ok(op.value & width.mask()),
            Operation::Write(..) | Operation::DisableMsix => Ok(0),
            Operation::EnableMsix if op.value != 0 => Err(Failure::Interrupts(op.value)),
            Operation::EnableMsix if matches!(msix.vector, 0 | u16::MAX) => Err(Failure::Nonsense),
            Operation::EnableMsix => Ok(msix.vector.into()),
        }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: inside the page, which lives as long as this; the backend too changes the flags atomically.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.0.as_ptr()).flags) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Pages;

    fn address() -> Address {
        Address::parse("0000:00:1f.07").unwrap()
    }

    /// A page on which `answer` does what the backend does with an operation.
    fn asked(operation: Operation, answer: impl FnOnce(&mut SharedInfo)) -> Result<u32, Failure> {
        let page = Pages::leak(1).start();
        // SAFETY: a leaked page.
        let mut operations = unsafe { OperationPage::new(page) };
        operations.begin(address(), operation);
        assert!(!operations.is_done());
        // SAFETY: a leaked page, and one thread.
        let shared = unsafe { page.cast::<SharedInfo>().as_mut() };
        answer(shared);
        shared.flags &= !XEN_PCIF_ACTIVE;
        assert!(operations.is_done());
        operations.answer(operation)
    }

    #[test]
    fn addresses_are_four_hexadecimal_numbers_in_their_bounds() {
        assert_eq!(address(), Address { domain: 0, bus: 0, devfn: 0xff });
        assert_eq!(Address::parse("0001:0a:00.00"), Some(Address { domain: 1, bus: 10, devfn: 0 }));
        for bad in ["", "0000:00:00", "00:00.0", "0000:00:20.0", "0000:00:00.8", "0000:100:00.0", "0000:00:00:00.0"] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_read_says_which_register_and_takes_no_more_bytes_than_it_asked_for() {
        let value = asked(Operation::Read(0x34, Width::Byte), |shared| {
            assert_eq!((shared.op.cmd, shared.op.devfn, shared.op.offset, shared.op.size), (0, 0xff, 0x34, 1));
            shared.op.value = 0xdead_be40;
        });
        assert_eq!(value, Ok(0x40));
        let value = asked(Operation::Read(0, Width::Double), |shared| shared.op.value = 0x1041_1af4);
        assert_eq!(value, Ok(0x1041_1af4));
    }

    #[test]
    fn a_write_carries_its_value() {
        let written = asked(Operation::Write(4, Width::Word, 6), |shared| {
            assert_eq!((shared.op.cmd, shared.op.offset, shared.op.size, shared.op.value), (1, 4, 2, 6));
        });
        assert_eq!(written, Ok(0));
    }

    #[test]
    fn an_interrupt_is_one_only_if_the_backend_gave_one() {
        let enable = |value, vector| {
            asked(Operation::EnableMsix, |shared| {
                assert_eq!((shared.op.cmd, shared.op.value, shared.msix.entry), (4, 1, 0));
                (shared.op.value, shared.msix.vector) = (value, vector);
            })
        };
        assert_eq!(enable(0, 54), Ok(54));
        assert_eq!(enable(0, 0), Err(Failure::Nonsense));
        assert_eq!(enable(0, u16::MAX), Err(Failure::Nonsense), "what we wrote ourselves");
        assert_eq!(enable(2, 54), Err(Failure::Interrupts(2)));
    }

    #[test]
    fn errors_of_the_backend_are_told_apart() {
        let failed = |error| asked(Operation::Read(0, Width::Double), |shared| shared.op.err = error);
        assert_eq!(failed(-1), Err(Failure::NoDevice));
        assert_eq!(failed(-3), Err(Failure::Denied));
        assert_eq!(failed(-28), Err(Failure::Other(-28)));
    }
}
