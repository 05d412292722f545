//! The network's part of the self-test: TCP to and from dom0's `dom0d`, or another agent's meter at the peer's address, with a
//! checksum over every byte.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use agent::MTU;
use agent::command_line::SelfTestOptions;
use boot::nic::{self, Device, Nic};
use boot::say;
use boot::start::Machine;
use common::stream::{Checksum, Pattern, SERVE_PORT, SINK_PORT, Trailer};
use common::time::{Instant, ns};
use smoltcp::iface::{Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr};
use xen_pv::event;
use xen_pv::time;

use crate::{Outcome, check};

/// Bytes each way.
const BYTES: u64 = 128 << 20;
/// A backend queues 512 KiB for a frontend and drops what comes on top: the window must stay below.
const RECEIVE_BUFFER: usize = 384 << 10;
const SEND_BUFFER: usize = 1 << 20;
/// How long each part may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(machine: &mut Machine, options: &SelfTestOptions, peer: Ipv4Addr) -> Outcome {
    let before = time::now();
    let mut network = Network::start(machine, options)?;
    say!("network: connected in {} ms; {}", (time::now() - before).as_millis(), network.features);
    network.send(peer)?;
    network.receive(peer)
}

/// smoltcp with one connection.
pub struct Network {
    nic: Box<dyn Nic>,
    features: String,
    device: Device,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    next_port: u16,
}

impl Network {
    /// Connects the network and takes the address of the command line.
    pub fn start(machine: &mut Machine, options: &SelfTestOptions) -> Result<Self, String> {
        let Some(store) = machine.store.as_mut() else { return Err(String::from("network: no xenstore")) };
        let up = nic::bring_up(&mut machine.memory, &mut machine.pool, store, *MTU.start()..=1500)?;
        let (nic, mut device, features) = (up.nic, up.device, up.interface.to_string());
        let hardware = smoltcp::iface::Config::new(EthernetAddress(up.mac).into());
        let mut interface = Interface::new(hardware, &mut device, now());
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(options.address, options.prefix)));
        });
        let mut sockets = SocketSet::new(vec![]);
        let socket = sockets.add(new_socket());
        Ok(Self { nic, features, device, interface, sockets, socket, next_port: 50000 })
    }

    /// Another socket.
    pub fn add_socket(&mut self) -> SocketHandle {
        self.sockets.add(new_socket())
    }

    /// A socket that was added.
    pub fn socket(&mut self, socket: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(socket)
    }

    /// Moves packets; whether that changed anything.
    pub fn poll(&mut self) -> bool {
        self.interface.poll(now(), &mut self.device, &mut self.sockets) != PollResult::None
    }

    /// Sleeps until a packet comes, smoltcp has something to do, or the deadline.
    pub fn sleep(&mut self, deadline: Instant) {
        let delay = self.interface.poll_delay(now(), &self.sockets);
        let wake = delay.map_or(deadline, |delay| time::now() + delay.into());
        let ports: Vec<_> = self.nic.port().into_iter().collect();
        event::wait(&ports, Some(wake.min(deadline)));
        for port in ports {
            event::take_pending(port);
        }
    }

    /// The peer checks what we send.
    fn send(&mut self, peer: Ipv4Addr) -> Outcome {
        self.connect(peer, SINK_PORT)?;
        let (mut pattern, mut sum, mut sent) = (Pattern::default(), Checksum::default(), 0);
        let mut block = vec![0; 64 * 1024];
        let mut at = block.len();
        let before = time::now();
        self.until("sending", |socket| {
            while sent < BYTES && socket.can_send() {
                if at == block.len() {
                    pattern.fill(&mut block);
                    sum.add(&block);
                    at = 0;
                }
                let count = socket.send_slice(&block[at..]).unwrap_or(0);
                at += count;
                sent += count as u64;
            }
            sent >= BYTES
        })?;
        self.until("closing", |socket| {
            socket.close();
            true
        })?;
        let trailer = self.read_trailer()?;
        report("sent to the peer", time::now() - before);
        check(trailer == sum.trailer(), || format!("network: the peer got {trailer:?}, not what was sent"))?;
        self.disconnect()
    }

    /// We check what the peer sends.
    fn receive(&mut self, peer: Ipv4Addr) -> Outcome {
        self.connect(peer, SERVE_PORT)?;
        let before = time::now();
        self.until("asking", |socket| socket.send_slice(&BYTES.to_le_bytes()) == Ok(8))?;
        let (mut sum, mut got) = (Checksum::default(), 0);
        self.until("receiving", |socket| {
            while got < BYTES && socket.can_recv() {
                let count = socket.recv(|bytes| {
                    let count = (bytes.len() as u64).min(BYTES - got) as usize;
                    sum.add(&bytes[..count]);
                    (count, count)
                });
                got += count.unwrap_or(0) as u64;
            }
            got >= BYTES
        })?;
        report("received from the peer", time::now() - before);
        let trailer = self.read_trailer()?;
        check(trailer == sum.trailer(), || format!("network: the peer sent {trailer:?}, not what arrived"))?;
        self.disconnect()
    }

    fn connect(&mut self, peer: Ipv4Addr, port: u16) -> Outcome {
        let local = self.next_port;
        self.next_port += 1;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.socket);
        let connected = socket.connect(self.interface.context(), (peer, port), local);
        connected.map_err(|error| format!("network: {error}"))?;
        self.until("connecting", |socket| socket.may_send())
    }

    fn disconnect(&mut self) -> Outcome {
        self.sockets.get_mut::<tcp::Socket<'_>>(self.socket).abort();
        self.until("aborting", |socket| !socket.is_open())
    }

    fn read_trailer(&mut self) -> Result<Trailer, String> {
        let mut bytes = [0; Trailer::LEN];
        let mut got = 0;
        self.until("waiting for the checksum", |socket| {
            got += socket.recv_slice(&mut bytes[got..]).unwrap_or(0);
            got == bytes.len()
        })?;
        Ok(Trailer::from_bytes(bytes))
    }

    /// Polls until `done` says so.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut tcp::Socket<'_>) -> bool) -> Outcome {
        let deadline = time::now() + PATIENCE;
        loop {
            let changed = self.poll();
            if done(self.sockets.get_mut(self.socket)) {
                self.poll();
                return Ok(());
            }
            check(time::now() < deadline, || format!("network: {what} takes too long"))?;
            if !changed {
                self.sleep(deadline);
            }
        }
    }
}

fn new_socket() -> tcp::Socket<'static> {
    let buffer = |size| tcp::SocketBuffer::new(vec![0; size]);
    let mut socket = tcp::Socket::new(buffer(RECEIVE_BUFFER), buffer(SEND_BUFFER));
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

fn report(what: &str, took: Duration) {
    let rate = BYTES * 1000 / ns(took).max(1);
    say!("network: {} MiB {what} in {} ms, {rate} MB/s", BYTES >> 20, took.as_millis());
}

fn now() -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros((time::now().ns() / 1000) as i64)
}
