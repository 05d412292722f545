//! A ring on which stands whatever comes to the fuzzer's mind. It is the hypervisor's: what a guest does decides what stands
//! there, and how fast.

use core::ptr::NonNull;

use common::PAGE_SIZE;
use spin::Mutex;
use xen_abi::Mfn;

use super::*;
use crate::memory::Pages;
use crate::window::Window;

/// Where the index of requests and the slots are in the page.
const REQUESTS: usize = 0;
const REQUEST: usize = size_of::<VmEvent>();

/// What the hypervisor and we do by turns, 32 bytes a step: what, where, and what to do it with.
pub fn ring(bytes: &[u8]) {
    static PAGE: Mutex<Option<Pages>> = Mutex::new(None);
    let mut page = PAGE.lock();
    let page = page.get_or_insert_with(|| Pages::leak(1)).start();
    // SAFETY: a page of this function's own, on which nothing else is left.
    let ring = unsafe {
        page.write_bytes(0, PAGE_SIZE);
        PagingRing::new(page)
    };
    let reach = Reach::new(Window::new(0, Mfn(0)), Vec::new());
    let held = Window::new(PAGE_SIZE as u64, Mfn(0)).held();
    let mut pager = Pager::new(reach, DomId(1), held, ring, Channel::from_builder(Port(0)), 2);
    pager.inherited = [0, 1].into();
    let mut produced = 0u32;
    for [what, number, rest @ ..] in bytes.as_chunks::<32>().0 {
        match what % 6 {
            0..=2 => {
                let at = 64 + REQUEST * (produced as usize % SLOTS as usize);
                write(page, at, rest);
                produced = produced.wrapping_add(1);
                write(page, REQUESTS, &produced.to_le_bytes());
            }
            3 => {
                produced = produced.wrapping_add((*number).into());
                write(page, REQUESTS, &produced.to_le_bytes());
            }
            4 => pager.absent.insert(Gfn((*number).into())),
            _ => {
                let gfn = Gfn((*number).into());
                pager.absent.remove(gfn);
                pager.answer(&[gfn]);
            }
        }
        while let Ok(Some(fault)) = pager.next_fault() {
            assert!(fault.dropped || pager.absent.contains(fault.gfn));
        }
        assert!(pager.waiting.len() <= WAITING + SLOTS as usize);
        assert!(pager.waiting.iter().all(|request| pager.absent.contains(Gfn(request.mem_paging.gfn))));
    }
    pager.abandon();
}

fn write(page: NonNull<u8>, at: usize, bytes: &[u8]) {
    // SAFETY: inside the page, where no reference points.
    unsafe { page.add(at).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
}
