//! A device's registers: parts of its BARs, mapped uncached. What they say is the device's claim each time they are read.

use alloc::vec::Vec;
use core::ptr::NonNull;

use common::{DomId, PAGE_SIZE};
use xen_abi::{Errno, PAGE_SHIFT};

use super::config::Bar;
use crate::window::{Access, Held, Window};

/// Some registers in a row. Whoever has them must not use them after their mapping is dropped.
#[derive(Debug)]
pub struct Registers {
    start: NonNull<u8>,
    size: usize,
}

impl Registers {
    /// As if memory were registers.
    ///
    /// # Safety
    /// It must be mapped for `size` bytes as long as this is used.
    #[cfg(any(test, fuzzing))]
    pub(in crate::drivers) unsafe fn over(start: NonNull<u8>, size: usize) -> Self {
        Self { start, size }
    }

    /// Reads a register.
    pub fn read<T: Register>(&self, offset: usize) -> T {
        // SAFETY: inside the registers and aligned: `at` looks.
        unsafe { self.at::<T>(offset).read_volatile() }
    }

    /// Writes a register.
    pub fn write<T: Register>(&self, offset: usize, value: T) {
        // SAFETY: inside the registers and aligned: `at` looks.
        unsafe { self.at::<T>(offset).write_volatile(value) }
    }

    fn at<T: Register>(&self, offset: usize) -> *mut T {
        let aligned = (self.start.addr().get() + offset).is_multiple_of(size_of::<T>());
        assert!(aligned && offset <= self.size && size_of::<T>() <= self.size - offset);
        // SAFETY: inside the mapping.
        unsafe { self.start.as_ptr().add(offset).cast() }
    }
}

/// What a register may be read as.
pub trait Register: Copy {}
impl Register for u8 {}
impl Register for u16 {}
impl Register for u32 {}

/// Maps parts of BARs into a window. Xen gives a PV domain the frames of its devices uncached, and no others.
pub fn map(window: Window, parts: &[Bar]) -> Result<(Held, Vec<Registers>), (Window, Errno)> {
    let mut frames = Vec::new();
    let mut places = Vec::new();
    for part in parts {
        let (first, last) = (part.address >> PAGE_SHIFT, (part.address + part.size - 1) >> PAGE_SHIFT);
        places.push(frames.len() * PAGE_SIZE + part.address as usize % PAGE_SIZE);
        // No window takes more, whatever the device says.
        frames.extend((first..=last).take(common::BATCH + 1));
    }
    let held = window.hold_all(DomId::SELF, &frames, Access::Write)?;
    let start = held.address();
    let registers = parts.iter().zip(places).map(|(part, place)| {
        // SAFETY: `place` and `size` bytes behind it are in the frames just mapped.
        Registers { start: unsafe { start.add(place) }, size: part.size as usize }
    });
    let registers = registers.collect();
    Ok((held, registers))
}
