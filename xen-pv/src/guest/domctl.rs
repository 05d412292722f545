//! Domctls: asking about a guest, stopping it, letting it go.

use core::mem::size_of;

use common::DomId;
use xen_abi::Errno;
use xen_abi::domctl::{
    self as abi, Body, Domctl, GetDomainInfo, GetPageFrameInfo3, Plain, VcpuContext, VcpuGuestContext,
};

use super::error::{Error, Operation, Result};
use super::memory;
use crate::hypercall;

/// What a domain is now.
///
/// Asked about a number that no domain has, Xen takes the next higher one that there is, and may refuse to tell us of that.
pub fn info(domain: DomId) -> Result<GetDomainInfo> {
    // SAFETY: the operation takes no pointer.
    match unsafe { call(domain, abi::GETDOMAININFO, GetDomainInfo::default()) } {
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
    // SAFETY: the operation takes no argument.
    unsafe { plain(domain, abi::PAUSEDOMAIN, Operation::Pause) }
}

/// Takes one from the domain's pause count.
pub fn unpause(domain: DomId) -> Result {
    // SAFETY: the operation takes no argument.
    unsafe { plain(domain, abi::UNPAUSEDOMAIN, Operation::Unpause) }
}

/// Ends a shutdown: the domain goes on where it stopped.
pub fn resume(domain: DomId) -> Result {
    // SAFETY: the operation takes no argument.
    unsafe { plain(domain, abi::RESUMEDOMAIN, Operation::Resume) }
}

/// Ends the domain and gives its memory back. Xen interrupts itself on the way, but comes back here only when it is done:
/// a domain that still has much memory takes long.
pub fn destroy(domain: DomId) -> Result {
    loop {
        // SAFETY: the operation takes no argument; the domain is not ours, so no memory of ours goes.
        match unsafe { call_plain(domain, abi::DESTROYDOMAIN) } {
            Err(Errno::ERESTART | Errno::EAGAIN) => {}
            result => return result.map_err(|errno| Operation::Destroy.error(errno)),
        }
    }
}

/// Replaces each frame number in `gfns` by what stands there; at most [`abi::PAGE_FRAME_INFOS`].
pub fn frame_types(domain: DomId, gfns: &mut [u64]) -> Result {
    let body = GetPageFrameInfo3 { num: gfns.len() as u64, array: gfns.as_mut_ptr() };
    // SAFETY: Xen reads and writes exactly `num` entries of the array, which we own.
    unsafe { call(domain, abi::GETPAGEFRAMEINFO3, body) }.map(drop).map_err(|errno| Operation::FrameTypes.error(errno))
}

/// What vCPU 0 finds as a suspend hypercall's result that was cancelled.
const CANCELLED: u64 = 1;

/// Whether vCPU 0 would find that its suspend was cancelled. The domain must stand still.
pub fn is_suspend_cancelled(domain: DomId) -> Result<bool> {
    Ok(vcpu_context(domain)?.rax == CANCELLED)
}

fn vcpu_context(domain: DomId) -> Result<VcpuGuestContext> {
    let mut context = VcpuGuestContext { before_rax: [0; 600], rax: 0, after_rax: [0; 4560] };
    let body = VcpuContext { vcpu: 0, ctxt: &mut context };
    // SAFETY: Xen writes one `vcpu_guest_context`, which `context` is as large as.
    unsafe { call(domain, abi::GETVCPUCONTEXT, body) }.map_err(|errno| Operation::GetVcpu.error(errno))?;
    Ok(context)
}

/// Makes vCPU 0, stopped in the suspend hypercall, find 1 as its result: "the suspend was cancelled".
/// The domain must be paused.
pub fn mark_suspend_cancelled(domain: DomId) -> Result {
    let mut context = vcpu_context(domain)?;
    context.rax = CANCELLED;
    let body = VcpuContext { vcpu: 0, ctxt: &mut context };
    // SAFETY: Xen reads one `vcpu_guest_context`.
    unsafe { call(domain, abi::SETVCPUCONTEXT, body) }.map(drop).map_err(|errno| Operation::SetVcpu.error(errno))
}

/// One domctl: `body` goes in, what Xen left in its place comes out.
///
/// # Safety
/// Pointers in `body` must be valid for what `cmd` reads and writes through them.
pub(super) unsafe fn call<T: Plain>(domain: DomId, cmd: u32, body: T) -> core::result::Result<T, Errno> {
    let mut domctl = prepared(domain, cmd, body);
    // SAFETY: a complete domctl; its pointers are the caller's promise.
    unsafe { hypercall::domctl(&mut domctl) }?;
    Ok(answer(&domctl))
}

/// A domctl as the hypervisor takes it.
pub(super) fn prepared<T: Plain>(domain: DomId, cmd: u32, body: T) -> Domctl {
    const { assert!(size_of::<T>() <= size_of::<Body>() && align_of::<T>() <= align_of::<Body>()) };
    let mut domctl = Domctl { cmd, interface_version: abi::INTERFACE_VERSION, domain, _pad: [0; 3], u: Body::ZERO };
    // SAFETY: the union is large and aligned enough for `T`, checked above.
    unsafe { (&raw mut domctl.u).cast::<T>().write(body) };
    domctl
}

/// What the hypervisor left in a domctl.
pub(super) fn answer<T: Plain>(domctl: &Domctl) -> T {
    const { assert!(size_of::<T>() <= size_of::<Body>() && align_of::<T>() <= align_of::<Body>()) };
    // SAFETY: the union is large and aligned enough for `T`. Its bytes are those of the `T` that was written there, over which Xen
    // may have written any others, and any bits are a `T`.
    unsafe { (&raw const domctl.u).cast::<T>().read() }
}

unsafe fn call_plain(domain: DomId, cmd: u32) -> core::result::Result<(), Errno> {
    let mut domctl = Domctl { cmd, interface_version: abi::INTERFACE_VERSION, domain, _pad: [0; 3], u: Body::ZERO };
    // SAFETY: a complete domctl without pointers.
    unsafe { hypercall::domctl(&mut domctl) }.map(drop)
}

unsafe fn plain(domain: DomId, cmd: u32, operation: Operation) -> Result {
    // SAFETY: the caller's promise.
    unsafe { call_plain(domain, cmd) }.map_err(|errno| operation.error(errno))
}
