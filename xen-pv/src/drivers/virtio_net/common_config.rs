//! The registers that every virtio device has: `struct virtio_pci_common_cfg` (virtio 1.2, section 4.1.4.3).

use core::time::Duration;

use super::error::Unusable;
use super::queue::{Broken, SIZE};
use crate::drivers::pci::Registers;
use crate::{event, time};

const DEVICE_FEATURE_SELECT: usize = 0;
const DEVICE_FEATURE: usize = 4;
const DRIVER_FEATURE_SELECT: usize = 8;
const DRIVER_FEATURE: usize = 12;
const CONFIG_MSIX_VECTOR: usize = 16;
const NUM_QUEUES: usize = 18;
const DEVICE_STATUS: usize = 20;
const QUEUE_SELECT: usize = 22;
const QUEUE_SIZE: usize = 24;
const QUEUE_MSIX_VECTOR: usize = 26;
const QUEUE_ENABLE: usize = 28;
const QUEUE_NOTIFY_OFF: usize = 30;
const QUEUE_DESC: usize = 32;
const QUEUE_DRIVER: usize = 40;
const QUEUE_DEVICE: usize = 48;

/// No interrupt.
const NO_VECTOR: u16 = 0xffff;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
/// All that a device says that works.
const RUNNING: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK;

/// How often a reset is looked for, and how long is slept between.
const RESET_LOOKS: usize = 1000;
const RESET_SLEEP: Duration = Duration::from_millis(1);

/// Fewest entries of a queue: the largest packet must fit.
const FEWEST: u16 = 32;

/// Where a queue is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its descriptors, as the device addresses memory.
    pub descriptors: u64,
    /// The ring of available buffers.
    pub available: u64,
    /// The ring of used ones.
    pub used: u64,
}

/// Where a queue is notified, times the multiplier of the layout.
pub fn notify_offset(registers: &Registers, index: u16) -> u16 {
    registers.write(QUEUE_SELECT, index);
    registers.read(QUEUE_NOTIFY_OFF)
}

/// The registers.
#[derive(Debug)]
pub struct Common(Registers);

impl Common {
    /// At least [`super::layout::COMMON_BYTES`] of them.
    pub fn new(registers: Registers) -> Self {
        Self(registers)
    }

    /// Resets the device; waits, at most a second.
    pub fn reset(&self) -> Result<(), Unusable> {
        self.0.write(DEVICE_STATUS, 0u8);
        for _ in 0..RESET_LOOKS {
            if self.status() == 0 {
                return Ok(());
            }
            event::wait(&[], Some(time::now() + RESET_SLEEP));
        }
        Err(Unusable::NoReset)
    }

    /// Tells the device that there is a driver, and reads what it offers.
    pub fn offered(&self) -> u64 {
        self.0.write(DEVICE_STATUS, ACKNOWLEDGE);
        self.0.write(DEVICE_STATUS, ACKNOWLEDGE | DRIVER);
        let half = |select: u32| {
            self.0.write(DEVICE_FEATURE_SELECT, select);
            u64::from(self.0.read::<u32>(DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    /// Tells the device what is taken.
    pub fn accept(&self, features: u64) -> Result<(), Unusable> {
        for (select, half) in [(0u32, features as u32), (1, (features >> 32) as u32)] {
            self.0.write(DRIVER_FEATURE_SELECT, select);
            self.0.write(DRIVER_FEATURE, half);
        }
        self.0.write(DEVICE_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if self.status() & FEATURES_OK == 0 { Err(Unusable::Features) } else { Ok(()) }
    }

    /// Entries that a queue will have.
    pub fn queue_size(&self, index: u16) -> Result<u16, Unusable> {
        if index >= self.0.read::<u16>(NUM_QUEUES) {
            return Err(Unusable::Queue(index, 0));
        }
        self.0.write(QUEUE_SELECT, index);
        let most = self.0.read::<u16>(QUEUE_SIZE);
        if most < FEWEST {
            return Err(Unusable::Queue(index, most));
        }
        Ok(1 << most.min(SIZE).ilog2())
    }

    /// Hands a queue to the device, with interrupt 0.
    pub fn enable_queue(&self, index: u16, size: u16, place: Place) -> Result<(), Unusable> {
        self.0.write(QUEUE_SELECT, index);
        self.0.write(QUEUE_SIZE, size);
        self.0.write(QUEUE_MSIX_VECTOR, 0u16);
        if self.0.read::<u16>(QUEUE_MSIX_VECTOR) != 0 || self.0.read::<u16>(QUEUE_SIZE) != size {
            return Err(Unusable::Queue(index, size));
        }
        let addresses = [(QUEUE_DESC, place.descriptors), (QUEUE_DRIVER, place.available), (QUEUE_DEVICE, place.used)];
        for (offset, address) in addresses {
            self.0.write(offset, address as u32);
            self.0.write(offset + 4, (address >> 32) as u32);
        }
        self.0.write(QUEUE_ENABLE, 1u16);
        Ok(())
    }

    /// Begins. Changes of the configuration interrupt nobody: [`Common::check`] looks.
    pub fn start(&self) {
        self.0.write(CONFIG_MSIX_VECTOR, NO_VECTOR);
        self.0.write(DEVICE_STATUS, RUNNING);
    }

    /// Whether the device still says that it works. One that is gone reads as all ones.
    pub fn check(&self) -> Result<(), Broken> {
        let status = self.status();
        if status == RUNNING { Ok(()) } else { Err(Broken::Status(status)) }
    }

    /// Has the device stop, without waiting until it has.
    pub fn stop(&self) {
        self.0.write(DEVICE_STATUS, 0u8);
    }

    fn status(&self) -> u8 {
        self.0.read(DEVICE_STATUS)
    }
}
