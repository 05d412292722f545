//! The pager against a hypervisor that does with its ring, its pages and the guest's virtual CPUs what Xen's source says
//! (`vm_event.c`, `mem_paging.c`, `hvm_hap_nested_page_fault`, `XEN_DMOP_set_mem_type`).

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ptr::NonNull;

use common::PAGE_SIZE;
use xen_abi::hypercall::{DM_OP, DOMCTL, EVENT_CHANNEL_OP, MEMORY_OP, MMU_UPDATE, MMUEXT_OP, MULTICALL};
use xen_abi::mmu::MmuUpdate;
use xen_abi::vm_event::{FLAG_FOREIGN, INTERFACE_VERSION, REASON_MEM_PAGING};
use xen_abi::{Mfn, PAGE_SHIFT};

use super::*;
use crate::hypercall::fake;
use crate::memory::Pages;
use crate::window::Window;

/// The first byte of a page that has not arrived yet, and of one that has.
const STALE: u8 = 0xee;
const ARRIVED: u8 = 0x11;

/// The types of a page that paging knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Ram,
    PagingOut,
    PagingIn,
}

#[derive(Clone, Debug, Default)]
struct Vcpu {
    /// `vm_event_pause_count`.
    pauses: u32,
    /// It sleeps inside the hypervisor, for a slot.
    queued: bool,
    /// The page that it is after.
    wants: Option<u64>,
    /// Touches of a page on its way back, which the hypervisor lets it repeat.
    spins: u64,
}

/// Xen, and the guest.
struct Xen {
    ring: NonNull<u8>,
    window: NonNull<u8>,
    mapped: BTreeMap<usize, u64>,
    types: BTreeMap<u64, Type>,
    content: BTreeMap<u64, u8>,
    vcpus: Vec<Vcpu>,
    produced: u32,
    consumed: u32,
    queue: VecDeque<usize>,
    /// How often a virtual CPU was put to sleep inside.
    slept: u64,
    /// Backends whose requests found no slot.
    refused: u64,
    /// Who touches pages each time a model's request was made: what happens on other processors meanwhile.
    meanwhile: VecDeque<u64>,
}

impl Xen {
    fn free(&self) -> u32 {
        SLOTS - self.produced.wrapping_sub(self.consumed)
    }

    /// A virtual CPU runs, if it can.
    fn run(&mut self, vcpu: usize) {
        let Some(gfn) = self.vcpus[vcpu].wants.filter(|_| self.vcpus[vcpu].pauses == 0) else { return };
        if self.vcpus[vcpu].queued {
            return;
        }
        match self.types[&gfn] {
            Type::Ram => {
                assert_eq!(self.content[&gfn], ARRIVED, "the guest sees a page before its content");
                self.vcpus[vcpu].wants = None;
            }
            Type::PagingIn => self.vcpus[vcpu].spins += 1,
            Type::PagingOut => self.populate(Some(vcpu), gfn),
        }
    }

    /// `p2m_mem_paging_populate`.
    fn populate(&mut self, vcpu: Option<usize>, gfn: u64) {
        if self.free() == 0 {
            match vcpu {
                Some(vcpu) => {
                    self.vcpus[vcpu].queued = true;
                    self.queue.push_back(vcpu);
                    self.slept += 1;
                }
                None => self.refused += 1,
            }
            return;
        }
        let before = self.types[&gfn];
        if before == Type::PagingOut {
            self.types.insert(gfn, Type::PagingIn);
        }
        let flags = match vcpu {
            Some(vcpu) if before != Type::Ram => {
                self.vcpus[vcpu].pauses += 1;
                FLAG_VCPU_PAUSED
            }
            None if before == Type::PagingOut => FLAG_FOREIGN,
            _ => return,
        };
        // Whoever asks for another domain has a number of its own, which may exist in the guest.
        self.put(vcpu.unwrap_or(0) as u32, flags, gfn);
    }

    fn put(&mut self, vcpu_id: u32, flags: u32, gfn: u64) {
        let event = VmEvent {
            version: INTERFACE_VERSION,
            flags,
            reason: REASON_MEM_PAGING,
            vcpu_id,
            altp2m_idx: 0,
            _pad: [0; 3],
            mem_paging: MemPaging { gfn, p2mt: 0, flags: 0 },
            rest_of_u: [0; 2],
            data: [0; 43],
        };
        // SAFETY: a slot of the test's page.
        unsafe { self.slot(self.produced).write_unaligned(event) };
        self.produced = self.produced.wrapping_add(1);
        self.counter(0, Some(self.produced));
    }

    /// `vm_event_resume`: takes all responses.
    fn resume(&mut self) {
        while self.counter(2, None) != self.consumed {
            assert_ne!(self.consumed, self.produced, "more responses than requests");
            // SAFETY: a slot of the test's page.
            let response = unsafe { self.slot(self.consumed).read_unaligned() };
            self.consumed = self.consumed.wrapping_add(1);
            // `vm_event_wake`.
            for _ in 0..self.free() {
                let Some(vcpu) = self.queue.pop_front() else { break };
                self.vcpus[vcpu].queued = false;
            }
            let vcpu = &mut self.vcpus[response.vcpu_id as usize];
            if vcpu.pauses == 0 {
                continue;
            }
            let paging = response.mem_paging;
            if paging.flags & MEM_PAGING_DROP_PAGE == 0 && self.types[&paging.gfn] == Type::PagingIn {
                assert_eq!(self.content[&paging.gfn], ARRIVED, "a response makes an empty page present");
                self.types.insert(paging.gfn, Type::Ram);
            }
            vcpu.pauses -= u32::from(response.flags & FLAG_VCPU_PAUSED != 0);
        }
    }

    fn call(&mut self, number: u64, arguments: [u64; 5]) -> i64 {
        self.write_back();
        match number {
            MULTICALL => {
                for index in 0..arguments[1] as usize {
                    // SAFETY: an entry of the caller's.
                    let call = unsafe { &mut *(arguments[0] as *mut MulticallEntry).add(index) };
                    call.result = match call.op {
                        MEMORY_OP => self.paging(call.args[1]),
                        DM_OP => self.set_type(call.args[2]),
                        op => panic!("hypercall {op} in a multicall"),
                    };
                }
                0
            }
            MMU_UPDATE => {
                for index in 0..arguments[1] as usize {
                    // SAFETY: an update of the caller's.
                    let update = unsafe { *(arguments[0] as *const MmuUpdate).add(index) };
                    self.map(update.ptr as usize / size_of::<u64>() % BATCH, update.val);
                }
                // SAFETY: the caller's counter.
                unsafe { *(arguments[2] as *mut u32) = arguments[1] as u32 };
                0
            }
            MMUEXT_OP => 0,
            // The pager takes its ring down.
            DOMCTL => 0,
            EVENT_CHANNEL_OP => {
                self.resume();
                0
            }
            number => panic!("hypercall {number}"),
        }
    }

    fn paging(&mut self, op: u64) -> i64 {
        // SAFETY: the caller's structure.
        let MemPagingOp { op, gfn, .. } = unsafe { *(op as *const MemPagingOp) };
        match (op, self.types[&gfn]) {
            (PAGING_OP_NOMINATE, Type::Ram) => self.types.insert(gfn, Type::PagingOut),
            (PAGING_OP_PREP, Type::PagingIn) => {
                assert_eq!(self.content[&gfn], ARRIVED, "an empty page is made present");
                self.types.insert(gfn, Type::Ram)
            }
            (PAGING_OP_PREP, _) => return -i64::from(Errno::ENOENT.0),
            _ => return -i64::from(Errno::EBUSY.0),
        };
        0
    }

    /// `XEN_DMOP_set_mem_type`.
    fn set_type(&mut self, buffer: u64) -> i64 {
        // SAFETY: the caller's buffer, with the operation in it.
        let gfn = unsafe { (*(*(buffer as *const DmOpBuffer)).data.cast::<DmOpSetMemType>()).first_pfn };
        // Others are faster now and then.
        if let Some(other) = self.meanwhile.pop_front() {
            self.populate(None, other);
        }
        if self.types[&gfn] == Type::Ram {
            return 0;
        }
        self.populate(None, gfn);
        -i64::from(Errno::EAGAIN.0)
    }

    fn map(&mut self, index: usize, entry: u64) {
        if entry == 0 {
            self.mapped.remove(&index);
        } else {
            let gfn = entry >> PAGE_SHIFT & 0xff_ffff;
            self.mapped.insert(index, gfn);
            // SAFETY: a page of the test's window.
            unsafe { self.window.add(index * PAGE_SIZE).write(self.content[&gfn]) };
        }
    }

    /// What has been written through the window is in the guest's pages.
    fn write_back(&mut self) {
        for (index, gfn) in &self.mapped {
            // SAFETY: as above.
            self.content.insert(*gfn, unsafe { self.window.add(index * PAGE_SIZE).read() });
        }
    }

    fn slot(&self, index: u32) -> *mut VmEvent {
        // SAFETY: inside the test's page.
        unsafe { self.ring.add(64 + (index % SLOTS) as usize * size_of::<VmEvent>()) }.as_ptr().cast()
    }

    fn counter(&self, field: usize, value: Option<u32>) -> u32 {
        // SAFETY: a counter of the test's page.
        unsafe {
            let at = self.ring.cast::<u32>().add(field);
            value.inspect(|value| at.write_volatile(*value));
            at.read_volatile()
        }
    }
}

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
            assert_eq!(pager.arm(some), Ok(all(some.len())));
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
    fn fill(&mut self, gfns: &[Gfn]) -> u64 {
        let page = [ARRIVED; PAGE_SIZE];
        let pages: Vec<_> = gfns.iter().map(|gfn| (*gfn, Content::Bytes(&page))).collect();
        self.pager.fill(&pages).expect("a fill")
    }

    fn fill_demanded(&mut self) {
        for some in core::mem::take(&mut self.demanded).chunks(BATCH) {
            assert_eq!(self.fill(some), all(some.len()));
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
    assert_eq!(guest.fill(&[Gfn(0)]), 1);
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
    assert_eq!(guest.fill(&(0..32).map(Gfn).collect::<Vec<_>>()), all(32));
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
    assert_eq!(guest.fill(&[Gfn(0), Gfn(1)]), 0);
    assert!(full.borrow().refused > 0);
    assert_eq!(guest.pager.absent(), 8);
    assert!(guest.pager.finish().is_err());
    guest.pager.ring = ring;
    full = guest.xen.clone();
    assert_eq!(guest.fill(&[Gfn(0), Gfn(1)]), 0b11);
    assert_eq!(full.borrow().types[&1], Type::Ram);
}

#[test]
fn a_mask_chooses_among_the_pages_there_are() {
    let gfns: [Gfn; BATCH] = core::array::from_fn(|index| Gfn(100 + index as u64));
    let (some, count) = chosen(&gfns[..3], u64::MAX);
    assert_eq!(some[..count], gfns[..3]);
    let (some, count) = chosen(&gfns, 1 << 63 | 1);
    assert_eq!(some[..count], [Gfn(100), Gfn(163)]);
    assert_eq!(chosen(&[], u64::MAX).1, 0);
}
