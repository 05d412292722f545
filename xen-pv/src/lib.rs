//! Xen for a paravirtual guest: the hypervisor's interface as safe Rust, without a kernel in between.
//!
//! - [`hypercall`]: one thin function a hypercall; unsafe, because Xen believes its arguments.
//! - [`memory`], [`window`]: the domain's own pages and page tables; addresses for other domains' pages.
//! - [`event`], [`grant`], [`console`], [`time`], [`entropy`], [`processor`], [`sched`]: what every PV domain has.
//! - [`module`]: what the toolstack gave the domain beside its image.
//! - [`xenstore`]: the name space shared with the toolstack.
//! - [`broker`]: a program in dom0 that makes hypercalls on guests for a domain that may not.
//! - [`drivers`]: the network, by its backend or by a device of this domain's own.
//!
//! Xen's structures and numbers are in `xen-abi`. Unsafe code of the agent lives in this crate and in the entry code of `boot`,
//! nowhere else.
#![no_std]
extern crate alloc;
#[cfg(any(test, fuzzing))]
extern crate std;

pub mod broker;
pub mod console;
pub mod drivers;
pub mod entropy;
pub mod event;
pub mod grant;
pub mod guest;
pub mod hypercall;
pub mod memory;
pub mod module;
pub mod processor;
mod pte;
mod ring;
pub mod sched;
pub mod shared_info;
pub mod time;
pub mod window;
pub mod xenstore;
