//! The network: one interface, TCP connections, datagrams, an address from the configuration or by DHCP.
//!
//! smoltcp does the work. Nothing here waits by itself: [`Net::poll`] moves packets, and the futures of a
//! [`Connection`] look at their socket once a turn.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::task::Poll;

use smoltcp::iface::{Config as InterfaceConfig, Interface, PollIngressSingleResult, PollResult};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::{Socket, dhcpv4, tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint, Ipv4Cidr};

use crate::config::{Address, Config};
use crate::error::LinkError;
use crate::limits::{KEEP_ALIVE, LINGER};
use crate::loopback::{self, Loopback, Looped};
use crate::path_mtu::{Mark, PathMtu};
use crate::sieve::Sieve;
use crate::tasks::Timer;

/// Packets taken in before others get a turn.
const INGRESS_BUDGET: usize = 512;
/// Closed connections that may do so at the same time: both of some sessions.
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

/// The interface and all sockets.
pub(crate) struct Net {
    interface: Interface,
    sockets: SocketSet<'static>,
    datagrams: SocketHandle,
    dhcp: Option<SocketHandle>,
    loopback: Loopback,
    /// Where others call.
    port: u16,
    path: PathMtu,
    /// The MTU is the operator's word, which goes before the network's.
    told_mtu: bool,
    next_port: u16,
    lingering: Vec<(SocketHandle, u64)>,
}

impl Net {
    /// Brings the interface up. `seed` makes sequence numbers and ports hard to guess.
    pub(crate) fn new<D: Device + ?Sized>(config: &Config, device: &mut D, seed: u64, now: u64) -> Self {
        let mac = HardwareAddress::Ethernet(EthernetAddress(config.mac));
        let mut settings = InterfaceConfig::new(mac);
        settings.random_seed = seed;
        let capabilities = device.capabilities();
        let mtu = config.mtu.map_or(capabilities.ip_mtu(), usize::from);
        let path = PathMtu::new(mtu, capabilities.segmentation.tcpv4.is_some());
        let mut interface =
            Interface::new(settings, &mut Sieve { device, port: config.port, path: &path }, instant(now));
        let mut sockets = SocketSet::new(Vec::new());
        // Before all others: the sockets are served in this order.
        let datagrams = sockets.add(udp::Socket::new(datagram_buffer(), datagram_buffer()));
        let dhcp = match config.address {
            Address::Dhcp => Some(sockets.add(dhcp_socket())),
            Address::Static { address, prefix, gateway } => {
                set_address(&mut interface, Some(Ipv4Cidr::new(address, prefix)), gateway);
                None
            }
        };
        let next_port = 49152 + (seed >> 32) as u16 % 16384;
        let loopback = Loopback::new(EthernetAddress(config.mac));
        Self {
            interface,
            sockets,
            datagrams,
            dhcp,
            loopback,
            port: config.port,
            path,
            told_mtu: config.mtu.is_some(),
            next_port,
            lingering: Vec::new(),
        }
    }

    /// Takes packets in and sends what the sockets have; whether anything happened.
    pub(crate) fn poll<D: Device + ?Sized>(&mut self, device: &mut D, now: u64) -> bool {
        let time = instant(now);
        let loopback = (self.talks_to_itself() || !self.loopback.is_empty()).then_some(&mut self.loopback);
        let device = &mut Sieve { device: &mut Looped { device, loopback }, port: self.port, path: &self.path };
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
        self.bury(now);
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
    pub(crate) fn poll_at(&mut self, now: u64) -> Option<u64> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000))
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

    /// Keeps a socket that was given up until it has said all it had to say. There is memory for so many: one more ends the
    /// oldest.
    fn linger(&mut self, handle: SocketHandle, deadline: u64) {
        if self.lingering.len() >= LINGERING {
            let (oldest, _) = self.lingering.remove(0);
            self.sockets.remove(oldest);
        }
        self.lingering.push((handle, deadline));
    }

    /// Removes sockets that were given up and have said all they had to say.
    fn bury(&mut self, now: u64) {
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

fn instant(now: u64) -> Instant {
    Instant::from_micros((now / 1000) as i64)
}

/// Bytes that a source has on their way at once, at most, on each of its connections.
///
/// Together they stay within the 512 KiB that Linux's netback queues for one interface: what comes on top of that in one
/// burst it drops, and the sender notices only after a second (smoltcp's shortest retransmission timeout). And each
/// stays below what the target can hold: a receiver that says "no room" while a packet of it is lost makes smoltcp 0.14
/// forget to send that packet again, for ever (it takes the window probe's timer for the retransmission's).
pub(crate) const IN_FLIGHT_BULK: usize = 320 << 10;
/// See [`IN_FLIGHT_BULK`].
pub(crate) const IN_FLIGHT_CONTROL: usize = 128 << 10;
/// What a target can hold beyond that.
pub(crate) const SPARE: usize = 64 << 10;

/// Bytes that a connection may hold for the application, per direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffers {
    pub(crate) receive: usize,
    pub(crate) send: usize,
}

impl Buffers {
    /// Both.
    pub(crate) const fn size(self) -> usize {
        self.receive + self.send
    }
}

/// One TCP connection. Dropping it closes it, after what was written has been delivered if it lingers.
pub(crate) struct Connection {
    net: Rc<RefCell<Net>>,
    timer: Timer,
    handle: SocketHandle,
    received: Cell<u64>,
    sent: Cell<u64>,
    in_flight: Cell<usize>,
    patience: Cell<Option<u64>>,
    /// Whether what was written is still delivered when this is dropped.
    lingers: Cell<bool>,
}

impl Connection {
    fn new(net: &Rc<RefCell<Net>>, timer: &Timer, buffers: Buffers) -> Self {
        let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
        let mut socket = tcp::Socket::new(buffer(buffers.receive), buffer(buffers.send));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let handle = {
            let net = &mut *net.borrow_mut();
            net.path.hope(timer.now());
            net.sockets.add(socket)
        };
        let in_flight = Cell::new(buffers.send);
        let (received, sent, patience) = (Cell::new(0), Cell::new(0), Cell::new(None));
        let lingers = Cell::new(true);
        Self { net: net.clone(), timer: timer.clone(), handle, received, sent, in_flight, patience, lingers }
    }

    /// A connection that waits for a peer; see [`Connection::accepted`].
    pub(crate) fn listen(
        net: &Rc<RefCell<Net>>,
        timer: &Timer,
        port: u16,
        buffers: Buffers,
    ) -> Result<Self, LinkError> {
        let connection = Self::new(net, timer, buffers);
        connection.socket(|socket| socket.listen(port)).map_err(|_| LinkError::Full)?;
        connection.lingers.set(false);
        Ok(connection)
    }

    /// Waits until somebody has begun to connect.
    pub(crate) async fn approached(&self) {
        let listens = || self.socket(|socket| socket.state() == tcp::State::Listen);
        self.timer.wait_for(|| (!listens()).then_some(())).await;
    }

    /// Lets what is written be delivered even after this is dropped. So it is on connections that this agent opened; for
    /// strangers no memory is kept.
    pub(crate) fn linger(&self) {
        self.lingers.set(true);
    }

    /// Waits until a peer has connected.
    pub(crate) async fn accepted(&self) -> Result<(), LinkError> {
        self.established(LinkError::Lost).await
    }

    /// Connects to `peer`.
    pub(crate) async fn connect(
        net: &Rc<RefCell<Net>>,
        timer: &Timer,
        peer: SocketAddrV4,
        buffers: Buffers,
    ) -> Result<Self, LinkError> {
        let connection = Self::new(net, timer, buffers);
        {
            let net = &mut *net.borrow_mut();
            net.next_port = net.next_port.checked_add(1).unwrap_or(49152);
            let socket = net.sockets.get_mut::<tcp::Socket>(connection.handle);
            socket
                .connect(net.interface.context(), (*peer.ip(), peer.port()), net.next_port)
                .map_err(|_| LinkError::NoAnswer(peer))?;
        }
        timer.nudge();
        connection.established(LinkError::NoAnswer(peer)).await?;
        Ok(connection)
    }

    async fn established(&self, otherwise: LinkError) -> Result<(), LinkError> {
        use tcp::State::{Closed, Listen, SynReceived, SynSent};
        self.timer
            .wait_for(|| match self.socket(|socket| socket.state()) {
                Listen | SynSent | SynReceived => None,
                Closed => Some(Err(otherwise)),
                _ => Some(Ok(())),
            })
            .await
    }

    /// How long the peer may say nothing, or take nothing of what it is sent, before the connection counts as lost; `None`
    /// waits for ever.
    pub(crate) fn set_patience(&self, patience_ns: Option<u64>) {
        self.patience.set(patience_ns);
        self.socket(|socket| {
            socket.set_timeout(patience_ns.map(|ns| Duration::from_micros(ns / 1000)));
            let often = patience_ns.map_or(KEEP_ALIVE, |ns| KEEP_ALIVE.min(ns / 5));
            socket.set_keep_alive(Some(Duration::from_micros(often / 1000)));
        });
    }

    /// Lets at most `bytes` be on their way at once.
    pub(crate) fn set_in_flight(&self, bytes: usize) {
        self.in_flight.set(bytes);
    }

    /// Where the other end is, as long as there is one.
    pub(crate) fn peer(&self) -> Option<SocketAddrV4> {
        self.socket(|socket| socket.remote_endpoint()).and_then(endpoint)
    }

    /// Fills `into`.
    pub(crate) async fn read_exact(&self, into: &mut [u8]) -> Result<(), LinkError> {
        let mut done = 0;
        poll_fn(|_| {
            while done < into.len() {
                match self.socket(|socket| socket.recv_slice(&mut into[done..])) {
                    Ok(0) => return Poll::Pending,
                    Ok(count) => {
                        done += count;
                        self.received.set(self.received.get() + count as u64);
                        self.timer.nudge();
                    }
                    Err(tcp::RecvError::Finished) => return Poll::Ready(Err(LinkError::Closed)),
                    Err(tcp::RecvError::InvalidState) => return Poll::Ready(Err(LinkError::Lost)),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Hands all of `bytes` to the connection; they may not have left yet.
    pub(crate) async fn write_all(&self, bytes: &[u8]) -> Result<(), LinkError> {
        let mut done = 0;
        while done < bytes.len() {
            let more = || match self.write_some(&bytes[done..]) {
                Ok(0) => None,
                written => Some(written),
            };
            done += self.patiently(more).await?;
        }
        Ok(())
    }

    /// Waits until `progress` gives something, for as long as the connection has patience. A peer whose TCP is alive may
    /// still never read: the guest must not wait for that.
    pub(crate) async fn patiently<T>(
        &self,
        mut progress: impl FnMut() -> Option<Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        if let Some(made) = progress() {
            return made;
        }
        match self.patience.get() {
            Some(patience) => {
                self.timer.within(patience, self.timer.wait_for(progress)).await.ok_or(LinkError::Lost)?
            }
            None => self.timer.wait_for(progress).await,
        }
    }

    /// Hands over what there is room for now; how many bytes that were.
    pub(crate) fn write_some(&self, bytes: &[u8]) -> Result<usize, LinkError> {
        let mut done = 0;
        while done < bytes.len() {
            let room = self.in_flight.get().saturating_sub(self.backlog());
            let end = bytes.len().min(done + room);
            match self.socket(|socket| socket.send_slice(&bytes[done..end])) {
                Ok(0) => break,
                Ok(count) => {
                    done += count;
                    self.sent.set(self.sent.get() + count as u64);
                    self.timer.nudge();
                }
                Err(tcp::SendError::InvalidState) => return Err(LinkError::Lost),
            }
        }
        Ok(done)
    }

    /// Whether it still can be written to.
    pub(crate) fn check(&self) -> Result<(), LinkError> {
        if self.socket(|socket| socket.may_send()) { Ok(()) } else { Err(LinkError::Lost) }
    }

    /// The clock that it waits by.
    pub(crate) fn timer(&self) -> &Timer {
        &self.timer
    }

    /// Bytes written that the peer has not acknowledged.
    pub(crate) fn backlog(&self) -> usize {
        self.socket(|socket| socket.send_queue())
    }

    /// What has been sent and heard so far.
    pub(crate) fn mark(&self) -> Mark {
        self.net.borrow().path.mark()
    }

    /// So many bytes were acknowledged at once.
    pub(crate) fn passed(&self, bytes: u64) {
        self.net.borrow().path.pass(bytes);
    }

    /// Nothing has been acknowledged since. If it is too large, packets get smaller; whether it was.
    pub(crate) fn doubt(&self, since: Mark) -> bool {
        self.net.borrow().path.doubt(since, self.timer.now())
    }

    /// The bytes of the largest packet that is sent.
    pub(crate) fn largest(&self) -> u64 {
        self.net.borrow().path.limit() as u64
    }

    /// Waits until the peer has acknowledged everything written.
    pub(crate) async fn arrived(&self) -> Result<(), LinkError> {
        self.patiently(|| match self.check() {
            Ok(()) if self.backlog() > 0 => None,
            outcome => Some(outcome),
        })
        .await
    }

    /// Bytes handed over by [`Connection::write_some`] so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Those of them that the peer has acknowledged.
    pub(crate) fn delivered(&self) -> u64 {
        self.sent() - self.backlog() as u64
    }

    /// Bytes handed out by [`Connection::read_exact`] so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Ends it at once; the peer sees it break.
    pub(crate) fn abort(&self) {
        self.socket(tcp::Socket::abort);
        self.timer.nudge();
    }

    /// Waits until everything written has been acknowledged and the peer has closed its end; `false` if the connection
    /// ended otherwise.
    pub(crate) async fn finished(&self) -> bool {
        use tcp::State::{Closed, Closing, LastAck, TimeWait};
        self.socket(|socket| socket.close());
        self.timer.nudge();
        // A peer that closed first leaves nothing to wait for after its last acknowledgement.
        let mut has_all = false;
        self.timer
            .wait_for(|| {
                let state = self.socket(|socket| socket.state());
                has_all |= state == TimeWait || matches!(state, Closing | LastAck) && self.backlog() == 0;
                matches!(state, TimeWait | Closed).then_some(has_all)
            })
            .await
    }

    fn socket<T>(&self, look: impl FnOnce(&mut tcp::Socket<'static>) -> T) -> T {
        look(self.net.borrow_mut().sockets.get_mut::<tcp::Socket>(self.handle))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let lingers = self.lingers.get();
        self.socket(|socket| if lingers { socket.close() } else { socket.abort() });
        let deadline = self.timer.now() + LINGER;
        self.net.borrow_mut().linger(self.handle, deadline);
    }
}
