//! Sizes and addresses of the image in memory, for the entry code and for what starts after it.

/// Bytes of the stack. Deepest is an encrypted handshake inside a poll of the network stack.
pub const STACK: usize = 256 * 1024;

/// Where the domain's frame 0 is mapped; `image.ld` starts there.
pub const VIRT_BASE: u64 = 0x4000_0000;
