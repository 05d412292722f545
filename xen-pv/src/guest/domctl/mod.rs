//! Domctls: asking about a guest, stopping it, letting it go. [`command`] has what each takes.

use common::DomId;
use xen_abi::Errno;
use xen_abi::domctl::{self as abi, GetDomainInfo, GetPageFrameInfo3, VcpuContext, VcpuGuestContext};

pub(super) mod command;

pub use command::{UnknownVersion, find_version};

use super::error::{Error, Operation, Result};
use super::memory;

/// What a domain is now.
///
/// Asked about a number that no domain has, Xen takes the next higher one that there is, and may refuse to tell us of that.
pub fn info(domain: DomId) -> Result<GetDomainInfo> {
    // SAFETY: the operation takes no pointer.
    match unsafe { command::GETDOMAININFO.call(domain, GetDomainInfo::default()) } {
        Ok(info) if info.domain == domain.0 => Ok(info),
        Ok(_) => Err(Operation::Info.error(Errno::ESRCH)),
        Err(Errno::EPERM | Errno::EACCES) if !exists(domain) => Err(Operation::Info.error(Errno::ESRCH)),
        Err(errno) => Err(Operation::Info.error(errno)),
    }
}

/// Whether a domain has this number, by a question for which Xen looks at no other.
fn exists(domain: DomId) -> bool {
    !matches!(memory::max_gfn(domain), Err(Error::Xen { errno: Errno::ESRCH, .. }))
}

/// As [`info`], and an error for a dying domain, of which the hypervisor's answers mean nothing.
pub fn live_info(domain: DomId) -> Result<GetDomainInfo> {
    let info = info(domain)?;
    if info.flags & abi::DOMINF_DYING != 0 { Err(Error::Dying) } else { Ok(info) }
}

/// Adds one to the domain's pause count, and returns when none of its virtual CPUs runs.
pub fn pause(domain: DomId) -> Result {
    plain(command::PAUSEDOMAIN, domain).map_err(|errno| Operation::Pause.error(errno))
}

/// Takes one from the domain's pause count.
pub fn unpause(domain: DomId) -> Result {
    plain(command::UNPAUSEDOMAIN, domain).map_err(|errno| Operation::Unpause.error(errno))
}

/// Ends a shutdown: the domain goes on where it stopped.
pub fn resume(domain: DomId) -> Result {
    plain(command::RESUMEDOMAIN, domain).map_err(|errno| Operation::Resume.error(errno))
}

/// Ends the domain and gives its memory back. Xen interrupts itself on the way, but comes back here only when it is done:
/// a domain that still has much memory takes long.
pub fn destroy(domain: DomId) -> Result {
    loop {
        match plain(command::DESTROYDOMAIN, domain) {
            Err(Errno::ERESTART | Errno::EAGAIN) => {}
            result => return result.map_err(|errno| Operation::Destroy.error(errno)),
        }
    }
}

/// Replaces each frame number in `gfns` by what stands there; at most [`abi::PAGE_FRAME_INFOS`].
pub fn frame_types(domain: DomId, gfns: &mut [u64]) -> Result {
    let body = GetPageFrameInfo3 { num: gfns.len() as u64, array: gfns.as_mut_ptr() };
    // SAFETY: Xen reads and writes exactly `num` entries of the array, which we own.
    unsafe { command::GETPAGEFRAMEINFO3.call(domain, body) }
        .map(drop)
        .map_err(|errno| Operation::FrameTypes.error(errno))
}

/// What vCPU 0 finds as a suspend hypercall's result that was cancelled.
const CANCELLED: u64 = 1;

/// Whether vCPU 0 would find that its suspend was cancelled. The domain must stand still.
pub fn is_suspend_cancelled(domain: DomId) -> Result<bool> {
    Ok(vcpu_context(domain)?.rax == CANCELLED)
}

fn vcpu_context(domain: DomId) -> Result<VcpuGuestContext> {
    let mut context = VcpuGuestContext { before_rax: [0; 600], rax: 0, after_rax: [0; 4560] };
    let body = VcpuContext { vcpu: 0, _pad: 0, ctxt: &mut context };
    // SAFETY: Xen writes one `vcpu_guest_context`, which `context` is as large as.
    unsafe { command::GETVCPUCONTEXT.call(domain, body) }.map_err(|errno| Operation::GetVcpu.error(errno))?;
    Ok(context)
}

/// Makes vCPU 0, stopped in the suspend hypercall, find 1 as its result: "the suspend was cancelled".
/// The domain must be paused.
pub fn mark_suspend_cancelled(domain: DomId) -> Result {
    let mut context = vcpu_context(domain)?;
    context.rax = CANCELLED;
    let body = VcpuContext { vcpu: 0, _pad: 0, ctxt: &mut context };
    // SAFETY: Xen reads one `vcpu_guest_context`.
    unsafe { command::SETVCPUCONTEXT.call(domain, body) }.map(drop).map_err(|errno| Operation::SetVcpu.error(errno))
}

/// A command that takes nothing.
fn plain(command: command::Command<()>, domain: DomId) -> core::result::Result<(), Errno> {
    // SAFETY: no pointer goes in, and the domain is not ours: whatever becomes of it, no memory of ours goes.
    unsafe { command.call(domain, ()) }
}
