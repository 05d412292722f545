//! Two hosts, a cable between them, a guest and a toolstack, on one virtual clock.
//!
//! Both agents are the real ones, with real TCP; only time, memory and the cable are made up, and repeatable.

pub mod guest;
pub mod link;
pub mod machine;
pub mod random;
mod store;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;

use agent::control::{Mode, Progress, Request, State, Summary};
use agent::platform::{Backends, DomId};
use agent::{Address, Agent, Config, Wake};

use guest::{Guest, Here, Shared};
use link::{Cable, End, Quality};
use machine::{Machine, Op, Trouble};
use random::Random;
use store::Nodes;

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub frames: u64,
    pub vcpus: usize,
    pub working_set: u64,
    /// Time between two touches of the guest.
    pub step_ns: u64,
    pub quality: Quality,
    pub mode: Mode,
    pub can_page: bool,
    pub stubborn: bool,
    /// How long the toolstack takes to suspend the guest.
    pub suspend_ns: u64,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            frames: 2000,
            vcpus: 2,
            working_set: 300,
            step_ns: 20_000,
            quality: Quality { bytes_per_second: 50_000_000, delay_ns: 100_000, lost_per_mille: 0 },
            mode: Mode::Tsmc,
            can_page: true,
            stubborn: false,
            suspend_ns: 5_000_000,
        }
    }
}

/// The source's and the target's host, in this order, wherever there are two of something.
pub struct World {
    pub clock: Rc<Cell<u64>>,
    pub guest: Shared,
    pub cable: Cable,
    pub trouble: Trouble,
    pub scenario: Scenario,
    agents: [Option<Agent<Machine, End, Nodes>>; 2],
    stores: [Nodes; 2],
    attempt: u32,
    next_step: u64,
    suspend_at: Option<u64>,
    /// Whether the toolstack says that the guest suspended.
    pub suspends: bool,
    /// The furthest stage that progress was reported for.
    pub stages: BTreeMap<u8, Progress>,
    /// Every state the two ends went through.
    pub states: [Vec<State>; 2],
}

const PORT: u16 = 7077;
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 12)];

impl World {
    pub fn new(scenario: Scenario) -> Self {
        let clock = Rc::new(Cell::new(1_000_000_000));
        let mut guest = Guest::new(scenario.frames, scenario.vcpus, scenario.working_set, scenario.seed);
        guest.can_page = scenario.can_page;
        let guest = Rc::new(RefCell::new(guest));
        let cable = Cable::new(&clock, scenario.quality, scenario.seed);
        let trouble = Trouble::default();
        let stores = [Nodes::default(), Nodes::default()];
        let mut ends = cable.ends().into_iter();
        let agents = std::array::from_fn(|side| {
            let config = Config {
                address: Address::Static { address: ADDRESSES[side], prefix: 24, gateway: None },
                port: PORT,
                mac: [2, 0, 0, 0, 0, side as u8],
                memory: 16 << 20,
            };
            let machine = Machine {
                clock: clock.clone(),
                guest: guest.clone(),
                trouble: trouble.clone(),
                random: Rc::new(RefCell::new(Random::new(scenario.seed + 77 + side as u64))),
                stubborn: scenario.stubborn,
            };
            ends.next().map(|end| Agent::new(machine, end, stores[side].clone(), config))
        });
        Self {
            clock,
            guest,
            cable,
            trouble,
            scenario,
            agents,
            stores,
            attempt: 1,
            next_step: 0,
            suspend_at: None,
            suspends: true,
            stages: BTreeMap::new(),
            states: [Vec::new(), Vec::new()],
        }
    }

    /// Makes the `after`-th further call of `op` fail.
    pub fn fail(&mut self, op: Op, after: u32) {
        *self.trouble.borrow_mut() = Some((op, after));
    }

    /// Asks the source's agent to send the guest away.
    pub fn start(&mut self) {
        self.turn();
        let request = Request::Out { domain: DomId(5), mode: self.scenario.mode };
        self.stores[0].put(&format!("request/{}", self.id(0)), &request.to_string());
    }

    /// Tries once more after a failure, with a new domain at the target.
    pub fn restart(&mut self) {
        self.attempt += 1;
        self.states = [Vec::new(), Vec::new()];
        let mut guest = self.guest.borrow_mut();
        guest.there.fill(None);
        guest.state_loaded = false;
        guest.frozen = false;
        drop(guest);
        self.start();
    }

    /// The name of a side's request.
    fn id(&self, side: usize) -> String {
        format!("{}-{}", ["out", "in"][side], self.attempt)
    }

    /// Kills an agent: it says nothing more.
    pub fn kill(&mut self, side: usize) {
        self.agents[side] = None;
    }

    /// Gives up, as the toolstack of a host.
    pub fn cancel(&mut self, side: usize) {
        let id = self.id(side);
        self.stores[side].put(&format!("request/{id}/cancel"), "1");
    }

    /// The last state of one end.
    pub fn state(&self, side: usize) -> Option<&State> {
        self.states[side].last()
    }

    /// The figures that one end left.
    pub fn summary(&self, side: usize) -> Summary {
        let line = self.stores[side].get(&format!("session/{}/summary", self.id(side)));
        line.expect("a summary").parse().expect("figures")
    }

    /// Runs until both sessions have ended or `limit_ms` of virtual time have passed; whether they ended.
    pub fn run(&mut self, limit_ms: u64) -> bool {
        self.run_until(limit_ms, |world| (0..2).all(|side| world.state(side).is_some_and(State::is_end)))
    }

    /// Runs until `done`.
    pub fn run_until(&mut self, limit_ms: u64, done: impl Fn(&Self) -> bool) -> bool {
        let limit = self.clock.get() + limit_ms * 1_000_000;
        while !done(self) {
            if self.clock.get() > limit {
                return false;
            }
            self.turn();
        }
        true
    }

    /// One turn of everybody, then on to when something happens next.
    pub fn turn(&mut self) {
        let mut next = u64::MAX;
        for agent in self.agents.iter_mut().flatten() {
            match agent.poll() {
                Wake::Now => next = 0,
                Wake::At(time) => next = next.min(time),
                Wake::OnEvent => {}
            }
        }
        self.toolstack();
        let now = self.clock.get();
        let step = self.scenario.step_ns;
        // A guest that is far behind skips what it would have done.
        self.next_step = self.next_step.max(now.saturating_sub(64 * step));
        while self.next_step <= now {
            self.next_step += step;
            self.guest.borrow_mut().step();
        }
        self.guest.borrow().check_one_copy();
        let others = [self.cable.next_event(), self.suspend_at, Some(now + 50_000_000)];
        let next = others.into_iter().flatten().fold(next, u64::min);
        self.clock.set(next.clamp(now + 5_000, now + step.saturating_mul(64).max(5_000)));
    }

    /// What `xl`, libxl and the helpers do.
    fn toolstack(&mut self) {
        for side in 0..2 {
            for (path, value) in self.stores[side].take_written() {
                if path.ends_with("/state") {
                    let state: State = value.parse().expect("a state");
                    self.react(&state);
                    self.states[side].push(state);
                } else if path.ends_with("/progress") {
                    let progress: Progress = value.parse().expect("progress");
                    self.stages.insert(progress.stage, progress);
                }
            }
        }
        if self.suspend_at.is_some_and(|at| at <= self.clock.get()) {
            self.suspend_at = None;
            let mut guest = self.guest.borrow_mut();
            if guest.here == Here::Running && self.suspends {
                guest.here = Here::Suspended;
            }
            let answer = if self.suspends { "yes" } else { "no" };
            self.stores[0].put(&format!("request/{}/suspended", self.id(0)), answer);
        }
    }

    fn react(&mut self, state: &State) {
        match state {
            State::Listening { session, address, port } => {
                let request = Request::In {
                    domain: DomId(7),
                    peer: std::net::SocketAddrV4::new(*address, *port),
                    session: *session,
                    backends: Backends {
                        store_port: 1,
                        store_domain: DomId(0),
                        console_port: 2,
                        console_domain: DomId(0),
                    },
                };
                self.stores[1].put(&format!("request/{}", self.id(1)), &request.to_string());
            }
            State::Suspend => {
                self.guest.borrow_mut().frozen = true;
                self.suspend_at = Some(self.clock.get() + self.scenario.suspend_ns);
            }
            _ => {}
        }
    }
}
