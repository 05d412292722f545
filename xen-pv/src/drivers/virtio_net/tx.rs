//! Sending: packets lie in buffers that the device reads, contiguous by address and split for it where frames are not.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::num::NonZeroU16;

use common::PAGE_SIZE;

use super::header;
use super::queue::{Broken, Direction, Part, Queue, SIZE};
use super::{Features, Link, MOST_BUFFERS};
use crate::drivers::buffers::FreeBuffers;
use crate::drivers::{self, MAX_TX_SIZE, Transmit};
use crate::memory::Pages;

/// Pages of a large buffer: the header comes first.
const LARGE_PAGES: usize = MOST_BUFFERS as usize;

/// Pages that [`Tx`] needs.
pub(super) const PAGES: usize = FreeBuffers::pages(LARGE_PAGES);

const _: () = assert!(header::LENGTH + MAX_TX_SIZE <= LARGE_PAGES * PAGE_SIZE);

/// A packet's place: pages in a row.
#[derive(Debug)]
struct Buffer {
    pages: Pages,
    /// Of each page, as the device addresses memory.
    addresses: Vec<u64>,
}

/// The sending half.
#[derive(Debug)]
pub struct Tx {
    queue: Queue,
    link: Rc<Link>,
    features: Features,
    buffers: Vec<Buffer>,
    free: FreeBuffers,
    /// Which buffer was added under which number.
    added: [usize; SIZE as usize],
}

impl Tx {
    /// `address` is that of one page of some, as the device addresses memory.
    pub(super) fn new(
        queue: Queue,
        link: Rc<Link>,
        pages: Pages,
        features: Features,
        address: impl Fn(&Pages, usize) -> u64,
    ) -> Self {
        let buffer = |pages: Pages| {
            let addresses = (0..pages.count()).map(|page| address(&pages, page)).collect();
            Buffer { pages, addresses }
        };
        Self {
            queue,
            link,
            features,
            buffers: FreeBuffers::cut(pages, LARGE_PAGES).map(buffer).collect(),
            free: FreeBuffers::new(),
            added: [0; SIZE as usize],
        }
    }

    fn enqueue(&mut self, index: usize, length: usize) {
        let (parts, count) = parts(&self.buffers[index].addresses, length);
        let head = self.queue.add(&parts[..count], Direction::ToDevice);
        self.added[usize::from(head)] = index;
        if self.queue.publish() {
            self.link.notify(super::TX);
        }
    }

    /// Takes back what the device is done with.
    fn collect(&mut self) -> Result<(), Broken> {
        while let Some(used) = self.queue.pop()? {
            self.free.give(self.added[usize::from(used.head)]);
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.free.has_any() && self.queue.free() >= LARGE_PAGES
    }

    /// Whether there is room; otherwise an interrupt is asked for, once a part of what is in flight is done.
    fn find_room(&mut self) -> Result<bool, Broken> {
        self.collect()?;
        // Each time round something was done: it ends.
        while !self.has_room() {
            if !self.queue.arm(self.queue.in_flight() / 4)? {
                return Ok(false);
            }
            self.collect()?;
        }
        Ok(true)
    }
}

/// What of a buffer's pages the device reads, pages that follow each other together; and how many parts that is.
fn parts(addresses: &[u64], length: usize) -> ([Part; LARGE_PAGES], usize) {
    let mut parts = [Part::default(); LARGE_PAGES];
    let mut count = 0;
    let mut left = length;
    for &address in addresses {
        let bytes = left.min(PAGE_SIZE) as u32;
        left -= bytes as usize;
        match parts[..count].last_mut() {
            _ if bytes == 0 => break,
            Some(part) if part.address + u64::from(part.length) == address => part.length += bytes,
            _ => {
                parts[count] = Part { address, length: bytes };
                count += 1;
            }
        }
    }
    (parts, count)
}

impl Transmit for Tx {
    fn is_ready(&mut self) -> bool {
        if !self.link.is_running() {
            return false;
        }
        self.find_room().unwrap_or_else(|broken| {
            self.link.end(broken);
            false
        })
    }

    fn broken(&self) -> Option<drivers::Broken> {
        self.link.broken()
    }

    fn send(&mut self, length: usize, segment: Option<NonZeroU16>, fill: &mut dyn FnMut(&mut [u8])) {
        let whole = header::LENGTH + length;
        let usable = self.link.is_running() && length <= MAX_TX_SIZE && self.queue.free() >= LARGE_PAGES;
        let Some(index) = usable.then(|| self.free.take(whole)).flatten() else {
            fill(&mut alloc::vec![0; length]);
            return;
        };
        let start = self.buffers[index].pages.start();
        // SAFETY: the buffer has at least so many bytes and is in nobody's hands: the device has said that it is done with
        // it. The slice ends before the buffer is published.
        let bytes = unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), whole) };
        let (head, frame) = bytes.split_at_mut(header::LENGTH);
        fill(frame);
        head.copy_from_slice(&header::send(frame, segment, self.features));
        self.enqueue(index, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_follow_each_other_are_one_part() {
        let told = |addresses: &[u64], length| -> Vec<(u64, u32)> {
            let (parts, count) = parts(addresses, length);
            parts[..count].iter().map(|part| (part.address, part.length)).collect()
        };
        assert_eq!(told(&[0x1000, 0x2000, 0x5000, 0x4000], 0x3005), [(0x1000, 0x2000), (0x5000, 0x1000), (0x4000, 5)]);
        assert_eq!(told(&[0x1000, 0x2000], 0x1000), [(0x1000, 0x1000)]);
        let scattered: Vec<u64> = (0..LARGE_PAGES as u64).map(|page| page * 0x2000).collect();
        assert_eq!(told(&scattered, header::LENGTH + MAX_TX_SIZE).len(), LARGE_PAGES);
    }
}
