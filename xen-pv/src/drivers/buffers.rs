//! What both network drivers do with pages: which buffers to send from are free, and how a packet is put together.

use alloc::vec::Vec;

use common::PAGE_SIZE;

use crate::memory::Pages;
use crate::window;

/// Buffers of one page.
const SMALL: usize = 56;
/// Buffers for the largest packets.
const LARGE: usize = 12;

/// Buffers to send from, by index: the small ones, then the large ones. Those that are free.
#[derive(Debug)]
pub(super) struct FreeBuffers {
    small: Vec<usize>,
    large: Vec<usize>,
}

impl FreeBuffers {
    /// All of them.
    pub fn new() -> Self {
        Self { small: (0..SMALL).collect(), large: (SMALL..SMALL + LARGE).collect() }
    }

    /// Pages of all buffers, when a large one has so many.
    pub const fn pages(large: usize) -> usize {
        SMALL + LARGE * large
    }

    /// Cuts as many pages into buffers.
    pub fn cut(pages: Pages, large: usize) -> impl Iterator<Item = Pages> {
        [1; SMALL].into_iter().chain([large; LARGE]).scan(pages, |pages, size| {
            let (taken, rest) = pages.share().split(size);
            *pages = rest;
            Some(taken)
        })
    }

    /// One for so many bytes, if there is one.
    pub fn take(&mut self, bytes: usize) -> Option<usize> {
        if bytes <= PAGE_SIZE { self.small.pop() } else { self.large.pop() }
    }

    /// One is free again.
    pub fn give(&mut self, index: usize) {
        if index < SMALL { self.small.push(index) } else { self.large.push(index) }
    }

    /// Whether there is one for any packet.
    pub fn has_any(&self) -> bool {
        !self.small.is_empty() && !self.large.is_empty()
    }
}

/// Appends a part of one page of some to a packet, within the capacity that it has. Others may write to the page meanwhile.
pub(super) fn append(packet: &mut Vec<u8>, pages: &Pages, page: usize, offset: usize, length: usize) {
    let at = packet.len();
    assert!(at + length <= packet.capacity() && offset + length <= PAGE_SIZE);
    // SAFETY: inside the page, and inside the packet's capacity, which is its owner's alone.
    unsafe {
        window::copy(pages.page(page).as_ptr().add(offset), packet.as_mut_ptr().add(at), length);
        packet.set_len(at + length);
    }
}
