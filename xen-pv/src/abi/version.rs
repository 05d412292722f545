//! What hypervisor this is (`version.h`, `features.h`).

/// Major in the high, minor in the low 16 bits of the result.
pub const XENVER_VERSION: u32 = 0;
/// The rest of the version, 16 bytes.
pub const XENVER_EXTRAVERSION: u32 = 1;
/// One submap of feature bits, [`FeatureInfo`].
pub const XENVER_GET_FEATURES: u32 = 6;

/// `struct xen_feature_info`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FeatureInfo {
    /// In: which 32 bits.
    pub submap_idx: u32,
    /// Out: the bits.
    pub submap: u32,
}
