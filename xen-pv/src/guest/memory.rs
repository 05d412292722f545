//! A guest's frames: how many, allocate, free, claim.

use common::{BATCH, DomId, Gfn};
use xen_abi::Errno;
use xen_abi::hvm::{HVMOP_GET_MEM_TYPE, HvmGetMemType};
use xen_abi::hypercall::MulticallEntry;
use xen_abi::memory::*;

use super::call;
use super::error::{Operation, Result};
use crate::hypercall;

/// The highest frame number in use.
pub fn max_gfn(domain: DomId) -> Result<u64> {
    let mut arg = domain;
    // SAFETY: `XENMEM_maximum_gpfn` reads a `domid_t`.
    unsafe { call::memory_op(XENMEM_MAXIMUM_GPFN, domain, &mut arg) }.map_err(|errno| Operation::MaxGfn.error(errno))
}

/// Allocates a frame behind this number. What stood there before is leaked, not freed: the caller knows that nothing does.
pub fn populate(domain: DomId, gfn: Gfn) -> Result {
    all(reserve(XENMEM_POPULATE_PHYSMAP, domain, &mut [gfn.0], 0), 1)
}

/// Allocates `1 << order` frames behind each of these numbers and those after it, as [`populate`] does. Gives how many of them it
/// could, the first ones.
pub fn populate_some(domain: DomId, firsts: &mut [u64], order: u32) -> Result<usize> {
    reserve(XENMEM_POPULATE_PHYSMAP, domain, firsts, order)
}

/// Takes one frame away from the guest.
pub fn free(domain: DomId, gfn: Gfn) -> Result {
    all(reserve(XENMEM_DECREASE_RESERVATION, domain, &mut [gfn.0], 0), 1)
}

/// Takes up to [`BATCH`] frames away from the guest; where nothing stands, nothing happens.
pub fn free_some(domain: DomId, gfns: &[Gfn]) -> Result {
    let mut extents = [0; BATCH];
    let count = gfns.len().min(BATCH);
    for (extent, gfn) in extents.iter_mut().zip(gfns) {
        *extent = gfn.0;
    }
    let mut rest = &mut extents[..count];
    while !rest.is_empty() {
        // Xen stops where nothing stands.
        let next = rest.len().min(reserve(XENMEM_DECREASE_RESERVATION, domain, rest, 0)? + 1);
        rest = &mut rest[next..];
    }
    Ok(())
}

/// How up to [`BATCH`] pages are treated (`MEM_`).
pub fn types(domain: DomId, gfns: &[Gfn]) -> Result<[u16; BATCH]> {
    let mut questions = [HvmGetMemType { domid: domain, mem_type: 0, pad: [0; 2], pfn: 0 }; BATCH];
    let mut calls = [MulticallEntry::default(); BATCH];
    let gfns = &gfns[..gfns.len().min(BATCH)];
    for (index, gfn) in gfns.iter().enumerate() {
        questions[index].pfn = gfn.0;
        calls[index] = MulticallEntry::hvm_op(HVMOP_GET_MEM_TYPE, &raw mut questions[index]);
    }
    // SAFETY: each call is a complete question about another domain; the questions outlive it.
    unsafe { hypercall::multicall(&mut calls[..gfns.len()]) }
        .and_then(|()| calls[..gfns.len()].iter().try_for_each(|call| call.outcome().map(drop)))
        .map_err(|errno| Operation::GetMemoryType.error(errno))?;
    Ok(questions.map(|question| question.mem_type))
}

/// Reserves memory so that the domain can grow to `pages`; 0 gives a claim back.
pub fn claim(domain: DomId, pages: u64) -> Result {
    let mut arg = MemoryReservation {
        extent_start: core::ptr::null_mut(),
        nr_extents: pages,
        extent_order: 0,
        mem_flags: 0,
        domid: domain,
    };
    // SAFETY: a claim is arithmetic; there is no extent list.
    unsafe { call::memory_op(XENMEM_CLAIM_PAGES, domain, &mut arg) }
        .map(drop)
        .map_err(|errno| Operation::Claim.error(errno))
}

/// Gives how many extents it was done for, from the first on.
fn reserve(cmd: u32, domain: DomId, extents: &mut [u64], order: u32) -> Result<usize> {
    let mut arg = MemoryReservation {
        extent_start: extents.as_mut_ptr(),
        nr_extents: extents.len() as u64,
        extent_order: order,
        mem_flags: 0,
        domid: domain,
    };
    // SAFETY: so many extents of another domain; no memory of ours is touched but `extents`.
    let done = unsafe { call::memory_op(cmd, domain, &mut arg) };
    done.map(|done| done as usize).map_err(|errno| Operation::Populate.error(errno))
}

/// Xen does not say why it stopped short; there is one likely reason.
pub(super) fn all(done: Result<usize>, wanted: usize) -> Result {
    if done? == wanted { Ok(()) } else { Err(Operation::Populate.error(Errno::ENOMEM)) }
}
