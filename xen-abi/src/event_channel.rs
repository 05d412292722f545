//! Event channels (`event_channel.h`).

use common::DomId;

use super::Port;

/// Binds a local port to another domain's unbound port.
pub const EVTCHNOP_BIND_INTERDOMAIN: u32 = 0;
/// Binds a local port to a physical interrupt.
pub const EVTCHNOP_BIND_PIRQ: u32 = 2;
/// Closes a port.
pub const EVTCHNOP_CLOSE: u32 = 3;
/// Notifies the other end.
pub const EVTCHNOP_SEND: u32 = 4;
/// Says what a port is.
pub const EVTCHNOP_STATUS: u32 = 5;
/// Allocates a port that another domain may bind.
pub const EVTCHNOP_ALLOC_UNBOUND: u32 = 6;
/// Allocates a port that notifies a virtual CPU of the caller.
pub const EVTCHNOP_BIND_IPI: u32 = 7;

/// Event channels of the two-level interface.
pub const CHANNELS: u32 = 4096;

/// `struct evtchn_alloc_unbound`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AllocUnbound {
    /// In: the domain that gets the port, normally the caller.
    pub dom: DomId,
    /// In: the domain that may bind it.
    pub remote_dom: DomId,
    /// Out: the port.
    pub port: Port,
}

/// `struct evtchn_bind_interdomain`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BindInterdomain {
    /// In: the domain at the other end.
    pub remote_dom: DomId,
    /// In: its port.
    pub remote_port: Port,
    /// Out: our port.
    pub local_port: Port,
}

/// `struct evtchn_bind_pirq`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BindPirq {
    /// In: the interrupt.
    pub pirq: u32,
    /// In: 0, not shared.
    pub flags: u32,
    /// Out: our port.
    pub port: Port,
}

/// `struct evtchn_close`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Close {
    /// The port.
    pub port: Port,
}

/// `struct evtchn_send`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Send {
    /// Our port.
    pub port: Port,
}

/// `struct evtchn_bind_ipi`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BindIpi {
    /// In: the virtual CPU.
    pub vcpu: u32,
    /// Out: the port.
    pub port: Port,
}

/// `struct evtchn_status`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Status {
    /// In: whose port.
    pub dom: DomId,
    /// In: the port.
    pub port: Port,
    /// Out: an `EVTCHNSTAT_` number.
    pub status: u32,
    /// Out: the virtual CPU that it notifies.
    pub vcpu: u32,
    /// Out: what is at the other end.
    pub u: [u32; 2],
}

/// The port has another domain's at the other end.
pub const EVTCHNSTAT_INTERDOMAIN: u32 = 2;
