//! Both services of [`common::stream`]. `meter` on the command line serves them for ever, so that the self-test of another
//! agent can measure TCP between agents.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use agent::command_line::SelfTestOptions;
use boot::say;
use boot::start::Machine;
use common::stream::{Checksum, Pattern, SERVE_PORT, SINK_PORT};
use common::time::{Instant, ns};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use xen_pv::time;

use crate::network::Network;

const BLOCK: usize = 64 * 1024;

/// Serves both ports; comes back only with the reason why it cannot.
pub fn serve(machine: &mut Machine, options: &SelfTestOptions) -> Result<core::convert::Infallible, String> {
    let mut network = Network::start(machine, options)?;
    let mut sink = Service::new(&mut network, SINK_PORT);
    let mut source = Service::new(&mut network, SERVE_PORT);
    say!("meter: serving on ports {SINK_PORT} and {SERVE_PORT}");
    loop {
        let mut moved = network.poll();
        moved |= sink.turn(&mut network);
        moved |= source.turn(&mut network);
        if !moved {
            network.sleep(time::now() + Duration::from_secs(1));
        }
    }
}

/// One port, one connection at a time.
struct Service {
    socket: SocketHandle,
    port: u16,
    exchange: Exchange,
}

/// A connection's state.
#[derive(Default)]
struct Exchange {
    begun: Option<Instant>,
    sum: Checksum,
    pattern: Pattern,
    /// Bytes of the pattern still to be made.
    wanted: u64,
    asked: bool,
    /// Bytes on their way into the socket.
    pending: Vec<u8>,
    at: usize,
}

impl Service {
    fn new(network: &mut Network, port: u16) -> Self {
        Self { socket: network.add_socket(), port, exchange: Exchange::default() }
    }

    /// Does what can be done without waiting; whether anything was.
    fn turn(&mut self, network: &mut Network) -> bool {
        let socket = network.socket(self.socket);
        if !socket.is_open() {
            self.exchange = Exchange::default();
            return socket.listen(self.port).is_ok();
        }
        if !socket.is_active() {
            return false;
        }
        self.exchange.begun.get_or_insert_with(time::now);
        match self.port {
            SINK_PORT => self.exchange.take(socket),
            _ => self.exchange.give(socket),
        }
    }
}

impl Exchange {
    fn take(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        let mut moved = false;
        while socket.can_recv() {
            moved |= socket.recv(|bytes| (bytes.len(), self.sum.add(bytes))).is_ok();
        }
        // The peer sent all it had: answer once.
        if !socket.may_recv() && socket.may_send() && !self.asked {
            self.asked = true;
            self.report("taken");
            self.pending = self.sum.trailer().to_bytes().to_vec();
        }
        moved | self.flush(socket)
    }

    fn give(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        let mut length = [0; 8];
        if !self.asked && socket.recv_queue() >= length.len() && socket.recv_slice(&mut length).is_ok() {
            self.asked = true;
            // A length of whole words keeps the pattern simple.
            self.wanted = u64::from_le_bytes(length) / 8 * 8;
        }
        if self.asked && self.at == self.pending.len() && self.sum.count() < self.wanted {
            let count = (self.wanted - self.sum.count()).min(BLOCK as u64);
            self.pending.resize(count as usize, 0);
            self.at = 0;
            self.pattern.fill(&mut self.pending);
            self.sum.add(&self.pending);
            if self.sum.count() == self.wanted {
                self.pending.extend(self.sum.trailer().to_bytes());
                self.report("given");
            }
        }
        self.flush(socket)
    }

    /// Moves what is pending into the socket, and closes it after the trailer.
    fn flush(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        let count = self.pending.get(self.at..).map_or(0, |rest| socket.send_slice(rest).unwrap_or(0));
        self.at += count;
        let whole = self.asked && self.at == self.pending.len() && self.sum.count() >= self.wanted;
        if whole && socket.may_send() {
            socket.close();
        }
        count > 0
    }

    fn report(&self, what: &str) {
        let took = self.begun.map_or(Duration::ZERO, |begun| time::now() - begun);
        say!("meter: {} MiB {what}, {} MB/s", self.sum.count() >> 20, self.sum.count() * 1000 / ns(took).max(1));
    }
}
