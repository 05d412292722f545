//! Receiving: the backend copies packets into pages that it may write, one ring slot a page.
//!
//! A response always lies in the slot of its request, so slot `i` and page `i` belong together for ever: a packet is
//! copied out of its pages into one place, and the same pages are offered again. Nothing the backend can still write is
//! ever looked at by anybody else.

use alloc::rc::Rc;
use alloc::vec::Vec;

use common::PAGE_SIZE;
use xen_abi::Errno;
use xen_abi::netif::{RxRequest, RxResponse, SLOTS_MIN};

use super::packet::Packet;
use super::ring::Ring;
use crate::drivers::buffers::append;
use crate::drivers::{Broken, Receive, checksum};
use crate::event::Channel;
use crate::grant::Grant;
use crate::memory::Pages;
use crate::ring::BrokenRing;
use crate::window::Access;

/// Slots of the ring.
const SLOTS: usize = 256;
/// Offered slots after which the backend is told.
const BATCH: u32 = 32;

/// Pages that [`Rx`] needs.
pub(super) const PAGES: usize = 1 + SLOTS;

/// The receiving half of a queue.
#[derive(Debug)]
pub struct Rx {
    ring: Ring<RxRequest, RxResponse>,
    channel: Rc<Channel>,
    pages: Pages,
    grants: Vec<Grant>,
    packet: Vec<u8>,
    unpublished: u32,
    broken: bool,
}

impl Rx {
    /// `grant` grants one page of some to the backend.
    pub(super) fn new(
        pages: &Pages,
        channel: Rc<Channel>,
        grant: impl Fn(&Pages, usize, Access) -> Result<Grant, Errno>,
    ) -> Result<(Self, Grant), Errno> {
        let (ring_page, pages) = pages.share().split(1);
        let ring_grant = grant(&ring_page, 0, Access::Write)?;
        let grants: Result<Vec<_>, _> = (0..SLOTS).map(|slot| grant(&pages, slot, Access::Write)).collect();
        let mut rx = Self {
            // SAFETY: the pages belong to this queue for ever, and the queue has one `Rx` at a time.
            ring: unsafe { Ring::new(ring_page.start()) },
            channel,
            pages,
            grants: grants?,
            packet: Vec::with_capacity(SLOTS_MIN * PAGE_SIZE),
            unpublished: 0,
            broken: false,
        };
        rx.offer(SLOTS as u32);
        rx.publish();
        Ok((rx, ring_grant))
    }

    /// Copies the next packet out; false if it is to be dropped.
    fn take(&mut self) -> Result<Option<bool>, BrokenRing> {
        let waiting = self.ring.waiting()?;
        if self.broken || waiting == 0 {
            return Ok(None);
        }
        let packet = Packet::next(waiting, |ahead| self.ring.response(ahead))?;
        self.packet.clear();
        for piece in packet.pieces() {
            let page = self.ring.response_slot(piece.ahead) as usize;
            append(&mut self.packet, &self.pages, page, piece.offset, piece.length);
        }
        self.ring.consume(packet.slots);
        self.offer(packet.slots);
        if self.unpublished >= BATCH {
            self.publish();
        }
        Ok(Some(packet.good && (packet.vouched || checksum::is_right(&self.packet))))
    }

    /// Offers the pages of the next slots.
    fn offer(&mut self, count: u32) {
        for _ in 0..count {
            let slot = self.ring.next_slot();
            let gref = self.grants[slot as usize].reference();
            self.ring.put(RxRequest { id: slot as u16, pad: 0, gref });
        }
        self.unpublished += count;
    }

    fn publish(&mut self) {
        if self.unpublished > 0 {
            self.unpublished = 0;
            if self.ring.publish() {
                self.channel.notify();
            }
        }
    }
}

impl Receive for Rx {
    fn receive(&mut self) -> Option<&mut [u8]> {
        loop {
            match self.take() {
                Ok(Some(true)) => return Some(&mut self.packet),
                Ok(Some(false)) => {}
                Ok(None) => {
                    self.publish();
                    match self.ring.arm(1) {
                        Ok(true) => {}
                        Ok(false) => return None,
                        Err(BrokenRing) => self.broken = true,
                    }
                }
                Err(BrokenRing) => self.broken = true,
            }
            if self.broken {
                return None;
            }
        }
    }

    fn broken(&self) -> Option<Broken> {
        self.broken.then_some(Broken::Backend)
    }
}
