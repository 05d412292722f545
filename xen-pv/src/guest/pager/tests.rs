//! The pager against a hypervisor of the tests' own.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use common::PAGE_SIZE;
use xen_abi::Mfn;
use xen_abi::vm_event::FLAG_FOREIGN;

use super::*;
use crate::hypercall::fake;
use crate::memory::Pages;
use crate::window::Window;

mod xen;

use xen::{ARRIVED, STALE, Type, Vcpu, Xen};

/// A guest, its pager, and the pages that somebody has demanded of the source.
struct Guest {
    xen: Rc<RefCell<Xen>>,
    pager: Pager,
    demanded: Vec<Gfn>,
}

impl Guest {
    /// All of its pages are absent.
    fn new(vcpus: usize, pages: u64) -> Self {
        let (ring, window) = (Pages::leak(1).start(), Pages::leak(BATCH).start());
        let xen = Rc::new(RefCell::new(Xen {
            ring,
            window,
            mapped: BTreeMap::new(),
            types: (0..pages).map(|gfn| (gfn, Type::Ram)).collect(),
            content: (0..pages).map(|gfn| (gfn, STALE)).collect(),
            vcpus: vec![Vcpu::default(); vcpus],
            produced: 0,
            consumed: 0,
            queue: VecDeque::new(),
            slept: 0,
            refused: 0,
            meanwhile: VecDeque::new(),
        }));
        let hypervisor = xen.clone();
        fake::stand_in(move |number, arguments| hypervisor.borrow_mut().call(number, arguments));
        let reach = Reach::new(Window::new(window.as_ptr() as u64, Mfn(0)), Vec::new());
        let held = Window::new(ring.as_ptr() as u64, Mfn(0)).held();
        // SAFETY: the page is never given back.
        let side = unsafe { PagingRing::new(ring) };
        let channel = Channel::from_builder(Port(0));
        let mut pager = Pager::new(reach, DomId(1), held, side, channel, vcpus as u32);
        let gfns: Vec<Gfn> = (0..pages).map(Gfn).collect();
        for some in gfns.chunks(BATCH) {
            assert_eq!(pager.arm(some), Ok(PageMask::first(some.len())));
        }
        Self { xen, pager, demanded: Vec::new() }
    }

    fn wants(&mut self, vcpu: usize, gfn: u64) {
        self.xen.borrow_mut().vcpus[vcpu].wants = Some(gfn);
    }

    /// These virtual CPUs run on the processors that there are.
    fn run(&mut self, vcpus: impl Iterator<Item = usize>) {
        vcpus.for_each(|vcpu| self.xen.borrow_mut().run(vcpu));
    }

    /// The agent looks for faults.
    fn look(&mut self) {
        while let Some(fault) = self.pager.next_fault().expect("a sound ring") {
            if !self.demanded.contains(&fault.gfn) {
                self.demanded.push(fault.gfn);
            }
        }
    }

    /// Pages come from the source; says which are done.
    fn fill(&mut self, gfns: &[Gfn]) -> PageMask {
        let page = [ARRIVED; PAGE_SIZE];
        let pages: Vec<_> = gfns.iter().map(|gfn| (*gfn, Content::Bytes(&page))).collect();
        self.pager.fill(&pages).expect("a fill")
    }

    fn fill_demanded(&mut self) {
        for some in core::mem::take(&mut self.demanded).chunks(BATCH) {
            assert_eq!(self.fill(some), PageMask::first(some.len()));
        }
    }

    /// Looks, fills and runs until nobody wants a page any more.
    fn serve(&mut self) {
        for _ in 0..100 {
            self.look();
            self.fill_demanded();
            self.run(0..self.vcpus());
        }
        let xen = self.xen.borrow();
        assert!(xen.vcpus.iter().all(|vcpu| vcpu.wants.is_none() && vcpu.pauses == 0 && !vcpu.queued));
        assert_eq!(xen.free(), SLOTS);
    }

    fn vcpus(&self) -> usize {
        self.xen.borrow().vcpus.len()
    }

    fn slept(&self) -> u64 {
        self.xen.borrow().slept
    }

    fn spins(&self) -> u64 {
        self.xen.borrow().vcpus.iter().map(|vcpu| vcpu.spins).sum()
    }
}

#[test]
fn of_sixty_four_virtual_cpus_that_all_fault_none_sleeps_inside_the_hypervisor() {
    let mut guest = Guest::new(64, 64);
    (0..64).for_each(|vcpu| guest.wants(vcpu, vcpu as u64));
    // Three come between two looks, when four slots are free; no page comes until all of them wait.
    for come in (3..67).step_by(3) {
        guest.run(0..come.min(64));
        guest.look();
    }
    assert_eq!((guest.slept(), guest.pager.crowd().full), (0, 0));
    assert_eq!(guest.demanded.len(), 64);
    assert_eq!(guest.pager.waiting.len(), WAITING);
    guest.serve();
    assert_eq!((guest.slept(), guest.pager.absent()), (0, 0));
}

#[test]
fn a_page_stays_demanded_whose_virtual_cpu_was_answered_early() {
    let mut guest = Guest::new(16, 16);
    for vcpu in 0..16 {
        guest.wants(vcpu, vcpu as u64);
        guest.run(0..16);
        guest.look();
    }
    guest.run(0..16);
    // The oldest were, and try again and again, without another request.
    let spins: Vec<bool> = guest.xen.borrow().vcpus.iter().map(|vcpu| vcpu.spins > 0).collect();
    assert_eq!(spins, [[true; 12].as_slice(), &[false; 4]].concat());
    assert_eq!(guest.demanded, (0..16).map(Gfn).collect::<Vec<_>>());
    // The first comes: its virtual CPU goes on, although nobody answers it.
    assert_eq!(guest.fill(&[Gfn(0)]), PageMask(1));
    guest.run(0..1);
    assert_eq!(guest.xen.borrow().vcpus[0].wants, None);
    guest.serve();
}

#[test]
fn virtual_cpus_that_fit_on_the_ring_stand_still() {
    for vcpus in 1..=WAITING {
        let mut guest = Guest::new(vcpus, 8);
        (0..vcpus).for_each(|vcpu| guest.wants(vcpu, vcpu as u64));
        for _ in 0..10 {
            guest.run(0..vcpus);
            guest.look();
        }
        assert_eq!((guest.spins(), guest.slept()), (0, 0));
        guest.serve();
    }
}

#[test]
fn a_ring_that_fills_between_two_looks_is_served_and_counted() {
    let mut guest = Guest::new(64, 64);
    (0..64).for_each(|vcpu| guest.wants(vcpu, vcpu as u64));
    guest.run(0..64);
    assert_eq!(guest.slept(), 64 - u64::from(SLOTS));
    guest.look();
    assert_eq!(guest.pager.crowd().full, 1);
    guest.serve();
    assert_eq!(guest.pager.absent(), 0);
}

#[test]
fn a_page_that_finds_no_slot_is_asked_for_again_at_once() {
    let mut guest = Guest::new(1, 64);
    // Backends take every slot before the first page is asked for.
    guest.xen.borrow_mut().meanwhile = (56..64).collect();
    (0..8).for_each(|gfn| guest.xen.borrow_mut().populate(None, 48 + gfn));
    assert_eq!(guest.fill(&(0..32).map(Gfn).collect::<Vec<_>>()), PageMask::first(32));
    assert!((0..32).all(|gfn| guest.xen.borrow().types[&gfn] == Type::Ram));
    assert_eq!(guest.pager.absent(), 32);
}

#[test]
fn a_page_that_never_finds_a_slot_is_not_done() {
    let mut guest = Guest::new(1, 8);
    let mut full = guest.xen.clone();
    let ring = core::mem::replace(&mut guest.pager.ring, {
        // A ring that looks empty to us: nobody answers what stands on the hypervisor's.
        let page = Pages::leak(1).start();
        // SAFETY: the page is never given back.
        unsafe { PagingRing::new(page) }
    });
    (0..8).for_each(|_| full.borrow_mut().put(0, FLAG_FOREIGN, 7));
    assert_eq!(guest.fill(&[Gfn(0), Gfn(1)]), PageMask(0));
    assert!(full.borrow().refused > 0);
    assert_eq!(guest.pager.absent(), 8);
    assert!(guest.pager.finish().is_err());
    guest.pager.ring = ring;
    full = guest.xen.clone();
    assert_eq!(guest.fill(&[Gfn(0), Gfn(1)]), PageMask(0b11));
    assert_eq!(full.borrow().types[&1], Type::Ram);
}

#[test]
fn a_mask_chooses_among_the_pages_there_are() {
    let gfns: [Gfn; BATCH] = core::array::from_fn(|index| Gfn(100 + index as u64));
    let (some, count) = chosen(&gfns[..3], PageMask::first(BATCH));
    assert_eq!(some[..count], gfns[..3]);
    let (some, count) = chosen(&gfns, PageMask(1 << 63 | 1));
    assert_eq!(some[..count], [Gfn(100), Gfn(163)]);
    assert_eq!(chosen(&[], PageMask::first(BATCH)).1, 0);
}
