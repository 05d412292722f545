//! Configuration space: who the device is, where its registers are, which capabilities it lists. All of it is what the device
//! and the backend claim: walks are bounded, and whoever uses an answer holds it against another.

use alloc::vec::Vec;

use super::operation::{Failure, Width};

/// Reads and writes registers of the device.
pub trait Config {
    /// Reads a register.
    fn read(&mut self, offset: u16, width: Width) -> Result<u32, Failure>;

    /// Writes a register.
    fn write(&mut self, offset: u16, width: Width, value: u32) -> Result<(), Failure>;
}

const COMMAND: u16 = 4;
/// The device answers at its BARs.
const COMMAND_MEMORY: u32 = 1 << 1;
/// It may read and write memory by itself.
const COMMAND_MASTER: u32 = 1 << 2;
const STATUS: u16 = 6;
const STATUS_CAPABILITIES: u32 = 1 << 4;
const BAR0: u16 = 0x10;
const BARS: u8 = 6;
const BAR_IO: u32 = 1;
const BAR_64: u32 = 4;
const BAR_TYPE: u32 = 7;
const BAR_FLAGS: u32 = 15;
const CAPABILITIES: u16 = 0x34;

/// Where the header ends and capabilities begin.
const HEADER: u32 = 0x40;
/// Capabilities are aligned to 4 bytes, so that there cannot be more.
const MOST_CAPABILITIES: usize = (256 - HEADER as usize) / 4;

/// Capability of a vendor's own.
pub const CAPABILITY_VENDOR: u8 = 9;

/// A vendor's number and the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who made it.
    pub vendor: u16,
    /// What it is.
    pub device: u16,
}

/// Who the device is.
pub fn identity(config: &mut impl Config) -> Result<Identity, Failure> {
    let both = config.read(0, Width::Double)?;
    Ok(Identity { vendor: both as u16, device: (both >> 16) as u16 })
}

/// Lets the device answer at its BARs.
pub fn enable_memory(config: &mut impl Config) -> Result<(), Failure> {
    let command = config.read(COMMAND, Width::Word)?;
    config.write(COMMAND, Width::Word, command | COMMAND_MEMORY)
}

/// Lets the device read and write memory.
pub fn enable_master(config: &mut impl Config) -> Result<(), Failure> {
    let command = config.read(COMMAND, Width::Word)?;
    config.write(COMMAND, Width::Word, command | COMMAND_MEMORY | COMMAND_MASTER)
}

/// Lets the device read and write memory no longer.
pub fn disable_master(config: &mut impl Config) -> Result<(), Failure> {
    let command = config.read(COMMAND, Width::Word)?;
    config.write(COMMAND, Width::Word, command & !COMMAND_MASTER)
}

/// A range of the host's addresses at which a device answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// The first.
    pub address: u64,
    /// How many bytes.
    pub size: u64,
}

impl Bar {
    /// The part of it that a capability names; none if it is not inside.
    pub fn part(&self, offset: u32, length: u32) -> Option<Bar> {
        let end = u64::from(offset) + u64::from(length);
        (length > 0 && end <= self.size).then(|| Bar { address: self.address + u64::from(offset), size: length.into() })
    }
}

/// Where BAR `index` is: none if it is no memory, or makes no sense. Its size is found by writing ones.
pub fn bar(config: &mut impl Config, index: u8) -> Result<Option<Bar>, Failure> {
    if index >= BARS {
        return Ok(None);
    }
    let register = BAR0 + 4 * u16::from(index);
    let low = config.read(register, Width::Double)?;
    let wide = low & BAR_TYPE == BAR_64;
    if low & BAR_IO != 0 || wide && index + 1 >= BARS {
        return Ok(None);
    }
    let high = if wide { config.read(register + 4, Width::Double)? } else { 0 };
    let size_low = sized(config, register, low)?;
    let size_high = if wide { sized(config, register + 4, high)? } else { u32::MAX };
    let join = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low & !BAR_FLAGS);
    let (address, size) = (join(high, low), (!join(size_high, size_low)).wrapping_add(1));
    let aligned = size.is_power_of_two() && address.is_multiple_of(size);
    Ok((address != 0 && aligned && address.checked_add(size).is_some()).then_some(Bar { address, size }))
}

/// What a register keeps of ones; it has its old value afterwards.
fn sized(config: &mut impl Config, register: u16, value: u32) -> Result<u32, Failure> {
    config.write(register, Width::Double, u32::MAX)?;
    let size = config.read(register, Width::Double)?;
    config.write(register, Width::Double, value)?;
    Ok(size)
}

/// Where the capabilities of one kind are. A list that goes round in circles ends.
pub fn capabilities(config: &mut impl Config, kind: u8) -> Result<Vec<u16>, Failure> {
    let mut found = Vec::new();
    if config.read(STATUS, Width::Word)? & STATUS_CAPABILITIES == 0 {
        return Ok(found);
    }
    let mut next = config.read(CAPABILITIES, Width::Byte)?;
    for _ in 0..MOST_CAPABILITIES {
        let at = next & 0xfc;
        if at < HEADER {
            break;
        }
        let head = config.read(at as u16, Width::Word)?;
        let [this, after] = (head as u16).to_le_bytes();
        if this == kind && !found.contains(&(at as u16)) {
            found.push(at as u16);
        }
        next = after.into();
    }
    Ok(found)
}

#[cfg(any(test, fuzzing))]
pub mod space;

#[cfg(test)]
mod tests {
    use super::space::Space;
    use super::*;

    #[test]
    fn bars_have_a_place_and_a_size_and_keep_their_value() {
        let mut space = Space::new();
        space.word(0x10, 0xfe80_0000).word(0x20, 0x4).word(0x24, 0x8);
        space.bars = [0xffff_f000, 0, 0, 0, 0xffff_c000, u32::MAX];
        assert_eq!(bar(&mut space, 0), Ok(Some(Bar { address: 0xfe80_0000, size: 0x1000 })));
        assert_eq!(bar(&mut space, 4), Ok(Some(Bar { address: 0x8_0000_0000, size: 0x4000 })));
        assert_eq!(space.read(0x10, Width::Double), Ok(0xfe80_0000));
        assert_eq!(space.read(0x24, Width::Double), Ok(8));
    }

    #[test]
    fn what_is_no_memory_or_makes_no_sense_is_no_bar() {
        let mut space = Space::new();
        space.word(0x10, 0xc001).word(0x14, 0x1000).word(0x18, 0xfe80_0800).word(0x24, 0xfe00_0004);
        space.bars = [0xffff_fffc, 0xf0f0_0000, 0xffff_f000, 0, 0, 0xffff_f000];
        for index in [0, 1, 2, 3, 5, 6, 255] {
            assert_eq!(bar(&mut space, index), Ok(None), "{index}");
        }
    }

    #[test]
    fn a_part_of_a_bar_ends_inside_it() {
        let bar = Bar { address: 0x1000, size: 0x1000 };
        assert_eq!(bar.part(0xff0, 16), Some(Bar { address: 0x1ff0, size: 16 }));
        for (offset, length) in [(0xff0, 17), (0, 0), (u32::MAX, u32::MAX), (0x1000, 1)] {
            assert_eq!(bar.part(offset, length), None);
        }
    }

    #[test]
    fn capabilities_are_found_and_circles_end() {
        let mut space = Space::new();
        space.word(0x04, 0x10_0000).word(0x34, 0x40).word(0x40, 0x5009).word(0x50, 0x6011).word(0x60, 0x4009);
        assert_eq!(capabilities(&mut space, CAPABILITY_VENDOR), Ok(alloc::vec![0x40, 0x60]));
        space.word(0x34, 0x20);
        assert_eq!(capabilities(&mut space, CAPABILITY_VENDOR), Ok(alloc::vec![]), "the header is no capability");
        space.word(0x34, 0x40).word(0x04, 0);
        assert_eq!(capabilities(&mut space, CAPABILITY_VENDOR), Ok(alloc::vec![]), "it says that it has none");
    }

    #[test]
    fn the_device_masters_the_bus_only_when_it_is_told_to() {
        let mut space = Space::new();
        enable_memory(&mut space).unwrap();
        assert_eq!(space.bytes[4], 2);
        enable_master(&mut space).unwrap();
        assert_eq!(space.bytes[4], 6);
        disable_master(&mut space).unwrap();
        assert_eq!(space.bytes[4], 2);
    }
}
