//! A guest that arrives, at its target: what is known of it and of its pages, and the connections that it comes over. The stages
//! and the session work on it.

pub(crate) mod pages;
pub(crate) mod verifier;

use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use common::control::{Progress, SessionToken, State};
use common::{BATCH, PAGE_SIZE, cost};

use crate::channel::SharedOutlet;
use crate::datagram;
use crate::error::{LinkError, SessionError};
use crate::host::Host;
use crate::host::budget::Reservation;
use crate::host::toolstack::Toolstack;
use crate::ledger::{Ledger, Stage};
use crate::limits::{BULK_LOST, CONTROL_LOST};
use crate::platform::{Platform, Target};
use crate::secure::Link;
use crate::session::dialing::{BULK, CONTROL, Callee};
use crate::session::note::{Note, Role};
use crate::tasks::{SECOND, Timer};
use crate::wire::{Demanded, Kind, Message};
use pages::{Sets, Waiting};
use verifier::Verifier;

/// What a source may say on each.
pub(crate) const CONTROLS: [Kind; 6] =
    [Kind::Welcome, Kind::Pages, Kind::Commit, Kind::Abort, Kind::Complete, Kind::Digests];
pub(crate) const BULKS: [Kind; 8] =
    [Kind::Ram, Kind::Gone, Kind::Pages, Kind::Hints, Kind::Dirty, Kind::Digests, Kind::State, Kind::Switch];
/// Pages asked for in one datagram, and pages that may be here in part.
pub(crate) const RESCUED: usize = 16;
/// What an arrival takes besides its page sets: connections, a message of each, the machine state.
const _: () = assert!(
    cost::ARRIVAL
        == CONTROL.size()
            + BULK.size()
            + Kind::Pages.limit()
            + 2 * Kind::State.limit()
            + datagram::MEMORY
            + RESCUED * PAGE_SIZE
);

/// A guest that arrives. Its parts are borrowed for a moment at a time by the tasks of one session.
pub(crate) struct Arrival<T> {
    pub(crate) target: RefCell<T>,
    pub(crate) toolstack: Rc<Toolstack>,
    pub(crate) timer: Timer,
    pub(crate) callee: Callee,
    pub(crate) session: SessionToken,
    pub(crate) uuid: [u8; 16],
    pub(crate) notes: RefCell<Notes>,
    lines: RefCell<Option<Lines>>,
    /// Bytes received on earlier connections.
    earlier: Cell<u64>,
    /// The agents have lost each other after the commit.
    lost: Cell<bool>,
    pub(crate) can_page: bool,
    pub(crate) sets: RefCell<Sets>,
    pub(crate) ledger: RefCell<Ledger>,
    /// If all memory is compared at the switch.
    pub(crate) verifier: RefCell<Option<Verifier>>,
    /// The machine state, until it is loaded.
    pub(crate) state: RefCell<Option<Vec<u8>>>,
    pub(crate) phase: Cell<Phase>,
    /// The guest has been seen to run here.
    pub(crate) ran: Cell<bool>,
    /// The guest may run.
    pub(crate) released: Cell<bool>,
    /// Pages that somebody waits for.
    pub(crate) waiting: RefCell<Vec<Waiting>>,
    /// Those of them that the source has not been told of.
    pub(crate) unsaid: RefCell<Vec<Demanded>>,
    /// A datagram brought a page before TCP did, and TCP has brought none since.
    pub(crate) tcp_is_late: Cell<bool>,
    pub(crate) memory: RefCell<Reservation>,
}

/// The connections, as long as they last.
struct Lines {
    control: Rc<SharedOutlet>,
    links: [Link; 2],
}

/// What a later life of the agent must know, in doubt and later.
pub(crate) struct Notes {
    pub(crate) ready: String,
    pub(crate) running: String,
}

impl Notes {
    pub(crate) fn new<P: Platform>(host: &Host<P>, note: &Note) -> Self {
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
    /// Nothing is missing, or wanted any more.
    Over,
}

impl<T: Target> Arrival<T> {
    pub(crate) fn new<P: Platform>(
        host: &Host<P>,
        toolstack: &Rc<Toolstack>,
        target: T,
        note: &Note,
        sets: Sets,
        pages: u64,
        memory: Reservation,
    ) -> Self {
        let mut ledger = Ledger::new(host.timer.clone());
        ledger.summary.pages = pages;
        ledger.summary.sealed = u64::from(note.key.is_some());
        Self {
            can_page: target.can_page(),
            target: RefCell::new(target),
            toolstack: toolstack.clone(),
            timer: host.timer.clone(),
            callee: Callee { address: note.peer, key: note.key },
            session: note.session,
            uuid: note.uuid,
            notes: RefCell::new(Notes::new(host, note)),
            lines: RefCell::default(),
            earlier: Cell::new(0),
            lost: Cell::new(false),
            sets: RefCell::new(sets),
            ledger: RefCell::new(ledger),
            verifier: RefCell::default(),
            state: RefCell::default(),
            phase: Cell::new(Phase::Filling),
            ran: Cell::new(false),
            released: Cell::new(false),
            waiting: RefCell::default(),
            unsaid: RefCell::default(),
            tcp_is_late: Cell::new(false),
            memory: RefCell::new(memory),
        }
    }

    /// Sends on the control connection.
    pub(crate) async fn say(&self, message: Message<'_>) -> Result<(), SessionError> {
        let control = self.lines.borrow().as_ref().map(|lines| lines.control.clone());
        control.ok_or(LinkError::Lost)?.send(message).await
    }

    /// Goes on over these connections, control and bulk.
    pub(crate) fn attach(&self, links: [Link; 2]) {
        let control = Rc::new(SharedOutlet::new(links[0].clone()));
        *self.lines.borrow_mut() = Some(Lines { control, links });
        if self.lost.replace(false) {
            self.ledger.borrow_mut().summary.recoveries += 1;
            self.toolstack.state(State::Running);
        }
    }

    /// The connections are of no more use.
    pub(crate) fn lose(&self, error: &SessionError) {
        if let Some(lines) = self.lines.take() {
            lines.links.iter().for_each(|link| link.connection().abort());
            self.earlier.set(self.earlier.get() + received(&lines));
            self.count_opening(&lines);
        }
        // What the source says of the end matters more than that it was lost.
        let told = matches!(error, SessionError::Told(_));
        if self.released.get() && (!self.lost.replace(true) || told) {
            self.toolstack.state(State::Interrupted { reason: error.to_string() });
        }
    }

    /// Tells the source why it is over.
    pub(crate) async fn abort(&self, error: SessionError) -> SessionError {
        let control = self.lines.borrow().as_ref().map(|lines| lines.control.clone());
        match control {
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
        matches!(self.phase.get(), Phase::Committed | Phase::Over)
    }

    /// From here on the source may commit; neither silence nor a broken connection says whether it did.
    pub(crate) async fn enter_doubt(&self) {
        self.phase.set(Phase::InDoubt);
        if let Some(Lines { links: [control, bulk], .. }) = &*self.lines.borrow() {
            control.connection().set_patience(Some(CONTROL_LOST));
            bulk.connection().set_patience(Some(BULK_LOST));
        }
        self.toolstack.note(&self.notes.borrow().ready);
        self.toolstack.state(State::Ready);
        // The toolstack gets the note before the source hears anything.
        self.timer.yield_now().await;
    }

    /// Begins a stage, unless it has begun.
    pub(crate) fn begin(&self, stage: Stage) {
        let bytes = self.bytes();
        let ledger = &mut *self.ledger.borrow_mut();
        if !ledger.is_in(stage) {
            ledger.begin(stage, bytes);
        }
    }

    fn bytes(&self) -> u64 {
        self.earlier.get() + self.lines.borrow().as_ref().map_or(0, received)
    }

    /// Says how far the stage is.
    pub(crate) fn report(&self, stage: u8) {
        let ledger = self.ledger.borrow();
        let (summary, sets) = (&ledger.summary, self.sets.borrow());
        let (done, total) = match stage {
            1 => (summary.stage1_pages.min(summary.pages), summary.pages),
            _ => (summary.stage3_pages, summary.stage3_pages + sets.missing),
        };
        let bytes = ledger.stage_bytes(self.bytes());
        let faults = ledger.waits.count() + self.waiting.borrow().len() as u64;
        self.toolstack.progress(Progress { stage, done, total, bytes, faults, ..Progress::default() });
    }

    fn count_opening(&self, lines: &Lines) {
        self.ledger.borrow_mut().steps.open += lines.links.iter().map(|link| link.take_spent()[1]).sum::<u64>();
    }

    pub(crate) fn close(&self, state: State) {
        let bytes = self.bytes();
        self.lines.borrow().iter().for_each(|lines| self.count_opening(lines));
        self.toolstack.summary(&self.ledger.borrow_mut().close(bytes));
        self.toolstack.state(state);
    }
}

fn received(lines: &Lines) -> u64 {
    lines.links.iter().map(|link| link.connection().received()).sum()
}

/// Tells the source why it is over.
pub(crate) async fn abort(timer: &Timer, control: &SharedOutlet, error: SessionError) -> SessionError {
    if !matches!(error, SessionError::Told(_)) {
        let reason = error.to_string();
        let _ = timer.within(SECOND, control.send(Message::Abort(&reason))).await;
    }
    error
}
