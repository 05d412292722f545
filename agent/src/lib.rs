//! The migration itself, without Xen: three stages, both ends, over TCP.
//!
//! An [`Agent`] serves one host. It takes requests from the toolstack ([`control`]), sends guests away
//! (`session::departure`) and takes guests in (`session::arrival`), in three stages:
//!
//! 1. [`full_copy`]: every page once, while the guest runs;
//! 2. [`switchover`]: the guest stops there and is made ready here;
//! 3. [`dirty_copy`]: the guest runs here; what was dirtied during stage 1 follows, first what is touched.
//!
//! It is one thread without interrupts. The image calls [`Agent::poll`] for ever and sleeps in between for as long as
//! the returned [`Wake`] says. What it needs of the machine under it stands in [`platform`].
#![no_std]
#![deny(unsafe_code)]
extern crate alloc;
#[cfg(any(test, fuzzing))]
extern crate std;

#[cfg(feature = "bench")]
pub mod bench;
pub mod command_line;
pub mod config;
mod datagram;
pub mod digest;
mod dirty_copy;
pub mod error;
mod full_copy;
#[cfg(fuzzing)]
pub mod fuzzing;
mod host;
mod ledger;
mod limits;
mod messages;
mod net;
pub mod os;
pub mod platform;
mod rescue;
pub mod secure;
mod session;
mod source;
mod switchover;
mod tail;
mod target;
mod tasks;
#[cfg(any(test, fuzzing))]
#[cfg_attr(fuzzing, allow(dead_code, reason = "tests need more of it"))]
mod testing;
pub mod wire;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::Ipv4Addr;

use common::control::{AgentStatus, Size};
use common::cost;
use common::time::Instant;
use smoltcp::phy::Device;

pub use config::{Address, Config, MTU};

use datagram::DatagramPort;
use host::Host;
use host::budget::Budget;
use host::claim::Domains;
use host::listener::{self, Listener};
use host::peers::Peers;
use host::pending::PendingSessions;
use host::toolstack::Registry;
use limits::DEVICE_FULL;
use net::Net;
use platform::{Platform, Store};
use secure::handshake::Entropy;
use tasks::{Task, Timer, poll_once};

/// Turns that tasks get before the image may look after itself.
const TURNS: usize = 16;
/// Headroom for allocations that no budget counts: tasks, lines for the toolstack, what the heap loses between its blocks.
const SMALL: usize = 1 << 20;
/// What no session may have. How large smoltcp's own structures are, the compiler decides.
const _: () = assert!(cost::FIXED >= listener::MEMORY + net::MEMORY + SMALL);

/// When [`Agent::poll`] wants to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// At once: there is more to do.
    Now,
    /// At once, but first whoever else waits for the processor: somebody waits for what was just sent or filled.
    AfterOthers,
    /// At this time of [`Platform::now`], or earlier if an event comes.
    At(Instant),
    /// When an event comes: a packet, a fault, a change in the store.
    OnEvent,
}

/// The agent of one host.
pub struct Agent<P: Platform, D: Device, S: Store> {
    host: Rc<Host<P>>,
    device: D,
    registry: Registry<S>,
    listener: Listener,
    tasks: Vec<Task>,
    announced: Option<Ipv4Addr>,
}

impl<P, D, S> Agent<P, D, S>
where
    P: Platform + 'static,
    P::Source: 'static,
    P::Target: 'static,
    D: Device,
    S: Store,
{
    /// An agent that serves as soon as it is polled.
    pub fn new(mut platform: P, mut device: D, store: S, config: Config) -> Self {
        let mut seed = [0; 8];
        platform.random(&mut seed);
        let platform = Rc::new(RefCell::new(platform));
        let clock = platform.clone();
        let timer = Timer::new(move || clock.borrow().now());
        let net = Net::new(&config.network(), &mut device, u64::from_le_bytes(seed), timer.now());
        let net = Rc::new(RefCell::new(net));
        let config = Rc::new(config);
        let pending = Rc::new(PendingSessions::default());
        let source = platform.clone();
        let listener = Listener::new(net.clone(), timer.clone(), pending.clone(), config.clone(), move || {
            let mut entropy = Entropy::default();
            source.borrow_mut().random(&mut *entropy);
            entropy
        });
        let registry = Registry::new(store, timer.clone());
        let total = config.memory.saturating_sub(cost::FIXED + config.windows());
        let budget = Budget::new(total, config.memory - total + config.beside, timer.clone());
        let datagram_port = Rc::new(DatagramPort::new(net.clone(), timer.clone(), config.port));
        let host = Rc::new(Host {
            platform,
            net,
            pending,
            datagram_port,
            timer,
            config,
            budget,
            domains: Domains::default(),
            peers: Peers::default(),
            epilogues: RefCell::default(),
        });
        Self { host, device, registry, listener, tasks: Vec::new(), announced: None }
    }

    /// Does all that can be done without waiting.
    pub fn poll(&mut self) -> Wake {
        for _ in 0..TURNS {
            let moved = self.turn();
            if self.host.timer.take_hurry() {
                return Wake::AfterOthers;
            }
            if !moved {
                return self.wake();
            }
        }
        Wake::Now
    }

    /// The network device has come back, perhaps at another place of the network.
    pub fn reappear(&self) {
        self.host.net.borrow_mut().reappear();
    }

    /// This agent's address, once it has one.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.host.net.borrow().address()
    }

    /// Lets everybody do what they can; whether it is worth while to do so again at once.
    fn turn(&mut self) -> bool {
        let timer = self.host.timer.clone();
        let mut moved = self.host.net.borrow_mut().poll(&mut self.device, timer.now());
        while let Some((toolstack, request)) = self.registry.next_request() {
            self.tasks.push(Box::pin(session::serve(self.host.clone(), toolstack, request)));
        }
        self.announce();
        timer.take_nudge();
        timer.take_earliest();
        self.listener.poll();
        self.host.datagram_port.poll();
        self.tasks.retain_mut(|task| poll_once(task).is_pending());
        moved |= self.host.net.borrow_mut().poll(&mut self.device, timer.now());
        self.registry.flush();
        moved | timer.take_nudge()
    }

    fn wake(&mut self) -> Wake {
        let timer = &self.host.timer;
        let now = timer.now();
        // A socket that wants to send at once, after it was just polled, waits for the device.
        let net = self.host.net.borrow_mut().poll_at(now).map(|at| if at <= now { now + DEVICE_FULL } else { at });
        match net.into_iter().chain(timer.take_earliest()).min() {
            Some(at) if at <= now => Wake::Now,
            Some(at) => Wake::At(at),
            None => Wake::OnEvent,
        }
    }

    fn announce(&mut self) {
        let Some(address) = self.address().filter(|address| self.announced != Some(*address)) else { return };
        self.announced = Some(address);
        let Host { platform, config, budget, .. } = &*self.host;
        self.registry.announce(&AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_string(),
            address,
            port: config.port,
            memory_kib: config.memory as u64 / 1024,
            largest_mib: Size { frames: budget.largest(), digests: 0 }.memory_mib(),
            features: platform.borrow().features(),
            nic: config.nic.clone(),
            key: config.security.public_key(),
        });
    }
}
