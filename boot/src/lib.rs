//! What the unikernel images are made of: entry, memory, panic, network, and the agent itself.
//!
//! Each program of this package is an image, linked by `image.ld`: `tsmc-agent` is what hosts run, `tsmc-selftest` tries every part on
//! real Xen. An image names its [`entry_point`] and has all else from here.
#![no_std]

extern crate alloc;

mod bytes;
pub mod cipher;
pub mod console;
pub mod entry;
mod heap;
mod hermit;
mod identity;
mod layout;
pub mod nic;
mod panic;
mod platform;
pub mod serve;
pub mod start;
mod store;
