//! Two hosts, a cable between them, a guest and a toolstack, on one virtual clock.
//!
//! Both agents are the real ones, with real TCP; only time, memory and the cable are made up, and repeatable.

pub mod guest;
pub mod link;
pub mod machine;
pub mod random;
mod store;
mod toolstack;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use agent::secure::{Identity, Security, public_key};
use agent::{Address, Agent, Config, Wake};
use common::control::{FailureCause, Mode, Progress, Request, State, Summary};
use common::{PublicKey, cost};

use guest::{Guest, Shared};
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
    pub max_downtime: Option<Duration>,
    pub can_page: bool,
    /// On which hosts guests bear labels.
    pub labels: [bool; 2],
    pub stubborn: bool,
    /// How long the toolstack takes to suspend the guest.
    pub suspend_ns: u64,
    /// Whether guests migrate to the host that they are on: the first.
    pub to_itself: bool,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            frames: 2000,
            vcpus: 2,
            working_set: 300,
            step_ns: 20_000,
            quality: Quality::default(),
            mode: Mode::Tsmc,
            max_downtime: None,
            can_page: true,
            labels: [true; 2],
            stubborn: false,
            suspend_ns: 5_000_000,
            to_itself: false,
        }
    }
}

/// Two hosts and the guests between them. The first guest leaves host 0, the second host 1, and so on.
pub struct World {
    pub clock: Rc<Cell<u64>>,
    /// The first guest.
    pub guest: Shared,
    pub guests: Rc<RefCell<Vec<Shared>>>,
    pub cable: Cable,
    pub trouble: Trouble,
    pub scenario: Scenario,
    agents: [Option<Agent<Machine, End, Nodes>>; 2],
    /// A third host's, which has the session's token as well.
    intruder: Option<Agent<Machine, End, Nodes>>,
    /// Whether the target's toolstack waits until somebody else has called.
    pub dawdles: bool,
    dawdled: Option<String>,
    security: [Security; 2],
    machines: [Machine; 2],
    /// What dom0 says is the source's key, if it is not what the source says.
    pub false_key: Option<PublicKey>,
    /// What dom0 keeps of the agents' notes, for each guest and end.
    notes: BTreeMap<(usize, usize), String>,
    lives: u32,
    stores: [Nodes; 2],
    attempt: u32,
    next_step: u64,
    suspend_at: Vec<Option<u64>>,
    /// When the toolstack will say that a guest has suspended.
    word_at: Vec<Option<u64>>,
    start_at: Vec<Option<u64>>,
    /// How long the toolstack takes to start a guest that has arrived.
    pub start_ns: u64,
    /// Heap of each agent, in bytes.
    memory: [usize; 2],
    /// Whether guests suspend.
    pub suspends: bool,
    /// Whether the toolstack says so when they do.
    pub confirms: bool,
    /// Whether all memory is compared at the switch.
    pub verify: bool,
    /// How often the agents wanted others to go first.
    pub gave_way: u64,
    /// Whether nobody asks for those guests to leave that are on host 1.
    pub odd_guests_stay: bool,
    /// The last progress of each stage.
    pub stages: BTreeMap<u8, Progress>,
    /// For each guest, every state that its source and its target went through.
    pub states: Vec<[Vec<State>; 2]>,
}

const PORT: u16 = 7077;
/// The heap of an agent of 32 MiB.
const MEMORY: usize = 28 << 20;
const ADDRESSES: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 12), Ipv4Addr::new(10, 77, 0, 13)];

impl World {
    /// Both hosts' agents trust each other.
    pub fn new(scenario: Scenario) -> Self {
        Self::secured(scenario, [sealed(0, &[1]), sealed(1, &[0])])
    }

    pub fn secured(scenario: Scenario, security: [Security; 2]) -> Self {
        let clock = Rc::new(Cell::new(1_000_000_000));
        let guest = new_guest(&scenario, scenario.seed);
        let guests = Rc::new(RefCell::new(vec![guest.clone()]));
        let cable = Cable::new(&clock, scenario.quality, scenario.seed);
        let trouble = Trouble::default();
        let stores = [Nodes::default(), Nodes::default()];
        let machines = std::array::from_fn(|host| Machine {
            clock: clock.clone(),
            guests: guests.clone(),
            trouble: trouble.clone(),
            random: Rc::new(RefCell::new(Random::new(scenario.seed + 77 + host as u64))),
            enforces: Rc::new(Cell::new(true)),
            labels: scenario.labels[host],
            stubborn: scenario.stubborn,
            dead: Rc::default(),
        });
        let mut world = Self {
            clock,
            guest,
            guests,
            cable,
            trouble,
            scenario,
            agents: [None, None],
            intruder: None,
            dawdles: false,
            dawdled: None,
            security,
            machines,
            false_key: None,
            notes: BTreeMap::new(),
            lives: 0,
            stores,
            attempt: 1,
            next_step: 0,
            suspend_at: vec![None],
            word_at: vec![None],
            start_at: vec![None],
            start_ns: 0,
            memory: [MEMORY; 2],
            suspends: true,
            confirms: true,
            verify: true,
            gave_way: 0,
            odd_guests_stay: false,
            stages: BTreeMap::new(),
            states: vec![Default::default()],
        };
        world.boot(0);
        world.boot(1);
        world
    }

    /// Starts the agent of a host.
    fn boot(&mut self, host: usize) {
        let config = Config { memory: self.memory[host], ..config(host, self.security[host].clone()) };
        let end = self.cable.ends().into_iter().nth(host);
        let (machine, store) = (self.machines[host].clone(), self.stores[host].clone());
        self.agents[host] = end.map(|end| Agent::new(machine, end, store, config));
    }

    /// A third host's agent calls for the first guest, with all that the target's toolstack knows.
    pub fn intrude(&mut self, security: Security) {
        let mut machine = self.machines[1].clone();
        machine.guests = Rc::new(RefCell::new(vec![new_guest(&self.scenario, self.scenario.seed)]));
        let listening = self.states[0][0].iter().find(|state| matches!(state, State::Listening { .. }));
        let request = self.invitation(0, listening.expect("the source listens"));
        let store = Nodes::default();
        self.intruder = Some(Agent::new(machine, self.cable.tap(), store.clone(), config(2, security)));
        self.turn();
        store.put("request/in-0-1", &request.to_string());
    }

    /// One more guest, on the other host than the last.
    pub fn add_guest(&mut self) {
        let seed = self.scenario.seed + self.states.len() as u64;
        self.guests.borrow_mut().push(new_guest(&self.scenario, seed));
        self.suspend_at.push(None);
        self.word_at.push(None);
        self.start_at.push(None);
        self.states.push(Default::default());
    }

    /// Makes the `after`-th further call of `op` fail.
    pub fn fail(&mut self, op: Op, after: u32) {
        *self.trouble.borrow_mut() = Some((op, after));
    }

    /// Has the policy of a host enforced, or not.
    pub fn enforce(&self, host: usize, enforces: bool) {
        self.machines[host].enforces.set(enforces);
    }

    /// Starts the agent of a host anew, with so much heap. Nothing has been asked of it yet.
    pub fn set_memory(&mut self, host: usize, bytes: usize) {
        self.memory[host] = bytes;
        self.boot(host);
    }

    /// Kills the agent of a host: it says nothing more, and undoes nothing. The toolstack destroys the domain of a guest
    /// that could not run yet.
    pub fn kill(&mut self, host: usize) {
        self.toolstack();
        let machine = &mut self.machines[host];
        machine.dead.set(true);
        machine.dead = Rc::default();
        self.agents[host] = None;
        for guest in 0..self.states.len() {
            for end in 0..2 {
                if self.host(guest, end) != host || self.notes.contains_key(&(guest, end)) {
                    continue;
                }
                if end == 1 {
                    self.guests.borrow()[guest].borrow_mut().created = false;
                }
                // So the helper says; it has nothing to hand to another agent.
                self.states[guest][end]
                    .push(State::Failed { cause: FailureCause::Other, reason: "the agent died".into() });
            }
        }
    }

    /// Starts the agent of a host once more, and hands it what its earlier life left.
    pub fn revive(&mut self, host: usize) {
        self.stores[host] = Nodes::default();
        self.boot(host);
        self.turn();
        self.lives += 1;
        let notes = self.notes.iter().filter(|((guest, end), _)| self.host(*guest, *end) == host);
        for ((guest, end), note) in notes {
            let path = format!("request/{}-{guest}-r{}", ["out", "in"][*end], self.lives);
            self.stores[host].put(&path, &Request::Recover { note: note.clone() }.to_string());
        }
    }

    /// The last state of one end of the first guest's migration.
    pub fn state(&self, end: usize) -> Option<&State> {
        self.states[0][end].last()
    }

    /// The figures that one end of the first guest's migration left.
    pub fn summary(&self, end: usize) -> Summary {
        let line = self.stores[self.host(0, end)].get(&format!("session/{}/summary", self.id(0, end)));
        line.expect("a summary").parse().expect("figures")
    }

    /// All nodes of a host's store.
    pub fn nodes(&self, host: usize) -> Vec<String> {
        self.stores[host].paths()
    }

    /// Runs until all sessions have ended or `limit_ms` of virtual time have passed; whether they ended.
    pub fn run(&mut self, limit_ms: u64) -> bool {
        let ended = |states: &Vec<State>| states.last().is_some_and(State::is_end);
        self.run_until(limit_ms, |world| {
            let asked = world.states.iter().step_by(1 + usize::from(world.odd_guests_stay));
            asked.flatten().all(ended)
        })
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
        for agent in self.agents.iter_mut().chain([&mut self.intruder]).flatten() {
            match agent.poll() {
                Wake::Now => next = 0,
                Wake::AfterOthers => {
                    self.gave_way += 1;
                    next = 0;
                }
                Wake::At(time) => next = next.min(time.ns()),
                Wake::OnEvent => {}
            }
        }
        self.toolstack();
        let now = self.clock.get();
        let step = self.scenario.step_ns;
        // A guest that is far behind skips what it would have done.
        self.next_step = self.next_step.max(now.saturating_sub(64 * step));
        while self.next_step <= now {
            let at = self.next_step;
            self.next_step += step;
            self.guests.borrow().iter().for_each(|guest| guest.borrow_mut().step(at));
        }
        self.guests.borrow().iter().for_each(|guest| guest.borrow_mut().check_one_copy());
        let others = [self.cable.next_event(), Some(now + 50_000_000)];
        let planned = [&self.suspend_at, &self.word_at, &self.start_at].into_iter().flatten();
        let next = others.into_iter().chain(planned.copied()).flatten().fold(next, u64::min);
        self.clock.set(next.clamp(now + 5_000, now + step.saturating_mul(64).max(5_000)));
    }
}

fn config(host: usize, security: Security) -> Config {
    Config {
        address: Address::Static { address: ADDRESSES[host], prefix: 24, gateway: None },
        port: PORT,
        mtu: None,
        mac: [2, 0, 0, 0, 0, host as u8],
        memory: MEMORY,
        beside: cost::BESIDE,
        security,
        nic: None,
    }
}

/// A host's agent that trusts these hosts.
pub fn sealed(host: u8, peers: &[u8]) -> Security {
    let peers: String = peers.iter().map(|peer| format!("peer {} host {peer}\n", key(*peer))).collect();
    let private = format!("{:02x}", host + 1).repeat(32);
    Security::Sealed(Identity::parse(&format!("tsmc-identity 1\nkey {private}\n{peers}")).expect("an identity"))
}

/// The key of a host's agent.
pub fn key(host: u8) -> PublicKey {
    public_key(&[host + 1; 32])
}

fn new_guest(scenario: &Scenario, seed: u64) -> Shared {
    let mut guest = Guest::new(scenario.frames, scenario.vcpus, scenario.working_set, seed);
    guest.can_page = scenario.can_page;
    Rc::new(RefCell::new(guest))
}
