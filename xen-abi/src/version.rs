//! What hypervisor this is (`version.h`).

/// Major in the high, minor in the low 16 bits of the result.
pub const XENVER_VERSION: u32 = 0;
/// The rest of the version, 16 bytes.
pub const XENVER_EXTRAVERSION: u32 = 1;
