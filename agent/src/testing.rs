//! Both ends of connections, and somebody between them, in one interface, for tests.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::task::Poll;
use std::boxed::Box;
use std::thread_local;

use embassy_futures::join::join3;
use smoltcp::phy::{Loopback, Medium};

use crate::command_line::AgentOptions;
use crate::net::{Buffers, Connection, Net, Settings};
use crate::secure::handshake::{self, Entropy};
use crate::secure::{Identity, Link, Preamble, Security, public_key};
use crate::tasks::{Instant, Timer, poll_once};

/// Less than a long message.
pub(crate) const SMALL: Buffers = Buffers { receive: 256, send: 256 };
/// The one interface.
pub(crate) const ADDRESS: &str = "10.0.0.1:7";

/// What moves the packets between both ends.
pub(crate) struct Pair {
    pub(crate) net: Rc<RefCell<Net>>,
    device: Loopback,
    pub(crate) timer: Timer,
    pub(crate) clock: Rc<Cell<u64>>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with_windows(0)
    }

    /// The same with a pool of so many bytes for wide windows.
    pub(crate) fn with_windows(windows: usize) -> Self {
        let mut device = Loopback::new(Medium::Ethernet);
        let mac = [2, 0, 0, 0, 0, 1];
        let config = AgentOptions::parse("ip=10.0.0.1/24 port=7").unwrap().config(mac, 0, Security::Plain);
        let settings = Settings { windows, ..config.network() };
        let net = Rc::new(RefCell::new(Net::new(&settings, &mut device, 1, Instant::default())));
        let clock = Rc::new(Cell::new(0));
        let time = clock.clone();
        Self { net, device, timer: Timer::new(move || Instant::from_ns(time.get())), clock }
    }

    /// One more connection: the end that called, the end that was called.
    pub(crate) fn connect(&mut self) -> [Connection; 2] {
        let there = Connection::listen(&self.net, &self.timer, 7, SMALL).unwrap();
        let (net, timer) = (self.net.clone(), self.timer.clone());
        let here = self.finish(Connection::connect(&net, &timer, ADDRESS.parse().unwrap(), SMALL)).unwrap();
        self.finish(there.accepted()).unwrap();
        here.linger();
        [here, there]
    }

    /// A pair and a plain link.
    pub(crate) fn plain() -> (Self, [Link; 2]) {
        let mut pair = Self::new();
        let links = pair.connect().map(Link::plain);
        (pair, links)
    }

    /// Runs `future` to its end, and the packets meanwhile.
    pub(crate) fn finish<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = Box::pin(future);
        for _ in 0..100_000 {
            if let Poll::Ready(value) = poll_once(&mut future) {
                return value;
            }
            self.net.borrow_mut().poll(&mut self.device, self.timer.now());
        }
        panic!("it does not end");
    }
}

/// Agents that are asked for by number, and trust those of the same list.
pub(crate) fn identity(own: u8, peers: &[u8]) -> Identity {
    let peers: String = peers.iter().map(|peer| format!("peer {} {peer}\n", public_key(&[*peer; 32]))).collect();
    Identity::parse(&format!("tsmc-identity 1\nkey {}\n{peers}", format!("{own:02x}").repeat(32))).unwrap()
}

/// Entropy that no other handshake of the same test has.
pub(crate) fn entropy() -> Entropy {
    thread_local!(static DRAWN: Cell<u8> = const { Cell::new(100) });
    DRAWN.set(DRAWN.get() + 1);
    Entropy::new([DRAWN.get(); 32])
}

/// What somebody can do who sits between two agents: the agents' ends, and theirs.
pub(crate) struct Wire {
    pub(crate) agents: [Connection; 2],
    pub(crate) between: [Connection; 2],
}

impl Pair {
    /// Two agents with somebody between them.
    pub(crate) fn wire(&mut self) -> Wire {
        let [caller, first] = self.connect();
        let [second, callee] = self.connect();
        Wire { agents: [caller, callee], between: [first, second] }
    }

    /// A handshake between agents 1 and 2 over `wire`, whose middle passes it on.
    pub(crate) fn shake_hands(&mut self, wire: Wire, preamble: Preamble) -> ([Link; 2], [Connection; 2]) {
        let Wire { agents: [caller, callee], between } = wire;
        let (one, two) = (identity(1, &[2]), identity(2, &[1]));
        let call = handshake::call(caller, &one, two.public_key(), preamble, entropy());
        let answer = handshake::answer(callee, &two, preamble, entropy());
        let pass = async {
            pass(&between[0], &between[1], handshake::CALL).await;
            pass(&between[1], &between[0], handshake::ANSWER).await;
        };
        let (called, answered, ()) = self.finish(join3(call, answer, pass));
        ([called.unwrap(), answered.unwrap()], between)
    }
}

/// Takes bytes and passes them on.
pub(crate) async fn pass(from: &Connection, to: &Connection, count: usize) -> Vec<u8> {
    let bytes = take(from, count).await;
    to.write_all(&bytes).await.unwrap();
    bytes
}

/// Takes bytes off the wire.
pub(crate) async fn take(from: &Connection, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    from.read_exact(&mut bytes).await.unwrap();
    bytes
}
