//! The module: bytes that the toolstack gave the domain beside its kernel (`ramdisk=` in `xl.cfg`).
//!
//! Xen's domain builder maps it between the image and the list of machine frames, where nothing else ever is.

use core::ops::Range;
use core::ptr::NonNull;

use xen_abi::start_info::{SIF_MOD_START_PFN, StartInfo};
use zeroize::Zeroize;

/// Longest module that is looked at.
pub const LIMIT: u64 = 256 << 10;

/// Why what is said about a module cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// It is named by its first frame, for images that ask for that; ours does not.
    #[error("the module (ramdisk=) is not mapped")]
    NotMapped,
    /// It is not between the image and the list of machine frames.
    #[error("the module (ramdisk=) is not where a module can be")]
    Outside,
    /// It is longer than [`LIMIT`].
    #[error("the module (ramdisk=) has more than {LIMIT} bytes")]
    TooLong,
}

/// The module. Its bytes are wiped when it is dropped: it holds keys.
pub struct Module {
    start: NonNull<u8>,
    length: usize,
}

impl Module {
    /// Finds the module, if the domain has one.
    ///
    /// # Safety
    /// `info` must be what Xen passed to this domain, `image_end` where its image ends; once only.
    pub unsafe fn find(info: &StartInfo, image_end: u64) -> Result<Option<Self>, ModuleError> {
        let Some(span) = span(info, image_end)? else { return Ok(None) };
        let start = NonNull::new(span.start as *mut u8).ok_or(ModuleError::Outside)?;
        Ok(Some(Self { start, length: (span.end - span.start) as usize }))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped by the builder, ours alone, and `find` has checked that it overlaps nothing else.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: as in `bytes`; the builder maps it for writing.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }.zeroize();
    }
}

/// Where the module is, as far as that can be true.
pub fn span(info: &StartInfo, image_end: u64) -> Result<Option<Range<u64>>, ModuleError> {
    if info.mod_len == 0 {
        return Ok(None);
    }
    if info.flags & SIF_MOD_START_PFN != 0 {
        return Err(ModuleError::NotMapped);
    }
    if info.mod_len > LIMIT {
        return Err(ModuleError::TooLong);
    }
    let end = info.mod_start.checked_add(info.mod_len).ok_or(ModuleError::Outside)?;
    if info.mod_start < image_end || end > info.mfn_list {
        return Err(ModuleError::Outside);
    }
    Ok(Some(info.mod_start..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE_END: u64 = 0x4010_0000;

    fn info(mod_start: u64, mod_len: u64) -> StartInfo {
        // SAFETY: numbers and arrays of numbers only.
        let info: StartInfo = unsafe { core::mem::zeroed() };
        StartInfo { mod_start, mod_len, mfn_list: 0x4020_0000, ..info }
    }

    #[test]
    fn a_module_lies_between_the_image_and_the_list_of_frames() {
        assert_eq!(span(&info(0, 0), IMAGE_END), Ok(None));
        assert_eq!(span(&info(IMAGE_END, 5000), IMAGE_END), Ok(Some(IMAGE_END..IMAGE_END + 5000)));
        let last = 0x4020_0000 - 5000;
        assert_eq!(span(&info(last, 5000), IMAGE_END), Ok(Some(last..last + 5000)));
    }

    #[test]
    fn a_module_elsewhere_is_refused() {
        for (start, length) in [(IMAGE_END - 1, 2), (0x4020_0000, 1), (0x4020_0000 - 4999, 5000), (0, 1), (u64::MAX, 2)]
        {
            assert_eq!(span(&info(start, length), IMAGE_END), Err(ModuleError::Outside), "{start:#x}");
        }
        assert_eq!(span(&info(IMAGE_END, LIMIT + 1), IMAGE_END), Err(ModuleError::TooLong));
        assert_eq!(span(&info(IMAGE_END, u64::MAX), IMAGE_END), Err(ModuleError::TooLong));
        let unmapped = StartInfo { flags: SIF_MOD_START_PFN, ..info(IMAGE_END, 5000) };
        assert_eq!(span(&unmapped, IMAGE_END), Err(ModuleError::NotMapped));
    }

    #[test]
    fn a_module_is_wiped_when_it_is_dropped() {
        let mut bytes = [7u8; 40];
        let module = Module { start: NonNull::from(&mut bytes).cast(), length: 33 };
        assert_eq!(module.bytes(), [7; 33]);
        drop(module);
        assert_eq!(bytes[..33], [0; 33]);
        assert_eq!(bytes[33..], [7; 7]);
    }
}
