//! The pager of one guest: pages it made absent, and the ring on which the hypervisor asks for them.
//!
//! A page is absent by *nomination* alone: it traps, but keeps its frame, which we may still map and fill. Rules of the ring
//! (`xen/common/vm_event.c`, `xen/arch/x86/mm/mem_paging.c`) that the code below follows:
//!
//! - A request holds one of 8 slots until a response is consumed; there is one response for each request, never more.
//! - A response lets a virtual CPU go on only if it names it and echoes that it was paused. It makes the page present only if
//!   that virtual CPU waits.
//! - Somebody else's request (a backend's, or our own) is answered at once, to free its slot. Its vCPU number means nothing
//!   in this guest but may exist there, and if that one waits for something, the response would make the page present
//!   *before it is filled*. The flag for a dropped page keeps the hypervisor from that.
//! - A virtual CPU that finds the ring full is put to sleep inside the hypervisor (`xen/common/wait.c`), which may crash its
//!   domain, and ends a host with shadow stacks. So those that wait keep half of the slots, and the oldest of them are answered
//!   *early*, with that flag and without content: each tries again, and again, and holds no slot. Its page becomes present by
//!   `prep`, like one that nobody waits for. Nothing stops more of them than there are slots between two looks at the ring.
//! - An absent page that nobody touched becomes present in two steps: asking for it, as a device model does when it changes
//!   the type of a page, then `prep`.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

#[cfg(fuzzing)]
pub mod fuzzing;
mod open;
#[cfg(test)]
mod tests;

use common::{BATCH, Content, DomId, Fault, Gfn, PageMask};
use xen_abi::hvm::{DMOP_SET_MEM_TYPE, DmOpBuffer, DmOpSetMemType, MEM_RAM_RW};
use xen_abi::hypercall::MulticallEntry;
use xen_abi::memory::{MemPagingOp, PAGING_OP_NOMINATE, PAGING_OP_PREP, XENMEM_PAGING_OP};
use xen_abi::vm_event::{FLAG_VCPU_PAUSED, MEM_PAGING_DROP_PAGE, MemPaging, SLOTS, VmEvent};
use xen_abi::{Errno, Port};

use super::error::{Operation, Result};
use super::paging_ring::PagingRing;
use super::reach::{Reach, numbers, put};
use super::sparse_set::SparseSet;
use crate::event::Channel;
use crate::hypercall;
use crate::window::{Access, Held};

/// What the virtual CPUs that waited at the same time were to the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crowd {
    /// How many of them were answered early.
    pub early: u64,
    /// How often all slots were taken when we looked. A virtual CPU that met an absent page before that was put to sleep
    /// inside the hypervisor.
    pub full: u64,
}

/// The pager of one guest, from the enabling of its ring to drop; [`Pager::finish`] comes before, if all went well.
pub struct Pager {
    reach: Reach,
    domain: DomId,
    page: Option<Held>,
    ring: PagingRing,
    channel: Channel,
    /// Requests of virtual CPUs that wait, unanswered, the oldest first: at most [`WAITING`] between two calls.
    waiting: Vec<VmEvent>,
    faults: VecDeque<Fault>,
    absent: SparseSet,
    /// The guest's virtual CPUs.
    vcpus: usize,
    crowd: Crowd,
    /// Virtual CPUs that may wait for an answer on the ring of an agent that is gone.
    inherited: Vec<u32>,
    /// Pages asked for at once: the ring's slots, less one for each virtual CPU, but at least one.
    in_flight: usize,
    enabled: bool,
}

impl Pager {
    /// Expects that somebody waits for these pages, if they are absent.
    pub fn expect_faults(&mut self, gfns: impl Iterator<Item = Gfn>) {
        let absent = gfns.filter(|gfn| self.absent.contains(*gfn));
        self.faults.extend(absent.map(|gfn| Fault { gfn, vcpu_waits: true, dropped: false }));
    }

    /// The port on which the hypervisor says that there are requests.
    pub fn port(&self) -> Port {
        self.channel.port()
    }

    /// Pages that are absent.
    pub fn absent(&self) -> u64 {
        self.absent.len()
    }

    /// How crowded the ring was.
    pub fn crowd(&self) -> Crowd {
        self.crowd
    }

    /// Makes up to 64 pages absent; says which are. A page that the hypervisor or anybody else has mapped stays present.
    pub fn arm(&mut self, gfns: &[Gfn]) -> Result<PageMask> {
        let mut mask = PageMask::default();
        for (index, result) in self.paging_op(PAGING_OP_NOMINATE, gfns)?.into_iter().enumerate().take(gfns.len()) {
            match result {
                Ok(()) => {
                    self.absent.insert(gfns[index]);
                    mask.insert(index);
                }
                // Absent already, or not to be had.
                Err(Errno::EBUSY) if self.absent.contains(gfns[index]) => mask.insert(index),
                Err(Errno::EBUSY) => {}
                Err(errno) => return Err(Operation::Paging.error(errno)),
            }
        }
        Ok(mask)
    }

    /// These pages have been taken from the guest, which has not run.
    pub fn forget(&mut self, gfns: &[Gfn]) {
        gfns.iter().for_each(|gfn| self.absent.remove(*gfn));
    }

    /// The next fault, if there is one.
    pub fn next_fault(&mut self) -> Result<Option<Fault>> {
        self.channel.take_pending();
        self.drain(&[])?;
        while let Some(fault) = self.faults.pop_front() {
            // It may have been filled since it was noted.
            if fault.dropped || self.absent.contains(fault.gfn) {
                return Ok(Some(fault));
            }
        }
        Ok(None)
    }

    /// Fills up to 64 absent pages, makes them present and wakes whoever waits; says which are done. A page that the guest
    /// replaced or gave back is done without being touched. One is not done while others leave no slot of the ring to it.
    pub fn fill(&mut self, pages: &[(Gfn, Content<'_>)]) -> Result<PageMask> {
        let pages = &pages[..pages.len().min(BATCH)];
        let gfns = &numbers(pages)[..pages.len()];
        self.drain(&[])?;
        // A mapping holds the frame. If the page is *then* still absent, the frame is the one that we made absent: only we
        // make pages absent. Without this check content could go into a page that the guest has put there since.
        let reach = self.reach.clone();
        let done = reach.mapped(self.domain, gfns, Access::Write, |mapping| {
            let mapped = mapping.mask();
            self.bring_back(gfns, mapped, |index| put(mapping, index, pages[index].1))
        })??;
        let (filled, count) = chosen(gfns, done);
        self.answer(&filled[..count]);
        Ok(done)
    }

    /// Makes up to 64 pages present, an absent one with what `put` has put there, if it is `mapped`; one that could not be has
    /// no content yet and must stay absent. Says which are present, or the guest's own business.
    fn bring_back(&mut self, gfns: &[Gfn], mapped: PageMask, mut put: impl FnMut(usize)) -> Result<PageMask> {
        let (mut done, mut again) = (PageMask::default(), PageMask::first(gfns.len()));
        for _ in 0..ROUNDS {
            let mut round = core::mem::take(&mut again);
            while !round.is_empty() {
                let some = round.iter().take(self.in_flight).collect();
                round = round - some;
                let absent = self.ask_for(gfns, some)?;
                (absent & mapped & self.mine(gfns)).iter().for_each(&mut put);
                let good = some - (absent - mapped);
                let present = self.make_present(gfns, absent, good)?;
                done = done | present;
                again = again | (good - present);
            }
            if again.is_empty() {
                break;
            }
        }
        Ok(done)
    }

    /// Which of these pages are absent as far as we know.
    fn mine(&self, gfns: &[Gfn]) -> PageMask {
        (0..gfns.len()).filter(|index| self.absent.contains(gfns[*index])).collect()
    }

    /// Asks for the pages that `some` names, as a device model would: an absent page that nobody waited for enters the way
    /// back, if there is a slot for it. Says which are absent; the others are the guest's own business by now.
    fn ask_for(&mut self, gfns: &[Gfn], some: PageMask) -> Result<PageMask> {
        let (asked, count) = chosen(gfns, some);
        let asked = &asked[..count];
        let mut ops = [SET_RAM; SLOTS as usize];
        let mut buffers = [DmOpBuffer { data: core::ptr::null_mut(), size: 0 }; SLOTS as usize];
        let mut calls = [MulticallEntry::default(); SLOTS as usize];
        for (index, gfn) in asked.iter().enumerate() {
            ops[index].first_pfn = gfn.0;
            buffers[index] =
                DmOpBuffer { data: (&raw mut ops[index]).cast(), size: size_of::<DmOpSetMemType>() as u64 };
            calls[index] = MulticallEntry::dm_op(self.domain, &raw mut buffers[index]);
        }
        // SAFETY: each call is a complete operation on another domain; operations and buffers outlive it.
        unsafe { hypercall::multicall(&mut calls[..count]) }.map_err(|errno| Operation::MemoryType.error(errno))?;
        let mut absent = PageMask::default();
        for (call, index) in calls.iter().zip(some.iter()) {
            match call.outcome() {
                // "Try again when it is back."
                Err(Errno::EAGAIN) => absent.insert(index),
                Err(errno @ (Errno::EPERM | Errno::EACCES | Errno::ESRCH)) => {
                    return Err(Operation::MemoryType.error(errno));
                }
                _ => {}
            }
        }
        // Our own requests stand on the ring now.
        self.drain(asked)?;
        Ok(absent)
    }

    /// Makes those of `gfns` present that `good` names; `absent` names those that were absent a moment ago. Says which are.
    fn make_present(&mut self, gfns: &[Gfn], absent: PageMask, good: PageMask) -> Result<PageMask> {
        let (some, count) = chosen(gfns, good);
        let results = self.paging_op(PAGING_OP_PREP, &some[..count])?;
        let mut present = PageMask::default();
        for (result, index) in results.into_iter().zip(good.iter()) {
            let gfn = gfns[index];
            match result {
                // It was asked for while the ring was full, or has just become the guest's own business.
                Err(Errno::ENOENT) if absent.contains(index) && self.absent.contains(gfn) => {}
                Ok(()) | Err(Errno::ENOENT) => {
                    self.absent.remove(gfn);
                    present.insert(index);
                }
                Err(errno) => return Err(Operation::Paging.error(errno)),
            }
        }
        Ok(present)
    }

    /// One paging operation on up to 64 pages.
    fn paging_op(&self, op: u8, gfns: &[Gfn]) -> Result<[core::result::Result<(), Errno>; BATCH]> {
        let empty = MemPagingOp { op, domain: self.domain, buffer: core::ptr::null(), gfn: 0 };
        let mut ops = [empty; BATCH];
        let mut calls = [MulticallEntry::default(); BATCH];
        let gfns = &gfns[..gfns.len().min(BATCH)];
        for (index, gfn) in gfns.iter().enumerate() {
            ops[index].gfn = gfn.0;
            calls[index] = MulticallEntry::memory_op(XENMEM_PAGING_OP, &raw mut ops[index]);
        }
        // SAFETY: each call is a complete operation on another domain without a buffer.
        unsafe { hypercall::multicall(&mut calls[..gfns.len()]) }.map_err(|errno| Operation::Paging.error(errno))?;
        let mut results = [Ok(()); BATCH];
        for (result, call) in results.iter_mut().zip(&calls[..gfns.len()]) {
            *result = call.outcome().map(drop);
            if let Err(errno @ (Errno::EPERM | Errno::EACCES | Errno::ESRCH | Errno::ENODEV)) = *result {
                return Err(Operation::Paging.error(errno));
            }
        }
        Ok(results)
    }

    /// Lets the virtual CPUs go on that wait for one of these pages.
    fn answer(&mut self, gfns: &[Gfn]) {
        let mut answered = false;
        let mut index = 0;
        while index < self.waiting.len() {
            if gfns.contains(&Gfn(self.waiting[index].mem_paging.gfn)) {
                let request = self.waiting.remove(index);
                self.ring.respond(&request);
                answered = true;
            } else {
                index += 1;
            }
        }
        if answered {
            self.channel.notify();
        }
    }

    /// Takes requests off the ring. Foreign requests for pages in `ours` are our own.
    fn drain(&mut self, ours: &[Gfn]) -> Result {
        let mut answered = false;
        let (mut slots, mut stopped) = (self.waiting.len(), self.waiting.len());
        while let Some(request) = self.ring.next()? {
            let gfn = Gfn(request.mem_paging.gfn);
            let dropped = request.mem_paging.flags & MEM_PAGING_DROP_PAGE != 0;
            let vcpu_waits = request.flags & FLAG_VCPU_PAUSED != 0;
            (slots, stopped) = (slots + 1, stopped + usize::from(vcpu_waits));
            if dropped {
                // Whoever waits for it finds the hole that the guest made.
                self.absent.remove(gfn);
                self.answer(&[gfn]);
            }
            if vcpu_waits {
                // It runs.
                self.inherited.retain(|vcpu| *vcpu != request.vcpu_id);
            }
            if vcpu_waits && self.absent.contains(gfn) {
                // One that was answered early may come again.
                let known = self.waiting.iter().any(|other| other.mem_paging.gfn == gfn.0)
                    || self.faults.iter().any(|fault| fault.gfn == gfn);
                self.waiting.push(request);
                if !known {
                    self.faults.push_back(Fault { gfn, vcpu_waits, dropped });
                }
            } else {
                // A virtual CPU that met a page in the moment it came back, or somebody who does not stand still anyway.
                match if vcpu_waits { None } else { self.inherited.pop() } {
                    Some(vcpu) => self.ring.respond(&waking(vcpu, &request)),
                    None => self.ring.respond(&request),
                }
                answered = true;
                if dropped || (!vcpu_waits && !ours.contains(&gfn) && self.absent.contains(gfn)) {
                    self.faults.push_back(Fault { gfn, vcpu_waits, dropped });
                }
            }
        }
        // Where all of them stand still, nobody is left to find it full.
        self.crowd.full += u64::from(slots >= SLOTS as usize && stopped < self.vcpus);
        while self.waiting.len() > WAITING {
            let oldest = self.waiting.remove(0);
            self.crowd.early += 1;
            self.ring.respond(&waking(oldest.vcpu_id, &oldest));
            answered = true;
        }
        if answered {
            self.channel.notify();
        }
        Ok(())
    }
}

/// Slots that waiting virtual CPUs keep: half of them. The others are for those that come before we look again.
const WAITING: usize = SLOTS as usize / 2;
/// How often a page is asked for at once that finds no slot. Before each there was a moment with half the ring free.
const ROUNDS: u32 = 16;

const SET_RAM: DmOpSetMemType =
    DmOpSetMemType { op: DMOP_SET_MEM_TYPE, pad: 0, nr: 1, mem_type: MEM_RAM_RW, pad2: 0, first_pfn: 0, rest: 0 };

/// Those of up to 64 pages that a mask names, and how many they are.
fn chosen(gfns: &[Gfn], mask: PageMask) -> ([Gfn; BATCH], usize) {
    let mut some = [Gfn(0); BATCH];
    let count = some.iter_mut().zip(mask.pick(gfns)).map(|(some, gfn)| *some = *gfn).count();
    (some, count)
}

/// An answer that lets a virtual CPU go on and touches no page. To its own request it is the early one; otherwise it takes the
/// place of the answer to somebody who does not stand still.
fn waking(vcpu: u32, request: &VmEvent) -> VmEvent {
    let mem_paging = MemPaging { flags: request.mem_paging.flags | MEM_PAGING_DROP_PAGE, ..request.mem_paging };
    VmEvent { vcpu_id: vcpu, flags: FLAG_VCPU_PAUSED, mem_paging, ..*request }
}
