//! Everything the hypervisor lets a privileged domain do to a guest that moves.
//!
//! - [`source`]: a guest that leaves: its memory, its dirty log, its machine, the commit.
//! - [`target`]: a guest that arrives: built, filled, armed, and served while it runs.
//! - [`reach`]: mapping guests' memory. [`pager`]: the ring on which the hypervisor asks for absent pages.
//! - [`domctl`], [`memory`], [`machine`], [`dirty_log`], [`label`]: one kind of hypercall each.
//! - [`kind`]: what the kinds of guests have, and which of their pages may not wait.
//! - [`policy`]: whether the security policy holds what the commit relies on.
//! - [`machine_config`]: what one end tells the other before memory moves, as bytes. [`walk`]: which pages should not wait.
//!
//! A guest is hostile, and so is the other end: what they wrote is checked where it is read.

mod absent;
mod call;
pub mod cpu_policy;
pub mod dirty_log;
pub mod domctl;
pub mod error;
pub mod features;
mod grants;
pub mod kind;
pub mod label;
pub mod machine;
pub mod machine_config;
pub mod memory;
pub mod pager;
mod paging_ring;
pub mod policy;
mod ram;
pub mod reach;
pub mod source;
mod sparse_set;
pub mod target;
pub mod walk;

pub use error::{Error, Operation, Result};
