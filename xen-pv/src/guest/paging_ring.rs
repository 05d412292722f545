//! The ring page between the hypervisor, which asks for pages, and a pager, which answers (`io/ring.h`, `vm_event.h`).

use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use common::PAGE_SIZE;
use xen_abi::ring::RingHeader;
use xen_abi::vm_event::{FLAG_VCPU_PAUSED, INTERFACE_VERSION, MEM_PAGING_DROP_PAGE, REASON_MEM_PAGING, SLOTS, VmEvent};

use super::error::{Error, Result};
use crate::window::copy;

/// The pager's side of a ring.
#[derive(Debug)]
pub(super) struct PagingRing {
    page: NonNull<u8>,
    /// Requests taken.
    requests: u32,
    /// Responses given: never more than requests were taken.
    responses: u32,
}

impl PagingRing {
    /// Makes a zeroed page an empty ring.
    ///
    /// # Safety
    /// The page must be mapped, for writing, for as long as the ring is used.
    pub(super) unsafe fn new(page: NonNull<u8>) -> Self {
        let ring = Self { page, requests: 0, responses: 0 };
        // Each side wants to hear of the first entry.
        ring.store(offset_of!(RingHeader, req_event), 1);
        ring.store(offset_of!(RingHeader, rsp_event), 1);
        ring
    }

    /// The next request, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<VmEvent>> {
        let produced = self.load(offset_of!(RingHeader, req_prod));
        if produced == self.requests {
            return Ok(None);
        }
        if produced.wrapping_sub(self.requests) > SLOTS {
            return Err(Error::Malformed("request counter of the pager's ring"));
        }
        fence(Ordering::Acquire);
        let mut bytes = [0; size_of::<VmEvent>()];
        // SAFETY: a slot of the page, and as many bytes of ours.
        unsafe { copy(self.slot(self.requests), bytes.as_mut_ptr(), bytes.len()) };
        self.requests = self.requests.wrapping_add(1);
        self.store(offset_of!(RingHeader, req_event), self.requests.wrapping_add(1));
        // SAFETY: `VmEvent` is integers only.
        Ok(Some(unsafe { bytes.as_ptr().cast::<VmEvent>().read_unaligned() }))
    }

    /// Answers a request that was taken; the caller notifies the hypervisor.
    ///
    /// A virtual CPU that waits goes on. For anybody else the answer only frees the slot: it must not make the page present,
    /// although it names a virtual CPU that may by chance wait for something.
    pub(super) fn respond(&mut self, request: &VmEvent) {
        let mut response = VmEvent {
            version: INTERFACE_VERSION,
            reason: REASON_MEM_PAGING,
            rest_of_u: [0; 2],
            data: [0; 43],
            ..*request
        };
        if request.flags & FLAG_VCPU_PAUSED == 0 {
            response.mem_paging.flags |= MEM_PAGING_DROP_PAGE;
        }
        debug_assert!(self.responses != self.requests, "one response for each request");
        // SAFETY: a slot of the page, and a value as long. The slot is free: its request was copied out.
        unsafe { copy((&raw const response).cast(), self.slot(self.responses), size_of::<VmEvent>()) };
        self.responses = self.responses.wrapping_add(1);
        fence(Ordering::Release);
        self.store(offset_of!(RingHeader, rsp_prod), self.responses);
    }

    fn slot(&self, index: u32) -> *mut u8 {
        let at = size_of::<RingHeader>() + (index % SLOTS) as usize * size_of::<VmEvent>();
        const { assert!(size_of::<RingHeader>() + SLOTS as usize * size_of::<VmEvent>() <= PAGE_SIZE) };
        // SAFETY: inside the page, as just asserted.
        unsafe { self.page.as_ptr().add(at) }
    }

    fn load(&self, field: usize) -> u32 {
        // SAFETY: a counter of the header, aligned, which the hypervisor changes at any time.
        unsafe { self.page.add(field).cast::<u32>().read_volatile() }
    }

    fn store(&self, field: usize, value: u32) {
        // SAFETY: as above.
        unsafe { self.page.add(field).cast::<u32>().write_volatile(value) }
    }
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;

    use xen_abi::vm_event::MemPaging;

    use super::*;

    /// The hypervisor's side of a ring that has seen `start` requests and responses.
    struct Xen {
        page: Box<[u64; PAGE_SIZE / 8]>,
        produced: u32,
        consumed: u32,
    }

    impl Xen {
        fn at(start: u32) -> (Self, PagingRing) {
            let mut xen = Self { page: Box::new([0; PAGE_SIZE / 8]), produced: start, consumed: start };
            // SAFETY: the page outlives the ring in every test.
            let mut ring = unsafe { PagingRing::new(NonNull::from(&mut *xen.page).cast()) };
            (ring.requests, ring.responses) = (start, start);
            ring.store(offset_of!(RingHeader, req_prod), start);
            ring.store(offset_of!(RingHeader, rsp_prod), start);
            (xen, ring)
        }

        fn ask(&mut self, ring: &PagingRing, gfn: u64, flags: u32) {
            let event = VmEvent {
                version: INTERFACE_VERSION,
                flags,
                reason: REASON_MEM_PAGING,
                vcpu_id: 3,
                altp2m_idx: 0,
                _pad: [0; 3],
                mem_paging: MemPaging { gfn, p2mt: 9, flags: 0 },
                rest_of_u: [0; 2],
                data: [7; 43],
            };
            // SAFETY: a slot of the test's page.
            unsafe { ring.slot(self.produced).cast::<VmEvent>().write_unaligned(event) };
            self.produced = self.produced.wrapping_add(1);
            ring.store(offset_of!(RingHeader, req_prod), self.produced);
        }

        fn answer(&mut self, ring: &PagingRing) -> Option<VmEvent> {
            if ring.load(offset_of!(RingHeader, rsp_prod)) == self.consumed {
                return None;
            }
            // SAFETY: a slot of the test's page.
            let event = unsafe { ring.slot(self.consumed).cast::<VmEvent>().read_unaligned() };
            self.consumed = self.consumed.wrapping_add(1);
            Some(event)
        }
    }

    #[test]
    fn requests_and_responses_pass_the_wrap_of_slots_and_of_indices() {
        let (mut xen, mut ring) = Xen::at(u32::MAX - 10);
        for round in 0..5 {
            for slot in 0..u64::from(SLOTS) {
                xen.ask(&ring, round * 100 + slot, FLAG_VCPU_PAUSED);
            }
            let taken: [VmEvent; SLOTS as usize] =
                core::array::from_fn(|_| ring.next().expect("a sound ring").expect("a request"));
            assert_eq!(ring.next(), Ok(None));
            // Not in the order in which they came.
            for request in taken.iter().rev() {
                ring.respond(request);
            }
            for slot in (0..u64::from(SLOTS)).rev() {
                let answer = xen.answer(&ring).expect("an answer");
                assert_eq!((answer.mem_paging.gfn, answer.vcpu_id), (round * 100 + slot, 3));
            }
            assert_eq!(xen.answer(&ring), None);
        }
    }

    #[test]
    fn a_counter_that_makes_no_sense_is_refused() {
        let (xen, mut ring) = Xen::at(5);
        ring.store(offset_of!(RingHeader, req_prod), 5 + SLOTS + 1);
        assert!(ring.next().is_err());
        ring.store(offset_of!(RingHeader, req_prod), 4);
        assert!(ring.next().is_err());
        drop(xen);
    }

    #[test]
    fn only_the_answer_to_a_waiting_virtual_cpu_makes_a_page_present() {
        let (mut xen, mut ring) = Xen::at(0);
        for (flags, dropped) in [(FLAG_VCPU_PAUSED, 0), (2, MEM_PAGING_DROP_PAGE), (0, MEM_PAGING_DROP_PAGE)] {
            xen.ask(&ring, 1, flags);
            let request = ring.next().expect("a sound ring").expect("a request");
            ring.respond(&request);
            let answer = xen.answer(&ring).expect("an answer");
            assert_eq!((answer.version, answer.reason, answer.flags), (INTERFACE_VERSION, REASON_MEM_PAGING, flags));
            assert_eq!(answer.mem_paging.flags, dropped);
        }
    }
}
