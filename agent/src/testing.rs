//! Two ends of one connection, in one interface, for tests.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::task::Poll;
use std::boxed::Box;

use smoltcp::phy::{Loopback, Medium};

use crate::config::Config;
use crate::net::{Buffers, Connection, Net};
use crate::secure::{Link, Security};
use crate::tasks::{Timer, poll_once};

/// Less than a long message.
const BUFFERS: Buffers = Buffers { receive: 256, send: 256 };
const ADDRESS: &str = "10.0.0.1:7";

/// What moves the packets between both ends.
pub(crate) struct Pair {
    net: Rc<RefCell<Net>>,
    device: Loopback,
    timer: Timer,
    pub(crate) clock: Rc<Cell<u64>>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let mut device = Loopback::new(Medium::Ethernet);
        let mac = [2, 0, 0, 0, 0, 1];
        let config = Config::from_command_line("ip=10.0.0.1/24", mac, 0, Security::Plain).unwrap();
        let net = Rc::new(RefCell::new(Net::new(&config, &mut device, 1, 0)));
        let clock = Rc::new(Cell::new(0));
        let time = clock.clone();
        Self { net, device, timer: Timer::new(move || time.get()), clock }
    }

    /// One more connection: the end that called, the end that was called.
    pub(crate) fn connect(&mut self) -> [Connection; 2] {
        let there = Connection::listen(&self.net, &self.timer, 7, BUFFERS).unwrap();
        let (net, timer) = (self.net.clone(), self.timer.clone());
        let here = self.finish(Connection::connect(&net, &timer, ADDRESS.parse().unwrap(), BUFFERS)).unwrap();
        self.finish(there.accepted()).unwrap();
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
            self.net.borrow_mut().poll(&mut self.device, self.clock.get());
        }
        panic!("it does not end");
    }
}
