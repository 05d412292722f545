//! Receiving: the device writes packets into pages of ours, one or several a packet.
//!
//! Page `i` is offered under descriptor `i` for ever: a packet is copied out of its pages into one place, and the same pages
//! are offered again. Nothing the device can still write is ever looked at by anybody else.

use alloc::rc::Rc;
use alloc::vec::Vec;

use common::PAGE_SIZE;

use super::header::{self, Received};
use super::queue::{Broken, Direction, Part, Queue, Used};
use super::{Features, Link, MOST_BUFFERS};
use crate::drivers::buffers::append;
use crate::drivers::{self, Receive, checksum};
use crate::memory::Pages;
use crate::window;

/// Offered pages after which the device is told.
const BATCH: u16 = 32;

/// The receiving half.
#[derive(Debug)]
pub struct Rx {
    queue: Queue,
    link: Rc<Link>,
    pages: Pages,
    addresses: Vec<u64>,
    features: Features,
    packet: Vec<u8>,
    unpublished: u16,
}

impl Rx {
    /// `addresses` are those of the pages, as the device addresses memory; there is one for each entry of the queue.
    pub(super) fn new(queue: Queue, link: Rc<Link>, pages: Pages, addresses: Vec<u64>, features: Features) -> Self {
        let packet = Vec::with_capacity(usize::from(MOST_BUFFERS) * PAGE_SIZE);
        let mut rx = Self { queue, link, pages, addresses, features, packet, unpublished: 0 };
        rx.offer();
        rx
    }

    /// Shows the device the first pages, once it runs.
    pub(super) fn start(&mut self) {
        self.publish();
    }

    /// Copies the next packet out; false if there is none. One that is to be dropped is empty.
    fn take(&mut self) -> Result<bool, Broken> {
        // Looked at once: a packet's buffers are shown together, and one that comes meanwhile is for the next call.
        let waiting = self.queue.waiting()?;
        let Some(first) = (if waiting == 0 { None } else { self.queue.pop()? }) else { return Ok(false) };
        self.packet.clear();
        let mut bytes = [0; header::LENGTH];
        let page = self.check(first, header::LENGTH)?;
        // SAFETY: the header is inside the page, and the array is ours.
        unsafe { window::copy(self.pages.page(page).as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
        let received = Received::parse(bytes, self.features);
        if !(1..=MOST_BUFFERS.min(waiting)).contains(&received.buffers) {
            return Err(Broken::Buffers(received.buffers));
        }
        self.append(first, header::LENGTH)?;
        for _ in 1..received.buffers {
            let used = self.queue.pop()?.ok_or(Broken::Index)?;
            self.append(used, 0)?;
        }
        self.offer();
        if self.unpublished >= BATCH {
            self.publish();
        }
        if !received.good || !(received.vouched || checksum::is_right(&self.packet)) {
            self.packet.clear();
        }
        Ok(true)
    }

    /// The page of a used buffer that holds at least `least` bytes, and no more than fit.
    fn check(&self, used: Used, least: usize) -> Result<usize, Broken> {
        let length = used.length as usize;
        if length < least.max(1) || length > PAGE_SIZE {
            Err(Broken::Length(used.length))
        } else {
            Ok(used.head.into())
        }
    }

    /// Appends what is in a buffer from `from` on.
    fn append(&mut self, used: Used, from: usize) -> Result<(), Broken> {
        let page = self.check(used, from)?;
        append(&mut self.packet, &self.pages, page, from, used.length as usize - from);
        Ok(())
    }

    /// Offers every page that the device does not have.
    fn offer(&mut self) {
        while let Some(head) = self.queue.next_head() {
            let address = self.addresses[usize::from(head)];
            self.queue.add(&[Part { address, length: PAGE_SIZE as u32 }], Direction::FromDevice);
            self.unpublished += 1;
        }
    }

    fn publish(&mut self) {
        if self.unpublished > 0 {
            self.unpublished = 0;
            if self.queue.publish() {
                self.link.notify(super::RX);
            }
        }
    }

    /// The next packet, if there is one; otherwise an interrupt is asked for.
    fn next(&mut self) -> Result<bool, Broken> {
        if self.take()? {
            return Ok(true);
        }
        self.publish();
        if self.queue.arm(1)? { self.take() } else { Ok(false) }
    }
}

impl Receive for Rx {
    fn broken(&self) -> Option<drivers::Broken> {
        self.link.broken()
    }

    fn receive(&mut self) -> Option<&mut [u8]> {
        if !self.link.is_running() {
            return None;
        }
        match self.next() {
            Ok(true) => Some(&mut self.packet),
            Ok(false) => None,
            Err(broken) => {
                self.link.end(broken);
                None
            }
        }
    }
}
