//! A split virtqueue (virtio 1.2, section 2.7) of up to 256 entries: buffers out, used buffers back.
//!
//! The device may write to every byte of it. Nothing that was written here is read back: which descriptors are free and
//! which buffers it has is kept in memory of our own. What it says, an index and for each buffer an id and a length, is read
//! once and checked.

use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering, fence};

use common::PAGE_SIZE;

/// Most entries.
pub const SIZE: u16 = 256;
/// Pages of a queue: descriptors in the first, both rings in the second.
pub const PAGES: usize = 2;

/// `VIRTQ_DESC_F_NEXT`.
const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`: the device writes.
const WRITE: u16 = 2;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`.
const NO_NOTIFY: u16 = 1;

/// `struct virtq_desc`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

/// `struct virtq_used_elem`.
#[derive(Clone, Copy)]
#[repr(C)]
struct UsedElement {
    id: u32,
    length: u32,
}

/// In the second page: `struct virtq_avail` is flags, index, entries, `used_event`.
pub const AVAILABLE: usize = 0;
/// In the second page: `struct virtq_used` is flags, index, entries, `avail_event`.
pub const USED: usize = 1024;
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;

const _: () = {
    assert!(size_of::<Descriptor>() * SIZE as usize <= PAGE_SIZE);
    assert!(ENTRIES + size_of::<u16>() * (SIZE as usize + 1) <= USED);
    assert!(USED + ENTRIES + size_of::<UsedElement>() * SIZE as usize + 2 <= PAGE_SIZE);
};

/// What the device said that cannot be: it is not to be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// More buffers are used than it has.
    #[error("it used more buffers than it has")]
    Index,
    /// A buffer is used that it does not have.
    #[error("it used buffer {0}, which it does not have")]
    Id(u32),
    /// More bytes are in a buffer than fit, or none.
    #[error("it says that a buffer holds {0} bytes")]
    Length(u32),
    /// A packet has no buffers, more than any packet, or more than are used.
    #[error("it says that a packet has {0} buffers")]
    Buffers(u16),
    /// It asks for a reset, was reset, or is gone: its status.
    #[error("its status is {0:#x}")]
    Status(u8),
}

/// Who may do what with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device reads it.
    ToDevice,
    /// The device writes it.
    FromDevice,
}

/// A piece of a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Where it is, as the device addresses memory.
    pub address: u64,
    /// Its bytes.
    pub length: u32,
}

/// A buffer that the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The number under which it was added.
    pub head: u16,
    /// Bytes that the device says it wrote.
    pub length: u32,
}

/// A descriptor as we know it.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    next: u16,
    /// Of a buffer's first descriptor: how many it has; 0 for all that the device does not have.
    parts: u16,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    descriptors: NonNull<Descriptor>,
    rings: NonNull<u8>,
    size: u16,
    event_index: bool,
    entries: Vec<Entry>,
    free: Vec<u16>,
    buffers: u16,
    produced: u16,
    published: u16,
    consumed: u16,
    armed: bool,
}

impl Queue {
    /// An empty queue of `size` entries, a power of two of at most [`SIZE`].
    ///
    /// # Safety
    /// The pages must be ours for ever, and only this queue may use them.
    pub unsafe fn new(pages: [NonNull<u8>; PAGES], size: u16, event_index: bool) -> Self {
        assert!(size.is_power_of_two() && size <= SIZE);
        for page in pages {
            // SAFETY: the caller's promise.
            unsafe { page.write_bytes(0, PAGE_SIZE) };
        }
        let mut queue = Self {
            descriptors: pages[0].cast(),
            rings: pages[1],
            size,
            event_index,
            entries: alloc::vec![Entry::default(); size.into()],
            free: (0..size).rev().collect(),
            buffers: 0,
            produced: 0,
            published: 0,
            consumed: 0,
            armed: false,
        };
        queue.disarm();
        queue
    }

    /// Free descriptors.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Buffers that the device has.
    pub fn in_flight(&self) -> u16 {
        self.buffers
    }

    /// The number that the next buffer will have, if there is a free descriptor.
    pub fn next_head(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Adds a buffer of some parts; the device does not see it before [`Queue::publish`]. There must be a part, and as many free
    /// descriptors as parts.
    pub fn add(&mut self, parts: &[Part], direction: Direction) -> u16 {
        assert!(!parts.is_empty() && parts.len() <= self.free.len());
        let write = if direction == Direction::FromDevice { WRITE } else { 0 };
        let head = self.free[self.free.len() - 1];
        for (index, &Part { address, length }) in parts.iter().enumerate() {
            let this = self.free.pop().expect("there are as many");
            let more = index + 1 < parts.len();
            let next = if more { self.free[self.free.len() - 1] } else { 0 };
            let flags = write | if more { NEXT } else { 0 };
            // SAFETY: inside the page: `this` is below `size`.
            unsafe {
                let place = self.descriptors.add(this.into());
                place.write_volatile(Descriptor { address, length, flags, next });
            }
            self.entries[usize::from(this)] = Entry { next, parts: 0 };
        }
        self.entries[usize::from(head)].parts = parts.len() as u16;
        let slot = usize::from(self.produced % self.size);
        self.ring(AVAILABLE + ENTRIES + 2 * slot).store(head, Ordering::Relaxed);
        self.produced = self.produced.wrapping_add(1);
        self.buffers += 1;
        head
    }

    /// Shows the device all buffers; true if it wants to be notified.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let old = self.published;
        self.published = self.produced;
        self.ring(AVAILABLE + INDEX).store(self.produced, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.event_index {
            let event = self.ring(USED + ENTRIES + 8 * usize::from(self.size)).load(Ordering::Relaxed);
            let passed = self.produced.wrapping_sub(event).wrapping_sub(1);
            passed < self.produced.wrapping_sub(old)
        } else {
            old != self.produced && self.ring(USED + FLAGS).load(Ordering::Relaxed) & NO_NOTIFY == 0
        }
    }

    /// Used buffers that wait.
    pub fn waiting(&self) -> Result<u16, Broken> {
        let waiting = self.ring(USED + INDEX).load(Ordering::Acquire).wrapping_sub(self.consumed);
        if waiting <= self.buffers { Ok(waiting) } else { Err(Broken::Index) }
    }

    /// Takes back the next used buffer; none if none waits.
    pub fn pop(&mut self) -> Result<Option<Used>, Broken> {
        if self.waiting()? == 0 {
            return Ok(None);
        }
        if self.armed {
            self.disarm();
        }
        let slot = usize::from(self.consumed % self.size);
        let place = USED + ENTRIES + size_of::<UsedElement>() * slot;
        // SAFETY: inside the page; any bytes make an element, and the copy cannot change any more.
        let UsedElement { id, length } = unsafe { self.rings.add(place).cast::<UsedElement>().read_volatile() };
        self.consumed = self.consumed.wrapping_add(1);
        let head = u16::try_from(id).ok().filter(|&head| head < self.size).ok_or(Broken::Id(id))?;
        let parts = core::mem::take(&mut self.entries[usize::from(head)].parts);
        if parts == 0 {
            return Err(Broken::Id(id));
        }
        let mut at = head;
        for _ in 0..parts {
            self.free.push(at);
            at = self.entries[usize::from(at)].next;
        }
        self.buffers -= 1;
        Ok(Some(Used { head, length }))
    }

    /// Asks for an interrupt once `count` more buffers are used; true if one is used already. Until the next call of this
    /// there is at most that one.
    pub fn arm(&mut self, count: u16) -> Result<bool, Broken> {
        self.armed = true;
        if self.event_index {
            let event = self.consumed.wrapping_add(count.max(1) - 1);
            self.ring(AVAILABLE + ENTRIES + 2 * usize::from(self.size)).store(event, Ordering::Relaxed);
        } else {
            self.ring(AVAILABLE + FLAGS).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        Ok(self.waiting()? > 0)
    }

    /// Asks for no interrupt. With event indices there comes none of itself once the index is past.
    fn disarm(&mut self) {
        self.armed = false;
        if !self.event_index {
            self.ring(AVAILABLE + FLAGS).store(NO_INTERRUPT, Ordering::Relaxed);
        }
    }

    fn ring(&self, offset: usize) -> &AtomicU16 {
        assert!(offset.is_multiple_of(2) && offset + 2 <= PAGE_SIZE);
        // SAFETY: inside the page, which is ours for ever and all of whose words are only touched atomically or by volatile
        // reads.
        unsafe { AtomicU16::from_ptr(self.rings.add(offset).cast().as_ptr()) }
    }
}

#[cfg(test)]
mod tests;
