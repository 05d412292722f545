//! A hypervisor that does with the pager's ring, its pages and the guest's virtual CPUs what Xen's source says (`vm_event.c`,
//! `mem_paging.c`, `hvm_hap_nested_page_fault`, `XEN_DMOP_set_mem_type`).

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::ptr::NonNull;

use common::PAGE_SIZE;
use xen_abi::PAGE_SHIFT;
use xen_abi::hypercall::{DM_OP, DOMCTL, EVENT_CHANNEL_OP, MEMORY_OP, MMU_UPDATE, MMUEXT_OP, MULTICALL};
use xen_abi::mmu::MmuUpdate;
use xen_abi::vm_event::{FLAG_FOREIGN, INTERFACE_VERSION, REASON_MEM_PAGING};

use crate::guest::pager::*;

/// The first byte of a page that has not arrived yet, and of one that has.
pub(super) const STALE: u8 = 0xee;
pub(super) const ARRIVED: u8 = 0x11;

/// The types of a page that paging knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Ram,
    PagingOut,
    PagingIn,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Vcpu {
    /// `vm_event_pause_count`.
    pub(super) pauses: u32,
    /// It sleeps inside the hypervisor, for a slot.
    pub(super) queued: bool,
    /// The page that it is after.
    pub(super) wants: Option<u64>,
    /// Touches of a page on its way back, which the hypervisor lets it repeat.
    pub(super) spins: u64,
}

/// Xen, and the guest.
pub(super) struct Xen {
    pub(super) ring: NonNull<u8>,
    pub(super) window: NonNull<u8>,
    pub(super) mapped: BTreeMap<usize, u64>,
    pub(super) types: BTreeMap<u64, Type>,
    pub(super) content: BTreeMap<u64, u8>,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) produced: u32,
    pub(super) consumed: u32,
    pub(super) queue: VecDeque<usize>,
    /// How often a virtual CPU was put to sleep inside.
    pub(super) slept: u64,
    /// Backends whose requests found no slot.
    pub(super) refused: u64,
    /// Who touches pages each time a model's request was made: what happens on other processors meanwhile.
    pub(super) meanwhile: VecDeque<u64>,
}

impl Xen {
    pub(super) fn free(&self) -> u32 {
        SLOTS - self.produced.wrapping_sub(self.consumed)
    }

    /// A virtual CPU runs, if it can.
    pub(super) fn run(&mut self, vcpu: usize) {
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
    pub(super) fn populate(&mut self, vcpu: Option<usize>, gfn: u64) {
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

    pub(super) fn put(&mut self, vcpu_id: u32, flags: u32, gfn: u64) {
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

    pub(super) fn call(&mut self, number: u64, arguments: [u64; 5]) -> i64 {
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
