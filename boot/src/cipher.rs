//! Which implementation of the cipher this processor's features select. The cipher's crates ask `cpufeatures`, and this asks the same.

use core::fmt;

use aes_gcm::aes;

// As `polyval` does, which computes GHASH.
cpufeatures::new!(carryless, "avx", "pclmulqdq");

/// Is shown as what of AES-256-GCM the processor does by itself.
pub struct Code;

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let aes = if aes::hardware_accelerated() { "AES-NI" } else { "portable AES" };
        let ghash = if carryless::get() { "PCLMULQDQ" } else { "portable GHASH" };
        write!(f, "{aes} and {ghash}")
    }
}
