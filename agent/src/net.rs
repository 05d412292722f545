//! The network: one interface, TCP connections, datagrams, an address from the configuration or by DHCP.
//!
//! smoltcp does the work. Nothing here waits by itself: [`Net::poll`] moves packets, and the futures of a
//! [`Connection`] look at their socket once a turn.

mod announcement;
mod congestion;
mod connection;
mod frame;
mod ingress_filter;
mod loopback;
pub(crate) mod path_mtu;
mod recovery;
mod window;

use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::ops::RangeInclusive;

use smoltcp::iface::{Config as InterfaceConfig, Interface, PollIngressSingleResult, PollResult};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::{Socket, dhcpv4, tcp, udp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint, Ipv4Cidr};

use crate::tasks::Instant;
use announcement::Announcement;
pub(crate) use connection::Connection;
use ingress_filter::IngressFilter;
use loopback::{Loopback, Looped};
use path_mtu::PathMtu;
use recovery::Recovery;
pub(crate) use window::{Buffers, IN_FLIGHT_BULK, IN_FLIGHT_CONTROL, SPARE};

/// Packets taken in before others get a turn.
const INGRESS_BUDGET: usize = 512;
/// Closed connections that may linger at the same time: both of some sessions.
const LINGERING: usize = 8;
/// Datagrams that may wait in each direction, and their bytes. What comes on top is lost.
const DATAGRAMS: usize = 96;
const DATAGRAM_BYTES: usize = 96 << 10;
/// The option of DHCP that tells the MTU (RFC 2132, 5.1), and bytes of an answer that are looked at.
const DHCP_MTU: u8 = 26;
const DHCP_ANSWER: usize = 1500;
/// What they take.
pub(crate) const MEMORY: usize = loopback::MEMORY
    + LINGERING * (IN_FLIGHT_BULK + SPARE + (4 << 10))
    + 2 * (DATAGRAM_BYTES + DATAGRAMS * size_of::<udp::PacketMetadata>());

/// What `mtu=` may be: from what every IPv4 network carries to what any is known to.
pub const MTU: RangeInclusive<u16> = 576..=9216;

/// How the agent comes to its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// It asks the network.
    Dhcp,
    /// It is told.
    Static {
        /// Its own address.
        address: Ipv4Addr,
        /// Bits of the network's prefix.
        prefix: u8,
        /// The way to other networks.
        gateway: Option<Ipv4Addr>,
    },
}

/// What the network is brought up with.
pub(crate) struct Settings {
    pub(crate) address: Address,
    /// Where others call.
    pub(crate) port: u16,
    /// Bytes of the largest IP packet; `None` leaves it to the interface.
    pub(crate) mtu: Option<u16>,
    pub(crate) mac: [u8; 6],
    /// Bytes of the pool from which connections get wide windows.
    pub(crate) windows: usize,
}

/// The interface and all sockets.
pub(crate) struct Net {
    interface: Interface,
    sockets: SocketSet<'static>,
    datagrams: SocketHandle,
    dhcp: Option<SocketHandle>,
    announcement: Announcement,
    loopback: Loopback,
    /// Where others call.
    port: u16,
    /// Bytes of the pool from which connections get wide windows.
    windows: usize,
    path: PathMtu,
    recovery: Recovery,
    /// The MTU is the operator's word, which goes before the network's.
    told_mtu: bool,
    next_port: u16,
    lingering: Vec<(SocketHandle, Instant)>,
}

impl Net {
    /// Brings the interface up. `seed` makes sequence numbers and ports hard to guess.
    pub(crate) fn new<D: Device + ?Sized>(settings: &Settings, device: &mut D, seed: u64, now: Instant) -> Self {
        let mac = EthernetAddress(settings.mac);
        let mut config = InterfaceConfig::new(HardwareAddress::Ethernet(mac));
        config.random_seed = seed;
        let capabilities = device.capabilities();
        let mtu = settings.mtu.map_or(capabilities.ip_mtu(), usize::from);
        let path = PathMtu::new(mtu, capabilities.segmentation.tcpv4.is_some());
        let recovery = Recovery::default();
        let filter = &mut IngressFilter { device, port: settings.port, own: None, path: &path, recovery: &recovery };
        let mut interface = Interface::new(config, filter, instant(now));
        let mut sockets = SocketSet::new(Vec::new());
        // Before all others: the sockets are served in this order.
        let datagrams = sockets.add(udp::Socket::new(datagram_buffer(), datagram_buffer()));
        let dhcp = match settings.address {
            Address::Dhcp => Some(sockets.add(dhcp_socket())),
            Address::Static { address, prefix, gateway } => {
                set_address(&mut interface, Some(Ipv4Cidr::new(address, prefix)), gateway);
                None
            }
        };
        let next_port = 49152 + (seed >> 32) as u16 % 16384;
        Self {
            interface,
            sockets,
            datagrams,
            dhcp,
            announcement: Announcement::new(mac),
            loopback: Loopback::new(mac),
            port: settings.port,
            windows: settings.windows,
            path,
            recovery,
            told_mtu: settings.mtu.is_some(),
            next_port,
            lingering: Vec::new(),
        }
    }

    /// Takes packets in and sends what the sockets have; whether anything happened.
    pub(crate) fn poll<D: Device + ?Sized>(&mut self, device: &mut D, now: Instant) -> bool {
        let time = instant(now);
        let own = self.interface.ipv4_addr();
        self.announcement.send(own, device, now);
        let loopback = (self.talks_to_itself() || !self.loopback.is_empty()).then_some(&mut self.loopback);
        let device = &mut Looped { device, loopback };
        let Self { port, path, recovery, .. } = self;
        let device = &mut IngressFilter { device, port: *port, own, path, recovery };
        let mut moved = false;
        self.interface.poll_maintenance(time);
        for _ in 0..INGRESS_BUDGET {
            match self.interface.poll_ingress_single(time, device, &mut self.sockets) {
                PollIngressSingleResult::None => break,
                _ => moved = true,
            }
        }
        // Every turn of this loop sends at most one packet of each socket: small ones do not wait behind bulk.
        while self.interface.poll_egress(time, device, &mut self.sockets) == PollResult::SocketStateChanged {
            moved = true;
        }
        moved |= self.loopback.take_fresh();
        self.follow_dhcp();
        self.remove_closed(now);
        moved
    }

    /// Whether a connection of this agent has its other end here, too.
    fn talks_to_itself(&self) -> bool {
        let own = self.address().map(IpAddress::Ipv4);
        own.is_some()
            && self.sockets.iter().any(|(_, socket)| match socket {
                Socket::Tcp(socket) => socket.remote_endpoint().map(|other| other.addr) == own,
                _ => false,
            })
    }

    /// When to poll again even if no packet comes.
    pub(crate) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let at = self.interface.poll_at(instant(now), &self.sockets);
        let at = at.map(|at| Instant::from_ns(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000)));
        at.into_iter().chain(self.announcement.due()).min()
    }

    /// The interface may be at another place of the network than before.
    pub(crate) fn reappear(&mut self) {
        self.announcement.again();
    }

    /// This agent's address, once it has one.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.interface.ipv4_addr()
    }

    /// Takes datagrams to `port`, if it does not yet.
    pub(crate) fn open_datagrams(&mut self, port: u16) {
        let socket = self.sockets.get_mut::<udp::Socket>(self.datagrams);
        if !socket.is_open() && socket.bind(port).is_err() {
            log::error!("datagrams to port {port} cannot be received");
        }
    }

    /// Takes none any more; those that wait are lost.
    pub(crate) fn close_datagrams(&mut self) {
        self.sockets.get_mut::<udp::Socket>(self.datagrams).close();
    }

    /// Lets `take` look at the next datagram, if one has come.
    pub(crate) fn receive_datagram<T>(&mut self, take: impl FnOnce(SocketAddrV4, &[u8]) -> T) -> Option<T> {
        let (bytes, meta) = self.sockets.get_mut::<udp::Socket>(self.datagrams).recv().ok()?;
        let from = endpoint(meta.endpoint).unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        Some(take(from, bytes))
    }

    /// Sends a datagram of these two parts, if there is room; whether there was.
    pub(crate) fn send_datagram(&mut self, to: SocketAddrV4, parts: [&[u8]; 2]) -> bool {
        let [front, back] = parts;
        let to = IpEndpoint::new(IpAddress::Ipv4(*to.ip()), to.port());
        match self.sockets.get_mut::<udp::Socket>(self.datagrams).send(front.len() + back.len(), to) {
            Ok(room) => {
                room[..front.len()].copy_from_slice(front);
                room[front.len()..].copy_from_slice(back);
                true
            }
            Err(_) => false,
        }
    }

    /// Sockets that take memory.
    #[cfg(test)]
    pub(crate) fn sockets(&self) -> usize {
        self.sockets.iter().count()
    }

    /// Bytes that this agent has sent to itself and not received.
    #[cfg(test)]
    pub(crate) fn on_its_way_back(&self) -> usize {
        self.loopback.bytes()
    }

    fn follow_dhcp(&mut self) {
        let Some(handle) = self.dhcp else { return };
        match self.sockets.get_mut::<dhcpv4::Socket>(handle).poll() {
            Some(dhcpv4::Event::Configured(lease)) => {
                let mut options = lease.packet.iter().flat_map(|packet| packet.options());
                let mtu = options.find(|option| option.kind == DHCP_MTU).and_then(|option| option.data.try_into().ok());
                if let Some(mtu) = mtu.filter(|_| !self.told_mtu) {
                    self.path.heed(u16::from_be_bytes(mtu));
                }
                log::info!("dhcp gives {}, packets of up to {} bytes", lease.address, self.path.limit());
                set_address(&mut self.interface, Some(lease.address), lease.router);
            }
            Some(dhcpv4::Event::Deconfigured) => set_address(&mut self.interface, None, None),
            None => {}
        }
    }

    /// Keeps a socket that was given up until it has said all it had to say; one that nobody has called has nothing to say. There
    /// is memory for so many: one more ends the oldest.
    fn linger(&mut self, handle: SocketHandle, deadline: Instant) {
        if self.sockets.get::<tcp::Socket>(handle).remote_endpoint().is_none() {
            self.sockets.remove(handle);
            return;
        }
        if self.lingering.len() >= LINGERING {
            let (oldest, _) = self.lingering.remove(0);
            self.sockets.remove(oldest);
        }
        self.lingering.push((handle, deadline));
    }

    /// Removes sockets that were given up and have said all they had to say.
    fn remove_closed(&mut self, now: Instant) {
        let sockets = &mut self.sockets;
        self.lingering.retain(|(handle, deadline)| {
            let socket = sockets.get_mut::<tcp::Socket>(*handle);
            if matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait) {
                sockets.remove(*handle);
                return false;
            }
            if now >= *deadline {
                socket.abort();
            }
            true
        });
    }
}

/// A client that asks for mask, router and MTU.
fn dhcp_socket() -> dhcpv4::Socket<'static> {
    let mut socket = dhcpv4::Socket::new();
    socket.set_parameter_request_list(&[1, 3, DHCP_MTU]);
    // For as long as the agent lives. The fuzzer makes many of them, and each would be a leak.
    if cfg!(not(fuzzing)) {
        socket.set_receive_packet_buffer(vec![0; DHCP_ANSWER].leak());
    }
    socket
}

fn datagram_buffer() -> udp::PacketBuffer<'static> {
    udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; DATAGRAMS], vec![0; DATAGRAM_BYTES])
}

fn endpoint(endpoint: IpEndpoint) -> Option<SocketAddrV4> {
    match endpoint.addr {
        IpAddress::Ipv4(address) => Some(SocketAddrV4::new(address, endpoint.port)),
        IpAddress::Ipv6(_) => None,
    }
}

fn set_address(interface: &mut Interface, address: Option<Ipv4Cidr>, gateway: Option<Ipv4Addr>) {
    interface.update_ip_addrs(|addresses| {
        addresses.clear();
        if let Some(address) = address {
            let _ = addresses.push(IpCidr::Ipv4(address));
        }
    });
    interface.routes_mut().remove_default_ipv4_route();
    if let Some(gateway) = gateway {
        let _ = interface.routes_mut().add_default_ipv4_route(gateway);
    }
}

/// smoltcp counts in microseconds.
fn instant(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros((now.ns() / 1000) as i64)
}
