//! What `xl`, libxl, the helpers and operators do at both hosts.

use std::net::SocketAddrV4;

use common::control::{Parameters, Progress, Request, State};
use common::{Backends, DomId};

use super::guest::Here;
use super::machine::THERE;
use super::{Scenario, World};

impl World {
    /// Asks the agents to send all guests away.
    pub fn start(&mut self) {
        self.turn();
        for guest in (0..self.states.len()).step_by(1 + usize::from(self.odd_guests_stay)) {
            let Scenario { mode, max_downtime, .. } = self.scenario;
            let parameters = Parameters { mode, verify: self.verify, max_downtime };
            let request = Request::Out { domain: DomId(guest as u16), parameters };
            self.request(guest, 0, "", &request.to_string());
        }
    }

    /// Puts any request to a host.
    pub fn ask(&mut self, host: usize, id: &str, line: &str) {
        self.turn();
        self.stores[host].put(&format!("request/{id}"), line);
    }

    /// What a host last said to a request.
    pub fn answer(&self, host: usize, id: &str) -> Option<State> {
        self.stores[host].get(&format!("session/{id}/state")).map(|state| state.parse().expect("a state"))
    }

    /// Tries once more after a failure, with a new domain at the target.
    pub fn restart(&mut self) {
        self.attempt += 1;
        self.states.fill(Default::default());
        for guest in self.guests.borrow().iter() {
            let guest = &mut *guest.borrow_mut();
            guest.there.fill(None);
            guest.state_loaded = false;
            (guest.created, guest.released, guest.started, guest.ran_there) = (true, false, false, false);
            (guest.held_there, guest.finished) = (false, false);
            guest.faults.clear();
            guest.vcpus.fill(None);
        }
        self.notes.clear();
        self.start_at.fill(None);
        self.start();
    }

    /// Gives up the first guest's migration, as the toolstack of its source (0) or target (1).
    pub fn cancel(&mut self, end: usize) {
        self.cancel_of(0, end);
    }

    /// The same of any guest's.
    pub fn cancel_of(&mut self, guest: usize, end: usize) {
        self.request(guest, end, "/cancel", "1");
    }

    /// Whether libxl has been asked to suspend a guest and has not answered.
    pub fn is_suspending(&self) -> bool {
        self.suspend_at.iter().chain(&self.word_at).any(Option::is_some)
    }

    /// Loses what dom0 keeps of the agents' notes.
    pub fn lose_notes(&mut self) {
        self.notes.clear();
    }

    /// What dom0 keeps of one end of the first guest's migration.
    pub fn note(&self, end: usize) -> Option<String> {
        self.notes.get(&(0, end)).cloned()
    }

    /// Keeps another note of one end of the first guest's migration.
    pub fn replace_note(&mut self, end: usize, note: String) {
        self.notes.insert((0, end), note);
    }

    /// What `xl`, libxl and the helpers do.
    pub(super) fn toolstack(&mut self) {
        for host in 0..2 {
            for (path, value) in self.stores[host].take_written() {
                let mut parts = path.split(['/', '-']);
                let (Some("session"), Some(end), Some(guest)) = (parts.next(), parts.next(), parts.next()) else {
                    continue;
                };
                let Some(end) = ["out", "in"].iter().position(|name| *name == end) else { continue };
                let guest: usize = guest.parse().expect("a guest");
                if path.ends_with("/state") {
                    let state: State = value.parse().expect("a state");
                    self.react(guest, &state);
                    self.states[guest][end].push(state);
                } else if path.ends_with("/progress") {
                    let progress: Progress = value.parse().expect("progress");
                    self.stages.insert(progress.stage, progress);
                } else if path.ends_with("/note") {
                    self.notes.insert((guest, end), value);
                }
            }
        }
        for guest in 0..self.start_at.len() {
            if self.start_at[guest].is_some_and(|at| at <= self.clock.get()) {
                self.start_at[guest] = None;
                self.guests.borrow()[guest].borrow_mut().started = true;
            }
        }
        for guest in 0..self.suspend_at.len() {
            if self.suspend_at[guest].is_some_and(|at| at <= self.clock.get()) {
                self.suspend_at[guest] = None;
                let shared = self.guests.borrow()[guest].clone();
                let may = shared.borrow().here == Here::Running && !shared.borrow().paused_by_dom0;
                if may && self.suspends {
                    shared.borrow_mut().here = Here::Suspended;
                }
                self.word_at[guest] = Some(self.clock.get() + self.scenario.suspend_ns / 4);
            }
            if self.word_at[guest].is_some_and(|at| at <= self.clock.get()) {
                self.word_at[guest] = None;
                let stopped = matches!(self.guests.borrow()[guest].borrow().here, Here::Stopped | Here::Gone);
                let suspended = self.suspends && self.confirms && !stopped;
                self.request(guest, 0, "/suspended", if suspended { "yes" } else { "no" });
            }
        }
    }

    fn react(&mut self, guest: usize, state: &State) {
        match state {
            State::Listening { .. } => {
                let request = self.invitation(guest, state).to_string();
                if self.dawdles { self.dawdled = Some(request) } else { self.request(guest, 1, "", &request) }
            }
            State::Copying => {
                if let Some(request) = self.dawdled.take() {
                    self.request(guest, 1, "", &request);
                }
            }
            State::Suspend => {
                self.suspend_at[guest] = Some(self.clock.get() + self.scenario.suspend_ns);
            }
            State::Running if !self.guests.borrow()[guest].borrow().started && self.start_at[guest].is_none() => {
                self.start_at[guest] = Some(self.clock.get() + self.start_ns);
            }
            _ => {}
        }
    }

    /// What the target's agent is asked for.
    pub(super) fn invitation(&self, guest: usize, state: &State) -> Request {
        let State::Listening { session, address, port, key, size } = state else { panic!("{state:?} invites nobody") };
        let dom0 = DomId(0);
        Request::In {
            domain: DomId(THERE + guest as u16),
            peer: SocketAddrV4::new(*address, *port),
            key: self.false_key.or(*key),
            session: *session,
            size: *size,
            backends: Backends { store_port: 1, store_domain: dom0, console_port: 2, console_domain: dom0 },
        }
    }

    /// The host of the source (0) or the target (1) of a guest's migration.
    pub(super) fn host(&self, guest: usize, end: usize) -> usize {
        if self.scenario.to_itself { 0 } else { (guest + end) % 2 }
    }

    /// The name of the request at the source (0) or target (1) of a guest's migration.
    pub(super) fn id(&self, guest: usize, end: usize) -> String {
        format!("{}-{guest}-{}", ["out", "in"][end], self.attempt)
    }

    /// Writes a node of a request.
    fn request(&self, guest: usize, end: usize, leaf: &str, value: &str) {
        let path = format!("request/{}{leaf}", self.id(guest, end));
        self.stores[self.host(guest, end)].put(&path, value);
    }
}
