//! A guest's machine apart from its memory: CPU policy, HVM parameters, time-stamp counter, HVM context.

use alloc::vec;
use alloc::vec::Vec;

use common::DomId;
use xen_abi::domctl::{CpuPolicy, CpuidLeaf, HvmContext, MsrEntry, TscInfo};
use xen_abi::hvm::{HVMOP_GET_PARAM, HVMOP_SET_PARAM, HvmParam};

use super::call;
use super::cpu_policy::{Lacking, Policy, first_lacking};
use super::domctl::command;
use super::error::{Error, Operation, Result};

/// Room for more leaves than any policy of Xen 4.17 serialises.
const MAX_LEAVES: usize = 256;
const MAX_MSRS: usize = 32;
/// What Xen has no fault to find with (`INIT_CPU_POLICY_ERRORS`).
const NONE: u32 = u32::MAX;
/// Xen's own limit is a few KiB for each of up to 128 virtual CPUs. With its frame it goes as one message of at most 1 MiB.
pub(super) const MAX_CONTEXT: usize = (1 << 20) - 64;

/// Reads the CPU policy.
pub fn cpu_policy(domain: DomId) -> Result<Policy> {
    let mut leaves = vec![CpuidLeaf::default(); MAX_LEAVES];
    let mut msrs = vec![MsrEntry::default(); MAX_MSRS];
    let body = policy_body(&mut leaves, &mut msrs);
    // SAFETY: Xen writes at most as many entries as it is told there is room for.
    let answer =
        unsafe { command::GET_CPU_POLICY.call(domain, body) }.map_err(|errno| Operation::GetCpuPolicy.error(errno))?;
    leaves.truncate(answer.nr_leaves as usize);
    msrs.truncate(answer.nr_msrs as usize);
    Ok(Policy { leaves, msrs })
}

/// Sets the CPU policy of a domain that never ran. One with features that this host cannot give is refused.
pub fn set_cpu_policy(domain: DomId, policy: &Policy) -> Result {
    // Xen takes the arrays through pointers to mutable data, and only reads them.
    let (mut leaves, mut msrs) = (policy.leaves.clone(), policy.msrs.clone());
    let mut body = policy_body(&mut leaves, &mut msrs);
    // SAFETY: Xen reads exactly as many entries as there are.
    let set = unsafe { command::SET_CPU_POLICY.call_on(domain, &mut body) };
    set.map_err(|errno| match (body.err_leaf, body.err_msr) {
        (NONE, NONE) => Operation::SetCpuPolicy.error(errno),
        (NONE, register) => Error::Lacks(Lacking::register("bits", register)),
        (leaf, _) => Error::Lacks(Lacking::leaf(leaf)),
    })?;
    first_lacking(policy, &cpu_policy(domain)?).map_or(Ok(()), |lacking| Err(Error::Lacks(lacking)))
}

/// Reads an HVM parameter.
pub fn param(domain: DomId, index: u32) -> Result<u64> {
    let mut arg = HvmParam { domid: domain, pad: 0, index, value: 0 };
    // SAFETY: the structure that the operation takes.
    unsafe { call::hvm_op(HVMOP_GET_PARAM, domain, &mut arg) }.map_err(|errno| Operation::GetParam.error(errno))?;
    Ok(arg.value)
}

/// Sets an HVM parameter.
pub fn set_param(domain: DomId, index: u32, value: u64) -> Result {
    let mut arg = HvmParam { domid: domain, pad: 0, index, value };
    // SAFETY: the structure that the operation takes.
    unsafe { call::hvm_op(HVMOP_SET_PARAM, domain, &mut arg) }
        .map(drop)
        .map_err(|errno| Operation::SetParam.error(errno))
}

/// Reads how the guest sees the time-stamp counter.
pub fn tsc(domain: DomId) -> Result<TscInfo> {
    // SAFETY: the operation takes no pointer.
    unsafe { command::GETTSCINFO.call(domain, TscInfo::default()) }.map_err(|errno| Operation::GetTsc.error(errno))
}

/// Sets how the guest sees the time-stamp counter.
pub fn set_tsc(domain: DomId, tsc: TscInfo) -> Result {
    // SAFETY: the operation takes no pointer.
    unsafe { command::SETTSCINFO.call(domain, tsc) }.map(drop).map_err(|errno| Operation::SetTsc.error(errno))
}

/// Reads the HVM context: virtual CPUs, interrupt controllers, timers.
pub fn context(domain: DomId) -> Result<Vec<u8>> {
    let error = |errno| Operation::GetHvmContext.error(errno);
    let question = HvmContext { size: 0, _pad: 0, buffer: core::ptr::null_mut() };
    // SAFETY: a null buffer asks for the size.
    let size = unsafe { command::GETHVMCONTEXT.call(domain, question) }.map_err(error)?.size as usize;
    if size > MAX_CONTEXT {
        return Err(Error::Refused("the guest's machine state is larger than the agent's limit"));
    }
    let mut context = vec![0; size];
    let question = HvmContext { size: size as u32, _pad: 0, buffer: context.as_mut_ptr() };
    // SAFETY: Xen writes at most `size` bytes.
    let written = unsafe { command::GETHVMCONTEXT.call(domain, question) }.map_err(error)?.size as usize;
    context.truncate(written);
    Ok(context)
}

/// Loads an HVM context; Xen checks every record of it.
pub fn set_context(domain: DomId, context: &[u8]) -> Result {
    let size = u32::try_from(context.len()).map_err(|_| Error::Malformed("HVM context"))?;
    let body = HvmContext { size, _pad: 0, buffer: context.as_ptr().cast_mut() };
    // SAFETY: Xen only reads `size` bytes.
    unsafe { command::SETHVMCONTEXT.call(domain, body) }
        .map(drop)
        .map_err(|errno| Operation::SetHvmContext.error(errno))
}

fn policy_body(leaves: &mut [CpuidLeaf], msrs: &mut [MsrEntry]) -> CpuPolicy {
    CpuPolicy {
        nr_leaves: leaves.len() as u32,
        nr_msrs: msrs.len() as u32,
        leaves: leaves.as_mut_ptr(),
        msrs: msrs.as_mut_ptr(),
        err_leaf: NONE,
        err_subleaf: NONE,
        err_msr: NONE,
        _pad: 0,
    }
}
