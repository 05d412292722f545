//! A guest that arrives, at its target: what is known of it and of its pages, and the connections that it comes over. The stages
//! and the session work on it.

mod connections;
pub(crate) mod faults;
mod memory;
mod pages;
pub(crate) mod sets;
pub(crate) mod verifier;

use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, Ref, RefCell, RefMut};

use common::control::{Progress, SessionToken, State, Summary};
use common::{BATCH, Hold, PAGE_SIZE, cost};

use crate::datagram;
use crate::error::{LinkError, PeerFault, Refusal, SessionError};
use crate::host::Host;
use crate::host::budget::Reservation;
use crate::host::note::{Note, Role};
use crate::host::peers::Callee;
use crate::host::toolstack::Toolstack;
use crate::ledger::{Ledger, Stage};
use crate::limits::{COMMITTED, LAST_WORD};
use crate::messages::SharedOutlet;
use crate::net::{Buffers, IN_FLIGHT_BULK, IN_FLIGHT_CONTROL, SPARE};
use crate::platform::{LoadMachine, Pager, Platform};
use crate::secure::Link;
use crate::tasks::Timer;
use crate::wire::{Demanded, Kind, Message};
use connections::Connections;
use faults::Faults;
use sets::Sets;
use verifier::Verifier;

/// What a source may say on each.
pub(crate) const CONTROLS: [Kind; 6] =
    [Kind::Welcome, Kind::Pages, Kind::Commit, Kind::Abort, Kind::Complete, Kind::Digests];
pub(crate) const BULKS: [Kind; 8] =
    [Kind::Ram, Kind::Gone, Kind::Pages, Kind::Hints, Kind::Dirty, Kind::Digests, Kind::State, Kind::Switch];
/// It is told much and sends little.
pub(crate) const CONTROL_BUFFERS: Buffers = Buffers { receive: IN_FLIGHT_CONTROL + SPARE, send: 32 << 10 };
pub(crate) const BULK_BUFFERS: Buffers = Buffers { receive: IN_FLIGHT_BULK + SPARE, send: 4 << 10 };
/// Pages asked for in one datagram, and pages that may be here in part.
pub(crate) const RESCUED: usize = 16;
/// What an arrival takes besides its page sets: connections, a message of each, the machine state.
const _: () = assert!(
    cost::ARRIVAL
        == CONTROL_BUFFERS.size()
            + BULK_BUFFERS.size()
            + Kind::Pages.limit()
            + 2 * Kind::State.limit()
            + datagram::MEMORY
            + RESCUED * PAGE_SIZE
);

/// A guest that arrives. Its parts are borrowed for a moment at a time by the tasks of one session.
pub(crate) struct Arrival<T> {
    // The guest and its memory.
    target: RefCell<T>,
    can_page: bool,
    sets: RefCell<Sets>,
    faults: Faults,
    /// If all memory is compared at the switch.
    verifier: RefCell<Option<Verifier>>,
    /// The machine state, until it is loaded.
    state: RefCell<Option<Vec<u8>>>,
    /// The guest has been seen to run here.
    ran: Cell<bool>,
    // The source.
    callee: Callee,
    session: SessionToken,
    uuid: [u8; 16],
    connections: Connections,
    // The session.
    toolstack: Rc<Toolstack>,
    timer: Timer,
    ledger: RefCell<Ledger>,
    phase: Cell<Phase>,
    notes: RefCell<Notes>,
    memory: RefCell<Reservation>,
}

/// What a later life of the agent must know, in doubt and later.
struct Notes {
    ready: String,
    running: String,
}

impl Notes {
    fn new<P: Platform>(host: &Host<P>, note: &Note) -> Self {
        let as_role = |role| Note { role, ..note.clone() }.seal(host);
        Self { ready: as_role(Role::Ready), running: as_role(Role::Running) }
    }
}

/// How far the session is, as far as a failure must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The source has not been told that it may commit.
    Filling,
    /// It has, and may have.
    InDoubt,
    /// It has committed.
    Committed,
    /// The guest may run.
    Released,
    /// It may, and the agents have lost each other.
    Interrupted,
    /// Nothing is missing, or wanted any more.
    Over,
}

impl<T> Arrival<T> {
    pub(crate) fn new<P: Platform>(
        host: &Host<P>,
        toolstack: &Rc<Toolstack>,
        target: T,
        note: &Note,
        sets: Sets,
        pages: u64,
        memory: Reservation,
    ) -> Self
    where
        T: Pager,
    {
        let mut ledger = Ledger::new(host.timer.clone());
        ledger.summary.pages = pages;
        ledger.summary.sealed = u64::from(note.key.is_some());
        Self {
            can_page: target.can_page(),
            target: RefCell::new(target),
            sets: RefCell::new(sets),
            faults: Faults::default(),
            verifier: RefCell::default(),
            state: RefCell::default(),
            ran: Cell::new(false),
            callee: note.callee(),
            session: note.session,
            uuid: note.uuid,
            connections: Connections::default(),
            toolstack: toolstack.clone(),
            timer: host.timer.clone(),
            ledger: RefCell::new(ledger),
            phase: Cell::new(Phase::Filling),
            notes: RefCell::new(Notes::new(host, note)),
            memory: RefCell::new(memory),
        }
    }

    pub(crate) fn timer(&self) -> &Timer {
        &self.timer
    }

    pub(crate) fn toolstack(&self) -> &Toolstack {
        &self.toolstack
    }

    /// The guest itself.
    pub(crate) fn target(&self) -> RefMut<'_, T> {
        self.target.borrow_mut()
    }

    /// Whether pages can be armed.
    pub(crate) fn can_page(&self) -> bool {
        self.can_page
    }

    /// What is known of its pages.
    pub(crate) fn sets(&self) -> Ref<'_, Sets> {
        self.sets.borrow()
    }

    /// Who waits for which of them.
    pub(crate) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The figures so far.
    pub(crate) fn summary_mut(&self) -> RefMut<'_, Summary> {
        RefMut::map(self.ledger.borrow_mut(), |ledger| &mut ledger.summary)
    }

    /// Where its source is, and what the migration is called there.
    pub(crate) fn callee(&self) -> Callee {
        self.callee
    }

    pub(crate) fn session(&self) -> SessionToken {
        self.session
    }

    pub(crate) fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// All memory is compared at the switch, if there is something to do so by.
    pub(crate) fn compare_by(&self, verifier: Option<Verifier>) {
        self.verifier.replace(verifier);
    }

    /// The machine state has come.
    pub(crate) fn keep_state(&self, state: &[u8]) {
        self.state.replace(Some(state.to_vec()));
    }

    /// Loads the machine state.
    pub(crate) fn load_state(&self) -> Result<(), SessionError>
    where
        T: LoadMachine,
    {
        let state = self.state.take().ok_or(SessionError::Peer(PeerFault::OutOfTurn))?;
        Ok(self.target.borrow_mut().load_state(&state)?)
    }

    /// Whether the guest has been seen to run here.
    pub(crate) fn has_run(&self) -> bool {
        self.ran.get()
    }

    /// It has been seen to run.
    pub(crate) fn see_run(&self) {
        if !self.ran.replace(true) {
            self.timer.nudge();
        }
    }

    /// Sends on the control connection.
    pub(crate) async fn say(&self, message: Message<'_>) -> Result<(), SessionError> {
        self.connections.control().ok_or(LinkError::Lost)?.send(message).await
    }

    // How far the session is.

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// What a later life of the agent must know has changed.
    pub(crate) fn renew_notes<P: Platform>(&self, host: &Host<P>, note: &Note) {
        self.notes.replace(Notes::new(host, note));
    }

    /// An earlier life of this agent has come so far.
    pub(crate) fn adopt(&self, hold: Hold) {
        let notes = self.notes.borrow();
        match hold {
            Hold::Released => {
                self.phase.set(Phase::Released);
                self.toolstack.note(&notes.running);
                self.lose(&SessionError::Refused(Refusal::Restarted));
            }
            Hold::Held => {
                self.phase.set(Phase::InDoubt);
                self.toolstack.note(&notes.ready);
                self.toolstack.state(State::Ready);
            }
        }
    }

    /// The source has committed.
    pub(crate) fn hear_commit(&self) {
        if self.phase() == Phase::InDoubt {
            self.phase.set(Phase::Committed);
            self.timer.nudge();
        }
    }

    /// The guest may run.
    pub(crate) fn release(&self) {
        self.phase.set(Phase::Released);
        self.toolstack.note(&self.notes.borrow().running);
        self.toolstack.state(State::Running);
    }

    /// Nothing is missing, or wanted any more.
    pub(crate) fn end(&self) {
        self.phase.set(Phase::Over);
    }

    /// Goes on over these connections, control and bulk.
    pub(crate) fn attach(&self, links: [Link; 2]) {
        self.connections.open(links);
        if self.phase.get() == Phase::Interrupted {
            self.phase.set(Phase::Released);
            self.ledger.borrow_mut().summary.recoveries += 1;
            self.toolstack.state(State::Running);
        }
    }

    /// The connections are of no more use.
    pub(crate) fn lose(&self, error: &SessionError) {
        self.count_opening();
        self.connections.close();
        // What the source says of the end matters more than that it was lost.
        let told = matches!(error, SessionError::Told(_));
        let phase = self.phase.get();
        if phase == Phase::Released || told && phase == Phase::Interrupted {
            self.phase.set(Phase::Interrupted);
            self.toolstack.state(State::Interrupted { reason: error.to_string() });
        }
    }

    /// Tells the source why it is over.
    pub(crate) async fn abort(&self, error: SessionError) -> SessionError {
        match self.connections.control() {
            Some(control) => abort(&self.timer, &control, error).await,
            None => error,
        }
    }

    /// Asks the source for up to [`BATCH`] pages, now.
    pub(crate) async fn demand(&self, pages: &[Demanded]) -> Result<(), SessionError> {
        let body: heapless::Vec<u8, { 8 * BATCH }> = pages.iter().flat_map(Demanded::emit).collect();
        self.say(Message::Demand(&body)).await
    }

    /// Whether the guest may run.
    pub(crate) fn is_running(&self) -> bool {
        !matches!(self.phase.get(), Phase::Filling | Phase::InDoubt)
    }

    /// From here on the source may commit; neither silence nor a broken connection says whether it did.
    pub(crate) async fn enter_doubt(&self) {
        self.phase.set(Phase::InDoubt);
        self.connections.set_patience(COMMITTED);
        self.toolstack.note(&self.notes.borrow().ready);
        self.toolstack.state(State::Ready);
        // The toolstack gets the note before the source hears anything.
        self.timer.yield_now().await;
    }

    /// Begins a stage, unless it has begun.
    pub(crate) fn begin(&self, stage: Stage) {
        let bytes = self.connections.bytes();
        let ledger = &mut *self.ledger.borrow_mut();
        if !ledger.is_in(stage) {
            ledger.begin(stage, bytes);
        }
    }

    /// Says how far the stage is.
    pub(crate) fn report(&self, stage: u8) {
        let ledger = self.ledger.borrow();
        let (summary, sets) = (&ledger.summary, self.sets.borrow());
        let (done, total) = match stage {
            1 => (summary.stage1_pages.min(summary.pages), summary.pages),
            _ => (summary.stage3_pages, summary.stage3_pages + sets.missing()),
        };
        let bytes = ledger.stage_bytes(self.connections.bytes());
        let faults = ledger.waits.count() + self.faults.waiting().len() as u64;
        self.toolstack.progress(Progress { stage, done, total, bytes, faults, ..Progress::default() });
    }

    fn count_opening(&self) {
        self.ledger.borrow_mut().steps.open += self.connections.take_opening();
    }

    pub(crate) fn close(&self, state: State) {
        self.count_opening();
        self.toolstack.summary(&self.ledger.borrow_mut().close(self.connections.bytes()));
        self.toolstack.state(state);
    }
}

/// Tells the source why it is over.
pub(crate) async fn abort(timer: &Timer, control: &SharedOutlet, error: SessionError) -> SessionError {
    if !matches!(error, SessionError::Told(_)) {
        let reason = error.to_string();
        let _ = timer.within(LAST_WORD, control.send(Message::Abort(&reason))).await;
    }
    error
}
