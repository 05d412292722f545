//! Sending: packets lie in buffers that the backend may read, contiguous by address and granted page by page.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::num::NonZeroU16;

use common::PAGE_SIZE;
use xen_abi::Errno;
use xen_abi::netif::{
    EXTRA_TYPE_GSO, ExtraGso, GSO_TYPE_TCPV4, NETIF_RSP_NULL, NETTXF_CSUM_BLANK, NETTXF_DATA_VALIDATED,
    NETTXF_EXTRA_INFO, NETTXF_MORE_DATA, SLOTS_MIN, TxRequest, TxResponse,
};

use super::ring::Ring;
use crate::drivers::buffers::FreeBuffers;
use crate::drivers::{Broken, MAX_TX_SIZE, Transmit, checksum};
use crate::event::Channel;
use crate::grant::Grant;
use crate::memory::Pages;
use crate::ring::BrokenRing;
use crate::window::Access;

/// Pages of a large buffer.
const LARGE_PAGES: usize = 16;

/// Pages that [`Tx`] needs.
pub(super) const PAGES: usize = 1 + FreeBuffers::pages(LARGE_PAGES);

/// A packet's place: pages in a row, one grant each.
#[derive(Debug)]
struct Buffer {
    pages: Pages,
    grants: Vec<Grant>,
    /// Slots of the ring that still hold a piece of it.
    in_flight: usize,
}

/// The sending half of a queue.
#[derive(Debug)]
pub struct Tx {
    ring: Ring<TxRequest, TxResponse>,
    channel: Rc<Channel>,
    buffers: Vec<Buffer>,
    free: FreeBuffers,
    offload: bool,
    broken: bool,
}

impl Tx {
    /// `grant` grants one page of some to the backend.
    pub(super) fn new(
        pages: &Pages,
        channel: Rc<Channel>,
        offload: bool,
        grant: impl Fn(&Pages, usize, Access) -> Result<Grant, Errno>,
    ) -> Result<(Self, Grant), Errno> {
        let (ring_page, rest) = pages.share().split(1);
        let ring_grant = grant(&ring_page, 0, Access::Write)?;
        let buffer = |pages: Pages| {
            let grants: Result<_, _> = (0..pages.count()).map(|page| grant(&pages, page, Access::Read)).collect();
            Ok(Buffer { pages, grants: grants?, in_flight: 0 })
        };
        let buffers: Result<_, Errno> = FreeBuffers::cut(rest, LARGE_PAGES).map(buffer).collect();
        let tx = Self {
            // SAFETY: the pages belong to this queue for ever, and the queue has one `Tx` at a time.
            ring: unsafe { Ring::new(ring_page.start()) },
            channel,
            buffers: buffers?,
            free: FreeBuffers::new(),
            offload,
            broken: false,
        };
        Ok((tx, ring_grant))
    }

    fn enqueue(&mut self, index: usize, length: usize, offload: bool, segment: Option<NonZeroU16>) {
        let buffer = &mut self.buffers[index];
        let pieces = length.div_ceil(PAGE_SIZE).max(1);
        buffer.in_flight = pieces;
        for (piece, grant) in buffer.grants.iter().take(pieces).enumerate() {
            let mut flags = if piece + 1 < pieces { NETTXF_MORE_DATA } else { 0 };
            let mut size = (length - piece * PAGE_SIZE).min(PAGE_SIZE);
            if piece == 0 {
                size = length;
                flags |= if offload { NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED } else { 0 };
                flags |= if segment.is_some() { NETTXF_EXTRA_INFO } else { 0 };
            }
            let gref = grant.reference().0;
            self.ring.put(TxRequest { gref, offset: 0, flags, id: index as u16, size: size as u16 });
            if let (0, Some(segment)) = (piece, segment) {
                self.ring.put_raw(ExtraGso {
                    kind: EXTRA_TYPE_GSO,
                    size: segment.get(),
                    gso_kind: GSO_TYPE_TCPV4,
                    ..ExtraGso::default()
                });
            }
        }
        if self.ring.publish() {
            self.channel.notify();
        }
    }

    /// Takes back what the backend is done with.
    fn collect(&mut self) {
        if self.collect_responses().is_err() {
            self.broken = true;
        }
    }

    fn collect_responses(&mut self) -> Result<(), BrokenRing> {
        for _ in 0..self.ring.waiting()? {
            let response = self.ring.response(0);
            self.ring.consume(1);
            // An extra info's slot comes back without a meaning.
            if response.status == NETIF_RSP_NULL {
                continue;
            }
            let index = usize::from(response.id);
            let buffer = self.buffers.get_mut(index).filter(|buffer| buffer.in_flight > 0).ok_or(BrokenRing)?;
            buffer.in_flight -= 1;
            if buffer.in_flight == 0 {
                self.free.give(index);
            }
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        !self.broken && self.free.has_any() && self.ring.free() as usize >= SLOTS_MIN
    }

    /// Asks for a notification when a part of what is in flight is done; true if something is done already.
    fn arm(&mut self) -> bool {
        let part = (self.ring.in_flight() / 4).max(1);
        self.ring.arm(part).unwrap_or_else(|BrokenRing| {
            self.broken = true;
            false
        })
    }
}

impl Transmit for Tx {
    fn is_ready(&mut self) -> bool {
        self.collect();
        while !self.has_room() {
            if self.broken || !self.arm() {
                return false;
            }
            self.collect();
        }
        true
    }

    fn send(&mut self, length: usize, segment: Option<NonZeroU16>, fill: &mut dyn FnMut(&mut [u8])) {
        let usable = !self.broken && length <= MAX_TX_SIZE && self.ring.free() as usize >= SLOTS_MIN;
        let Some(index) = usable.then(|| self.free.take(length)).flatten() else {
            fill(&mut alloc::vec![0; length]);
            return;
        };
        let buffer = &mut self.buffers[index];
        // SAFETY: the buffer has at least `length` bytes and is in nobody's hands: the backend may only read it, and has
        // said that it is done. The slice ends before the requests are published.
        let frame = unsafe { core::slice::from_raw_parts_mut(buffer.pages.start().as_ptr(), length) };
        fill(frame);
        let offload = self.offload && checksum::prepare_tcp(frame).is_some();
        self.enqueue(index, length, offload, segment.filter(|_| offload));
    }

    fn broken(&self) -> Option<Broken> {
        self.broken.then_some(Broken::Backend)
    }
}
