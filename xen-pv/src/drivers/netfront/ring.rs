//! The frontend's end of a shared ring (`io/ring.h`): requests out, responses back, in one page.
//!
//! Indices run freely and wrap. What the backend writes is looked at once and checked: a producer index that is ahead of
//! our requests, or goes back, ends the ring.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use common::PAGE_SIZE;
use xen_abi::ring::RingHeader;

use crate::ring::BrokenRing;

/// One ring. `Request` and `Response` are plain data of which any bytes are valid.
#[derive(Debug)]
pub struct Ring<Request, Response> {
    page: NonNull<u8>,
    size: u32,
    produced: u32,
    consumed: u32,
    kinds: PhantomData<(Request, Response)>,
}

impl<Request: Copy, Response: Copy> Ring<Request, Response> {
    const SLOT: usize =
        if size_of::<Request>() > size_of::<Response>() { size_of::<Request>() } else { size_of::<Response>() };

    /// Makes an empty ring of a page.
    ///
    /// # Safety
    /// The page must be ours for ever, and only this ring may use it.
    pub unsafe fn new(page: NonNull<u8>) -> Self {
        let slots = (PAGE_SIZE - size_of::<RingHeader>()) / Self::SLOT;
        let ring = Self { page, size: 1 << slots.ilog2(), produced: 0, consumed: 0, kinds: PhantomData };
        let header = ring.header();
        header.req_prod.store(0, Ordering::Relaxed);
        header.rsp_prod.store(0, Ordering::Relaxed);
        header.req_event.store(1, Ordering::Relaxed);
        header.rsp_event.store(1, Ordering::Release);
        ring
    }

    /// Slots free for requests.
    pub fn free(&self) -> u32 {
        self.size - self.in_flight()
    }

    /// Requests without a consumed response, the unpublished ones included.
    pub fn in_flight(&self) -> u32 {
        self.produced.wrapping_sub(self.consumed)
    }

    /// Slot that the next request will take.
    pub fn next_slot(&self) -> u32 {
        self.produced % self.size
    }

    /// Slot of the response that is `ahead` of the next one.
    pub fn response_slot(&self, ahead: u32) -> u32 {
        self.consumed.wrapping_add(ahead) % self.size
    }

    /// Adds a request, which the backend does not see before [`Ring::publish`]. There must be a free slot.
    pub fn put(&mut self, request: Request) {
        self.put_raw(request);
    }

    /// Adds something else of a request's size, an extra info.
    pub fn put_raw<T: Copy>(&mut self, slot: T) {
        assert!(size_of::<T>() <= Self::SLOT && self.free() > 0);
        // SAFETY: inside the page; the slot is ours until it is published.
        unsafe { self.slot(self.produced).cast::<T>().write_volatile(slot) };
        self.produced = self.produced.wrapping_add(1);
    }

    /// Shows the backend all requests; true if it wants to be notified.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let header = self.header();
        let old = header.req_prod.load(Ordering::Relaxed);
        header.req_prod.store(self.produced, Ordering::Release);
        fence(Ordering::SeqCst);
        let event = header.req_event.load(Ordering::Relaxed);
        self.produced.wrapping_sub(event) < self.produced.wrapping_sub(old)
    }

    /// Responses that wait.
    pub fn waiting(&self) -> Result<u32, BrokenRing> {
        let waiting = self.header().rsp_prod.load(Ordering::Acquire).wrapping_sub(self.consumed);
        if waiting <= self.in_flight() { Ok(waiting) } else { Err(BrokenRing) }
    }

    /// A copy of the response that is `ahead` of the next one.
    pub fn response(&self, ahead: u32) -> Response {
        // SAFETY: inside the page; any bytes make a response, and the copy cannot change any more.
        unsafe { self.slot(self.consumed.wrapping_add(ahead)).cast::<Response>().read_volatile() }
    }

    /// Is done with so many responses.
    pub fn consume(&mut self, count: u32) {
        debug_assert!(count <= self.in_flight());
        self.consumed = self.consumed.wrapping_add(count);
    }

    /// Asks for a notification once `count` more responses are there; true if one is there already.
    pub fn arm(&mut self, count: u32) -> Result<bool, BrokenRing> {
        self.header().rsp_event.store(self.consumed.wrapping_add(count), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Ok(self.waiting()? > 0)
    }

    fn header(&self) -> &'static RingHeader {
        // SAFETY: the page is ours for ever, and the header is all atomics.
        unsafe { self.page.cast().as_ref() }
    }

    fn slot(&self, index: u32) -> *mut u8 {
        let offset = size_of::<RingHeader>() + (index % self.size) as usize * Self::SLOT;
        // SAFETY: `size` slots fit behind the header.
        unsafe { self.page.as_ptr().add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;

    #[repr(align(4096))]
    struct Page(#[expect(dead_code)] [u8; PAGE_SIZE]);

    fn ring(start: u32) -> Ring<[u32; 3], u32> {
        let page = NonNull::from(Box::leak(Box::new(Page([0; PAGE_SIZE])))).cast();
        // SAFETY: a leaked page.
        let mut ring = unsafe { Ring::new(page) };
        (ring.produced, ring.consumed) = (start, start);
        for index in [&ring.header().req_prod, &ring.header().rsp_prod] {
            index.store(start, Ordering::Relaxed);
        }
        ring.header().req_event.store(start.wrapping_add(1), Ordering::Relaxed);
        ring
    }

    /// Plays the backend: answers `count` requests with their first word.
    fn answer(ring: &Ring<[u32; 3], u32>, count: u32) {
        let header = ring.header();
        let mut at = header.rsp_prod.load(Ordering::Relaxed);
        for _ in 0..count {
            // SAFETY: inside the page.
            unsafe { ring.slot(at).cast::<u32>().write(ring.slot(at).cast::<[u32; 3]>().read()[0] + 1) };
            at = at.wrapping_add(1);
        }
        header.rsp_prod.store(at, Ordering::Relaxed);
    }

    #[test]
    fn requests_and_responses_pass_the_wrap_of_ring_and_index() {
        let mut ring = ring(u32::MAX - 300);
        assert_eq!(ring.size, 256);
        for round in 0..1000 {
            ring.put([round, 0, 0]);
            ring.put([round + 7, 0, 0]);
            let _ = ring.publish();
            answer(&ring, 2);
            assert_eq!(ring.waiting(), Ok(2));
            assert_eq!((ring.response(0), ring.response(1)), (round + 1, round + 8));
            ring.consume(2);
        }
        assert_eq!(ring.free(), 256);
    }

    #[test]
    fn the_backend_is_notified_only_when_it_asked() {
        let mut ring = ring(0);
        ring.put([0; 3]);
        assert!(ring.publish());
        ring.put([0; 3]);
        assert!(!ring.publish());
        ring.header().req_event.store(3, Ordering::Relaxed);
        ring.put([0; 3]);
        assert!(ring.publish());
    }

    #[test]
    fn responses_to_requests_never_made_break_the_ring() {
        let mut ring = ring(9);
        ring.put([0; 3]);
        let _ = ring.publish();
        answer(&ring, 2);
        assert_eq!(ring.waiting(), Err(BrokenRing));
        ring.header().rsp_prod.store(8, Ordering::Relaxed);
        assert_eq!(ring.waiting(), Err(BrokenRing));
    }

    #[test]
    fn arming_tells_of_what_came_before_it() {
        let mut ring = ring(0);
        ring.put([0; 3]);
        let _ = ring.publish();
        assert_eq!(ring.arm(1), Ok(false));
        assert_eq!(ring.header().rsp_event.load(Ordering::Relaxed), 1);
        answer(&ring, 1);
        assert_eq!(ring.arm(1), Ok(true));
    }
}
