//! Opens the ring of a pager, of a new guest or of one whose agent is gone, and closes it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use common::{Content, DomId, Gfn, PageMask};
use xen_abi::domctl::{VM_EVENT_DISABLE, VM_EVENT_ENABLE, VM_EVENT_OP_PAGING, VmEventOp};
use xen_abi::hvm::PARAM_PAGING_RING_PFN;
use xen_abi::hypercall::MulticallEntry;
use xen_abi::vm_event::SLOTS;
use xen_abi::{Errno, Port};

use super::{Crowd, Pager};
use crate::event::Channel;
use crate::guest::domctl::command::{PAUSEDOMAIN, UNPAUSEDOMAIN, VM_EVENT_OP};
use crate::guest::error::{Error, Operation, Result};
use crate::guest::paging_ring::PagingRing;
use crate::guest::reach::Reach;
use crate::guest::sparse_set::SparseSet;
use crate::guest::{domctl, machine, memory};
use crate::hypercall;
use crate::window::Held;

impl Pager {
    /// Opens the ring at `gfn`, a page number that holds nothing; it holds nothing again when this returns. With `None` the
    /// hypervisor does not page for this guest.
    pub fn enable(reach: Reach, domain: DomId, gfn: Gfn, vcpus: u32) -> Result<Option<Self>> {
        machine::set_param(domain, PARAM_PAGING_RING_PFN, gfn.0)?;
        let (page, ring) = ring_page(&reach, domain, gfn)?;
        let port = match vm_event(domain, VM_EVENT_ENABLE) {
            Ok(port) => port,
            Err(errno) => {
                reach.let_go(page);
                memory::free(domain, gfn)?;
                return match errno {
                    Errno::EPERM | Errno::EACCES | Errno::ENOMEM => Err(Operation::PagerRing.error(errno)),
                    // No memory paging in this hypervisor, no hardware-assisted paging, or a device is passed through.
                    _ => Ok(None),
                };
            }
        };
        let channel = match Channel::bind(domain, port) {
            Ok(channel) => channel,
            Err(errno) => {
                let _ = vm_event(domain, VM_EVENT_DISABLE);
                reach.let_go(page);
                return Err(Operation::PagerChannel.error(errno));
            }
        };
        // Out of the guest's reach: it must not be able to write requests.
        memory::free(domain, gfn)?;
        Ok(Some(Self::new(reach, domain, page, ring, channel, vcpus)))
    }

    /// Takes over from the pager of an agent that is gone, for a guest that may run. Its ring cannot be reached any more, and
    /// gets replaced by one at `gfn`, which holds nothing; it holds nothing again when this returns. `absent` are the pages
    /// that may be absent, and `present` a few that are not. With `None` the hypervisor does not page for this guest.
    pub fn adopt(
        reach: Reach,
        domain: DomId,
        gfn: Gfn,
        vcpus: u32,
        absent: impl Iterator<Item = Gfn>,
        present: &[Gfn],
    ) -> Result<Option<Self>> {
        let usual = machine::param(domain, PARAM_PAGING_RING_PFN)?;
        machine::set_param(domain, PARAM_PAGING_RING_PFN, gfn.0)?;
        let (page, ring) = ring_page(&reach, domain, gfn)?;
        let port = replace_ring(domain);
        // Out of the guest's reach, whatever came of it.
        memory::free(domain, gfn)?;
        machine::set_param(domain, PARAM_PAGING_RING_PFN, usual)?;
        let channel = match port {
            // Should this fail, the new ring stays: without one the guest's next touch of an absent page would be its end.
            Ok(Some(port)) => Channel::bind(domain, port).map_err(|errno| Operation::PagerChannel.error(errno)),
            Ok(None) => {
                reach.let_go(page);
                return Ok(None);
            }
            Err(error) => Err(error),
        };
        let channel = match channel {
            Ok(channel) => channel,
            Err(error) => {
                reach.let_go(page);
                return Err(error);
            }
        };
        let mut pager = Self::new(reach, domain, page, ring, channel, vcpus);
        absent.for_each(|gfn| pager.absent.insert(gfn));
        match pager.wake_inherited(vcpus, present) {
            Ok(()) => Ok(Some(pager)),
            Err(error) => {
                pager.abandon();
                Err(error)
            }
        }
    }

    pub(super) fn new(reach: Reach, domain: DomId, page: Held, ring: PagingRing, channel: Channel, vcpus: u32) -> Self {
        Self {
            reach,
            domain,
            page: Some(page),
            ring,
            channel,
            waiting: Vec::new(),
            faults: VecDeque::new(),
            absent: SparseSet::default(),
            vcpus: vcpus as usize,
            crowd: Crowd::default(),
            inherited: Vec::new(),
            in_flight: SLOTS.saturating_sub(vcpus).max(1) as usize,
            enabled: true,
        }
    }

    /// Lets the virtual CPUs go on that wait for an answer on a ring that is gone. Which ones wait, and for what, is not
    /// known: each is answered, and one whose page is still absent tries again until the page is there, without another
    /// request. An answer needs a request of ours before it, for which a page is absent for a moment.
    fn wake_inherited(&mut self, vcpus: u32, present: &[Gfn]) -> Result {
        // One that meets an absent page inside the hypervisor waits once for each try, even for the page that made it stop: the
        // record of its run state alone is written in three. Each wait took a slot of the ring that nobody gave back.
        self.inherited = (0..SLOTS).flat_map(|_| 0..vcpus).collect();
        let tries = self.inherited.len() + present.len();
        for gfn in present.iter().cycle().take(tries) {
            if self.inherited.is_empty() {
                break;
            }
            if !self.arm(&[*gfn])?.is_empty() {
                let mut is_back = false;
                // Enough for 128 virtual CPUs that each ask once.
                for _ in 0..4 {
                    is_back = is_back || !self.bring_back(&[*gfn], PageMask::first(1), |_| ())?.is_empty();
                }
                if !is_back {
                    return Err(Error::Refused("the guest leaves no room on the ring of its pager"));
                }
                self.answer(&[*gfn]);
            }
        }
        Ok(())
    }

    /// Ends paging; every page must have been filled. After an error the pager goes on to serve.
    pub fn finish(&mut self) -> Result {
        self.drain(&[])?;
        if self.absent.len() != 0 {
            return Err(Error::Refused("paging cannot end while pages are absent"));
        }
        self.disable()
    }

    /// Leaves the ring to a guest that still misses pages: with it the guest waits for them, without it crashes. Whoever
    /// comes next may [`Pager::adopt`] it.
    pub fn abandon(mut self) {
        self.enabled = false;
    }

    fn disable(&mut self) -> Result {
        if self.enabled {
            // Busy while a virtual CPU waits inside the hypervisor for a slot.
            vm_event(self.domain, VM_EVENT_DISABLE).map_err(|errno| Operation::PagerRing.error(errno))?;
            self.enabled = false;
        }
        Ok(())
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        // With pages still absent the guest cannot live on; its toolstack destroys it. Nobody is left to hear an error.
        let _ = self.disable();
        if let Some(page) = self.page.take() {
            self.reach.let_go(page);
        }
    }
}

/// A page for the ring at `gfn`, which holds nothing, and an empty ring in it.
fn ring_page(reach: &Reach, domain: DomId, gfn: Gfn) -> Result<(Held, PagingRing)> {
    memory::populate(domain, gfn)?;
    let page = reach.write(domain, &[(gfn, Content::Zero)]).and_then(|_| reach.hold(domain, gfn))?;
    // SAFETY: the page stays mapped until the pager is dropped, and the ring with it.
    let ring = unsafe { PagingRing::new(page.address()) };
    Ok((page, ring))
}

/// Takes down a ring whose agent is gone, and sets up the new one: its port. With `None` there is no paging for this guest.
///
/// Without a ring the hypervisor crashes the guest at the first touch of an absent page (`p2m_mem_paging_populate`). The guest
/// itself is paused over it; its backends are not. What such a crash does is to stop the guest as it is, and that can be undone.
fn replace_ring(domain: DomId) -> Result<Option<Port>> {
    let (mut pause, mut unpause) = (PAUSEDOMAIN.on(domain, ()), UNPAUSEDOMAIN.on(domain, ()));
    let [mut disable, mut enable] =
        [VM_EVENT_DISABLE, VM_EVENT_ENABLE].map(|op| VM_EVENT_OP.on(domain, paging_ring(op)));
    let mut calls = [
        MulticallEntry::domctl(&raw mut pause),
        MulticallEntry::domctl(&raw mut disable),
        MulticallEntry::domctl(&raw mut enable),
        MulticallEntry::domctl(&raw mut unpause),
    ];
    let before = domctl::live_info(domain)?;
    // SAFETY: four complete operations on another domain, without pointers.
    unsafe { hypercall::multicall(&mut calls) }.map_err(|errno| Operation::PagerRing.error(errno))?;
    let after = domctl::live_info(domain)?;
    if after.has_crashed() && !before.has_crashed() {
        domctl::resume(domain)?;
    }
    let [_, disabled, enabled, _] = calls.map(|call| call.outcome());
    match (disabled, enabled) {
        (Err(Errno::EBUSY), _) => Err(Error::Refused(
            "virtual CPUs of the guest wait inside the hypervisor for room on the ring of an agent that is gone",
        )),
        (_, Ok(_)) => Ok(Some(Port(enable.u.structure().port))),
        (_, Err(errno @ (Errno::EPERM | Errno::EACCES | Errno::ENOMEM))) => Err(Operation::PagerRing.error(errno)),
        (Ok(_), Err(errno)) => Err(Operation::PagerRing.error(errno)),
        // No ring before and none now: no paging.
        (Err(_), Err(_)) => Ok(None),
    }
}

fn vm_event(domain: DomId, op: u32) -> core::result::Result<Port, Errno> {
    // SAFETY: the operation takes no pointer.
    unsafe { VM_EVENT_OP.call(domain, paging_ring(op)) }.map(|answer| Port(answer.port))
}

/// An operation on the ring of memory paging.
fn paging_ring(op: u32) -> VmEventOp {
    VmEventOp { op, mode: VM_EVENT_OP_PAGING, port: 0 }
}
