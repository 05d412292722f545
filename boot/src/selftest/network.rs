//! The network's part of the self-test: TCP to and from dom0, with a checksum over every byte.
//!
//! dom0 runs the testbed's `dom0d`: on port 7001 it takes a stream and answers with its length and checksum, on 7002 it
//! is told a length and answers with so much of a pattern and then the same trailer (`tests_qemu::meter`).

use alloc::format;
use alloc::string::String;
use alloc::vec;
use core::net::Ipv4Addr;

use agent::{Address, Config};
use smoltcp::iface::{Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr};
use xen_pv::event;
use xen_pv::netfront::{self, Netfront};
use xen_pv::time;

use super::{Outcome, check};
use crate::net_device::NetDevice;
use crate::say;
use crate::start::Machine;

const SINK_PORT: u16 = 7001;
const SERVE_PORT: u16 = 7002;
/// Bytes each way.
const BYTES: u64 = 128 << 20;
const BUFFER: usize = 1 << 20;
/// How long each part may take.
const PATIENCE_NS: u64 = 60_000_000_000;

pub fn run(machine: &mut Machine) -> Outcome {
    let before = time::now_ns();
    let mut network = Network::start(machine)?;
    say!("network: connected in {} ms; {:?}", (time::now_ns() - before) / 1_000_000, network.device.features());
    let peer = machine.command_line.split_ascii_whitespace().find_map(|word| word.strip_prefix("peer="));
    let peer = peer.map_or(Ok(Ipv4Addr::new(10, 77, 0, 2)), str::parse);
    let peer = peer.map_err(|_| String::from("network: the command line's peer= is no address"))?;
    network.send(peer)?;
    network.receive(peer)
}

/// smoltcp with one connection.
struct Network {
    netfront: Netfront,
    device: NetDevice,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    next_port: u16,
}

impl Network {
    fn start(machine: &mut Machine) -> Result<Self, String> {
        let Some(store) = machine.store.as_mut() else { return Err(String::from("network: no xenstore")) };
        let pages = machine.pool.take(netfront::PAGES).map_err(|errno| format!("network: {errno}"))?;
        let (netfront, queue) = Netfront::connect(store, pages).map_err(|error| format!("{error}"))?;
        let mac = netfront.mac(store).map_err(|error| format!("{error}"))?;
        let config = Config::from_command_line(machine.command_line, mac, 0).map_err(|error| format!("{error}"))?;
        let Address::Static { address, prefix, .. } = config.address else {
            return Err(String::from("network: the self-test needs ip=ADDRESS/PREFIX"));
        };
        let mut device = NetDevice::new(queue);
        let hardware = smoltcp::iface::Config::new(EthernetAddress(mac).into());
        let mut interface = Interface::new(hardware, &mut device, now());
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(address, prefix)));
        });
        let mut sockets = SocketSet::new(vec![]);
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let socket = sockets.add(socket);
        Ok(Self { netfront, device, interface, sockets, socket, next_port: 50000 })
    }

    /// dom0 checks what we send.
    fn send(&mut self, peer: Ipv4Addr) -> Outcome {
        self.connect(peer, SINK_PORT)?;
        let (mut pattern, mut sum, mut sent) = (Pattern::default(), Checksum::default(), 0);
        let mut block = vec![0; 64 * 1024];
        let mut at = block.len();
        let before = time::now_ns();
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
        report("sent to dom0", time::now_ns() - before);
        check(trailer == (BYTES, sum.value()), || format!("network: dom0 got {trailer:?}, not what was sent"))?;
        self.disconnect()
    }

    /// We check what dom0 sends.
    fn receive(&mut self, peer: Ipv4Addr) -> Outcome {
        self.connect(peer, SERVE_PORT)?;
        let before = time::now_ns();
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
        report("received from dom0", time::now_ns() - before);
        let trailer = self.read_trailer()?;
        check(trailer == (BYTES, sum.value()), || format!("network: dom0 sent {trailer:?}, not what arrived"))?;
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

    fn read_trailer(&mut self) -> Result<(u64, u64), String> {
        let mut bytes = [0; 16];
        let mut got = 0;
        self.until("waiting for the checksum", |socket| {
            got += socket.recv_slice(&mut bytes[got..]).unwrap_or(0);
            got == bytes.len()
        })?;
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|i| bytes[at + i]));
        Ok((word(0), word(8)))
    }

    /// Polls until `done` says so.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut tcp::Socket<'_>) -> bool) -> Outcome {
        let deadline = time::now_ns() + PATIENCE_NS;
        loop {
            let changed = self.interface.poll(now(), &mut self.device, &mut self.sockets);
            if done(self.sockets.get_mut(self.socket)) {
                self.interface.poll(now(), &mut self.device, &mut self.sockets);
                return Ok(());
            }
            check(time::now_ns() < deadline, || format!("network: {what} takes too long"))?;
            if changed == PollResult::None {
                let delay = self.interface.poll_delay(now(), &self.sockets);
                let wake = delay.map_or(deadline, |delay| time::now_ns() + delay.total_micros() * 1000);
                self.netfront.take_pending();
                event::wait(self.netfront.port().as_slice(), Some(wake.min(deadline)));
            }
        }
    }
}

fn report(what: &str, took_ns: u64) {
    let rate = BYTES * 1000 / took_ns.max(1);
    say!("network: {} MiB {what} in {} ms, {rate} MB/s", BYTES >> 20, took_ns / 1_000_000);
}

fn now() -> Instant {
    Instant::from_micros((time::now_ns() / 1000) as i64)
}

/// The stream that both ends know: word `i` is `(i + 1)` times a constant.
#[derive(Default)]
struct Pattern {
    words: u64,
}

impl Pattern {
    fn fill(&mut self, block: &mut [u8]) {
        for word in block.as_chunks_mut::<8>().0 {
            self.words += 1;
            *word = self.words.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        }
    }
}

/// Two running sums over little-endian words.
#[derive(Default)]
struct Checksum {
    a: u64,
    b: u64,
    partial: u64,
    partial_bytes: u32,
}

impl Checksum {
    fn add(&mut self, mut bytes: &[u8]) {
        while self.partial_bytes > 0
            && let Some((first, rest)) = bytes.split_first()
        {
            self.byte(*first);
            bytes = rest;
        }
        let (words, tail) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        tail.iter().for_each(|byte| self.byte(*byte));
    }

    fn byte(&mut self, byte: u8) {
        self.partial |= u64::from(byte) << (8 * self.partial_bytes);
        self.partial_bytes += 1;
        if self.partial_bytes == 8 {
            self.word(self.partial);
            (self.partial, self.partial_bytes) = (0, 0);
        }
    }

    fn word(&mut self, word: u64) {
        self.a = self.a.wrapping_add(word);
        self.b = self.b.wrapping_add(self.a);
    }

    /// Of a stream that is whole words long.
    fn value(&self) -> u64 {
        self.a ^ self.b.rotate_left(32)
    }
}
