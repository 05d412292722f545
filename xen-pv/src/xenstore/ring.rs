//! The two byte rings that a domain shares with xenstore.

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use xen_abi::ring::{XENSTORE_RING_SIZE, XenstoreInterface};

use crate::ring::BrokenRing;
use crate::window;

/// Bytes of each ring.
const SIZE: u32 = XENSTORE_RING_SIZE as u32;

/// Our end of both rings.
#[derive(Debug)]
pub struct Ring(NonNull<XenstoreInterface>);

impl Ring {
    /// # Safety
    /// `page` must be the shared page, mapped for ever, and this the only `Ring` on it.
    pub unsafe fn new(page: NonNull<u8>) -> Self {
        Self(page.cast())
    }

    /// Puts as many of `bytes` as there is room for; says how many.
    pub fn put(&mut self, bytes: &[u8]) -> Result<usize, BrokenRing> {
        let ring = self.interface();
        let produced = ring.req_prod.load(Ordering::Relaxed);
        let waiting = used(produced, ring.req_cons.load(Ordering::Acquire))?;
        let mut done = 0;
        while done < bytes.len() && waiting + (done as u32) < SIZE {
            let at = produced.wrapping_add(done as u32) % SIZE;
            let free = SIZE - waiting - done as u32;
            let count = (bytes.len() - done).min(free as usize).min((SIZE - at) as usize);
            // SAFETY: inside the ring, in the part that is ours until `req_prod` moves.
            unsafe {
                window::copy(bytes[done..].as_ptr(), ring.req.get().cast::<u8>().add(at as usize), count);
            }
            done += count;
        }
        ring.req_prod.store(produced.wrapping_add(done as u32), Ordering::Release);
        Ok(done)
    }

    /// Takes up to `into.len()` bytes; says how many.
    pub fn take(&mut self, into: &mut [u8]) -> Result<usize, BrokenRing> {
        let ring = self.interface();
        let consumed = ring.rsp_cons.load(Ordering::Relaxed);
        let waiting = used(ring.rsp_prod.load(Ordering::Acquire), consumed)?;
        let total = into.len().min(waiting as usize);
        let mut done = 0;
        while done < total {
            let at = consumed.wrapping_add(done as u32) % SIZE;
            let count = (total - done).min((SIZE - at) as usize);
            // SAFETY: inside the ring, in the part that is ours until `rsp_cons` moves; `into` is ours.
            unsafe {
                window::copy(ring.rsp.get().cast::<u8>().add(at as usize), into[done..].as_mut_ptr(), count);
            }
            done += count;
        }
        ring.rsp_cons.store(consumed.wrapping_add(done as u32), Ordering::Release);
        Ok(done)
    }

    fn interface(&self) -> &'static XenstoreInterface {
        // SAFETY: mapped for ever; all fields are atomics or cells.
        unsafe { self.0.as_ref() }
    }
}

/// Bytes between two indices, which run freely and wrap.
fn used(produced: u32, consumed: u32) -> Result<u32, BrokenRing> {
    match produced.wrapping_sub(consumed) {
        used @ 0..=SIZE => Ok(used),
        _ => Err(BrokenRing),
    }
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;
    use core::cell::UnsafeCell;
    use core::sync::atomic::AtomicU32;

    use super::*;

    fn ring(start: u32) -> Ring {
        let interface = XenstoreInterface {
            req: UnsafeCell::new([0; SIZE as usize]),
            rsp: UnsafeCell::new([0; SIZE as usize]),
            req_cons: AtomicU32::new(start),
            req_prod: AtomicU32::new(start),
            rsp_cons: AtomicU32::new(start),
            rsp_prod: AtomicU32::new(start),
        };
        Ring(NonNull::from(Box::leak(Box::new(interface))))
    }

    /// Plays the daemon: moves everything from the requests to the replies.
    fn echo(ring: &Ring) {
        let ring = ring.interface();
        let produced = ring.req_prod.load(Ordering::Relaxed);
        // SAFETY: arrays of this test.
        unsafe { *ring.rsp.get() = *ring.req.get() };
        ring.req_cons.store(produced, Ordering::Relaxed);
        ring.rsp_prod.store(produced, Ordering::Relaxed);
    }

    #[test]
    fn bytes_pass_the_wrap_of_ring_and_index() {
        for start in [0, 1000, u32::MAX - 500] {
            let mut ring = ring(start);
            for round in 0..20u8 {
                let sent: [u8; 700] = core::array::from_fn(|i| i as u8 ^ round);
                assert_eq!(ring.put(&sent), Ok(700));
                echo(&ring);
                let mut got = [0; 1024];
                assert_eq!(ring.take(&mut got), Ok(700));
                assert_eq!(got[..700], sent);
            }
        }
    }

    #[test]
    fn a_full_ring_takes_no_more() {
        let mut ring = ring(5);
        assert_eq!(ring.put(&[1; 3000]), Ok(1024));
        assert_eq!(ring.put(&[1; 1]), Ok(0));
    }

    #[test]
    fn indices_that_make_no_sense_are_refused() {
        let mut ring = ring(0);
        ring.interface().rsp_prod.store(1025, Ordering::Relaxed);
        assert_eq!(ring.take(&mut [0; 10]), Err(BrokenRing));
        ring.interface().req_cons.store(1, Ordering::Relaxed);
        assert_eq!(ring.put(&[0; 10]), Err(BrokenRing));
    }
}
