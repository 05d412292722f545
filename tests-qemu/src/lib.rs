//! The testbed: two real Xen hosts in QEMU, and the programs that run inside them.

pub mod exec;
pub mod load;
pub mod meter;
pub mod probe;
pub mod report;
