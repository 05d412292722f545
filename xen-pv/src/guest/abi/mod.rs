//! Layouts and numbers of the operations on guests, after `xen/include/public` of Xen 4.17.
//!
//! `xen-pv/tests/abi.rs` holds every one of them against Xen's own headers.

pub mod domctl;
pub mod flask;
pub mod hvm;
pub mod memory;
pub mod vm_event;

/// Data without padding that matters, references or invalid bit patterns: it may be built from any bytes.
///
/// # Safety
/// Every bit pattern must be a value of the type.
pub unsafe trait Plain: Copy {}
