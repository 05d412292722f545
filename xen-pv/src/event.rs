//! Event channels without interrupts: notifications set a pending bit, and [`wait`] sleeps until one is set.
//!
//! Upcalls are masked when the domain starts and stay masked; channels may be masked too, SCHEDOP_poll does not care.

use core::sync::atomic::{AtomicU64, Ordering};

use common::DomId;
use common::time::Instant;
use xen_abi::event_channel::{
    AllocUnbound, BindInterdomain, BindIpi, BindPirq, CHANNELS, Close, EVTCHNOP_ALLOC_UNBOUND,
    EVTCHNOP_BIND_INTERDOMAIN, EVTCHNOP_BIND_IPI, EVTCHNOP_BIND_PIRQ, EVTCHNOP_CLOSE, EVTCHNOP_SEND, EVTCHNOP_STATUS,
    EVTCHNSTAT_INTERDOMAIN, Send, Status,
};
use xen_abi::sched::{POLL_PORTS, Poll, SCHEDOP_POLL};
use xen_abi::{Errno, Port};

use crate::{hypercall, shared_info};

/// One end of a channel; dropping it closes the port.
#[derive(Debug)]
pub struct Channel {
    port: Port,
    keep: bool,
}

impl Channel {
    /// A port that `remote` may bind.
    pub fn unbound(remote: DomId) -> Result<Self, Errno> {
        let mut call = AllocUnbound { dom: DomId::SELF, remote_dom: remote, port: Port(0) };
        // SAFETY: the structure of this operation.
        unsafe { hypercall::event_channel_op(EVTCHNOP_ALLOC_UNBOUND, &mut call)? };
        Ok(Self { port: call.port, keep: false })
    }

    /// Binds to a port that `remote` has left unbound for us.
    pub fn bind(remote: DomId, remote_port: Port) -> Result<Self, Errno> {
        let mut call = BindInterdomain { remote_dom: remote, remote_port, local_port: Port(0) };
        // SAFETY: the structure of this operation.
        unsafe { hypercall::event_channel_op(EVTCHNOP_BIND_INTERDOMAIN, &mut call)? };
        Ok(Self { port: call.local_port, keep: false })
    }

    /// A port whose notifications come back to this domain.
    pub fn to_self() -> Result<Self, Errno> {
        let mut call = BindIpi { vcpu: 0, port: Port(0) };
        // SAFETY: the structure of this operation.
        unsafe { hypercall::event_channel_op(EVTCHNOP_BIND_IPI, &mut call)? };
        Ok(Self { port: call.port, keep: false })
    }

    /// A port that a physical interrupt of a device of ours notifies.
    pub fn interrupt(pirq: u32) -> Result<Self, Errno> {
        let mut call = BindPirq { pirq, flags: 0, port: Port(0) };
        // SAFETY: the structure of this operation.
        unsafe { hypercall::event_channel_op(EVTCHNOP_BIND_PIRQ, &mut call)? };
        Ok(Self { port: call.port, keep: false })
    }

    /// A port that the domain builder bound; it stays for the domain's life.
    pub fn from_builder(port: Port) -> Self {
        Self { port, keep: true }
    }

    /// Its number, as the other side must know it.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Whether the other side is there.
    pub fn is_bound(&self) -> bool {
        let mut call = Status { dom: DomId::SELF, port: self.port, status: 0, vcpu: 0, u: [0; 2] };
        // SAFETY: the structure of this operation.
        let asked = unsafe { hypercall::event_channel_op(EVTCHNOP_STATUS, &mut call) };
        asked.is_ok() && call.status == EVTCHNSTAT_INTERDOMAIN
    }

    /// Tells the other side to look.
    pub fn notify(&self) {
        // SAFETY: the structure of this operation. It fails only for a closed port: nobody listens then.
        let _ = unsafe { hypercall::event_channel_op(EVTCHNOP_SEND, &mut Send { port: self.port }) };
    }

    /// Whether the other side told us to look since the last call. Look *after* this.
    pub fn take_pending(&self) -> bool {
        take_pending(self.port)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if !self.keep {
            // SAFETY: the structure of this operation; the port is ours.
            let _ = unsafe { hypercall::event_channel_op(EVTCHNOP_CLOSE, &mut Close { port: self.port }) };
            self.take_pending();
        }
    }
}

/// Whether a port was notified since the last call. Look at what it stands for *after* this.
pub fn take_pending(port: Port) -> bool {
    let Some((word, bit)) = pending_bit(port) else { return false };
    word.load(Ordering::Relaxed) & bit != 0 && word.fetch_and(!bit, Ordering::AcqRel) & bit != 0
}

/// Sleeps until one of the ports is pending or system time reaches `deadline`; without a deadline for ever.
/// At most 128 ports count. It may return earlier: Xen wakes whoever waits for several ports on any event.
pub fn wait(ports: &[Port], deadline: Option<Instant>) {
    let nr_ports = ports.len().min(POLL_PORTS) as u32;
    // A deadline of 0 would mean "none" to Xen.
    let timeout = deadline.map_or(0, |deadline| deadline.ns().max(1));
    let mut call = Poll { ports: ports.as_ptr().cast(), nr_ports, timeout };
    // SAFETY: the structure of this operation; `Port` is a `u32`. A failure means that a port is closed: the caller
    // looks around and comes again.
    let _ = unsafe { hypercall::sched_op(SCHEDOP_POLL, &mut call) };
}

fn pending_bit(port: Port) -> Option<(&'static AtomicU64, u64)> {
    if port.0 >= CHANNELS {
        return None;
    }
    let words = &shared_info::get()?.evtchn_pending;
    Some((&words[port.0 as usize / 64], 1 << (port.0 % 64)))
}
