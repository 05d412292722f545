//! A backend that answers operations with whatever comes to the fuzzer's mind.

use common::PAGE_SIZE;

use super::operation::{Address, Operation, OperationPage, Width};
use crate::memory::Pages;
use spin::Mutex;

/// Operations by turns, 8 bytes each: what, and what of the page the backend writes to; and an address.
pub fn operations(bytes: &[u8]) {
    static PAGE: Mutex<Option<Pages>> = Mutex::new(None);
    let mut page = PAGE.lock();
    let page = page.get_or_insert_with(|| Pages::leak(1)).start();
    let _ = core::str::from_utf8(bytes).map(Address::parse);
    let Some(address) = Address::parse("0000:00:00.00") else { unreachable!("it is one") };
    // SAFETY: a page of this function's own.
    let mut operations = unsafe { OperationPage::new(page) };
    for step in bytes.as_chunks::<8>().0 {
        let [what, low, high, written @ ..] = step;
        let register = u16::from_le_bytes([*low, *high]);
        let operation = match what % 5 {
            0 => Operation::Read(register, Width::Byte),
            1 => Operation::Read(register, Width::Double),
            2 => Operation::Write(register, Width::Word, register.into()),
            3 => Operation::EnableMsix,
            _ => Operation::DisableMsix,
        };
        operations.begin(address, operation);
        let at = usize::from(register) % 48;
        assert!(at + written.len() <= PAGE_SIZE);
        // SAFETY: inside the page.
        unsafe { page.add(at).copy_from_nonoverlapping(core::ptr::NonNull::from(written).cast(), written.len()) };
        let _ = operations.is_done();
        if let (Operation::Read(_, Width::Byte), Ok(value)) = (operation, operations.answer(operation)) {
            assert!(value <= 0xff);
        }
    }
}
