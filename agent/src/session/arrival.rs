//! The target's end of one migration.

use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::pin::pin;

use embassy_futures::select::{Either, Either3, select, select3};

use super::departure::cancelled;
use super::dialing::{self, BULK, CONTROL, Callee};
use super::pages::{SETS, Sets, Waiting};
use super::{BULK_WAIT, Host, PEER_WAIT, PeerFault, Refusal, SessionError, Wait};
use crate::budget::Reservation;
use crate::channel::{Inlet, SharedOutlet};
use crate::control::{Progress, SessionToken, State};
use crate::datagram::Line;
use crate::desk::Desk;
use crate::ledger::{Ledger, Stage};
use crate::platform::{BATCH, Backends, DomId, Gfn, Platform, Target};
use crate::secure::Link;
use crate::tasks::{MS, SECOND, Timer};
use crate::wire::{Cause, Demanded, Kind, Message, Purpose, VERSIONS};
use crate::{datagram, dirty_copy, full_copy, rescue, switchover};

/// What a source may say on each.
const CONTROLS: [Kind; 4] = [Kind::Welcome, Kind::Pages, Kind::Commit, Kind::Abort];
const BULKS: [Kind; 6] = [Kind::Ram, Kind::Pages, Kind::Hints, Kind::Dirty, Kind::State, Kind::Switch];
/// What an arrival takes besides its page sets: connections, a message of each, the machine state.
const MEMORY: usize =
    CONTROL.size() + BULK.size() + Kind::Pages.limit() + 2 * Kind::State.limit() + datagram::MEMORY + rescue::MEMORY;
/// How often to look after the guest until it runs.
const WATCH_BEGIN: u64 = 20 * MS;

/// A guest that arrives. Its parts are borrowed for a moment at a time by the tasks of one session.
pub(crate) struct Arrival<T> {
    pub(crate) target: RefCell<T>,
    pub(crate) desk: Rc<Desk>,
    pub(crate) timer: Timer,
    control: SharedOutlet,
    pub(crate) can_page: bool,
    pub(crate) sets: RefCell<Sets>,
    pub(crate) ledger: RefCell<Ledger>,
    /// Pages that must be written before the guest runs, because they cannot be armed.
    pub(crate) stubborn: RefCell<Vec<Gfn>>,
    /// The machine state, until it is loaded.
    pub(crate) state: RefCell<Option<Vec<u8>>>,
    phase: Cell<Phase>,
    /// The guest has been seen to run here.
    pub(crate) ran: Cell<bool>,
    links: [Link; 2],
    /// Pages that somebody waits for.
    pub(crate) waiting: RefCell<Vec<Waiting>>,
    /// Those of them that the source has not been told of.
    pub(super) unsaid: RefCell<Vec<Demanded>>,
    /// A datagram brought a page before TCP did, and TCP has brought none since.
    pub(crate) tcp_is_late: Cell<bool>,
    pub(super) memory: RefCell<Reservation>,
}

/// How far the session is, as far as a failure must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The source has not been told that it may commit.
    Filling,
    /// It has, and may have.
    InDoubt,
    /// It has committed.
    Committed,
    /// Nothing is missing.
    Complete,
}

/// Serves a request to fill `domain`.
pub(crate) async fn serve<P: Platform>(
    host: &Host<P>,
    desk: &Rc<Desk>,
    domain: DomId,
    callee: Callee,
    session: SessionToken,
    backends: Backends,
) {
    if let Err(error) = arrive(host, desk, domain, callee, session, backends).await {
        desk.state(State::Failed { reason: error.to_string() });
    }
}

/// An error here means that the guest never ran on this host and never will.
async fn arrive<P: Platform>(
    host: &Host<P>,
    desk: &Rc<Desk>,
    domain: DomId,
    callee: Callee,
    session: SessionToken,
    backends: Backends,
) -> Result<(), SessionError> {
    let _claim = host.domains.claim(domain)?;
    let mut memory = host.budget.reserve(MEMORY)?;
    let target = host.platform.borrow_mut().open_target(domain, backends)?;
    let calling = select(dialing::dial(host, callee, session, Purpose::Begin), cancelled(&host.timer, desk)).await;
    let Either::First(called) = calling else { return Err(SessionError::Cancelled) };
    let [control, bulk] = called?;
    control.connection().set_patience(Some(PEER_WAIT));
    bulk.connection().set_patience(Some(BULK_WAIT));
    let mut inlet = Inlet::new(control.clone(), &CONTROLS);
    let built = select(build(host, &mut inlet, target, &mut memory), cancelled(&host.timer, desk)).await;
    let (target, frames, pages) = match built {
        Either::First(Ok(built)) => built,
        Either::First(Err(error)) => return Err(abort(&host.timer, &SharedOutlet::new(control), error).await),
        Either::Second(()) => {
            return Err(abort(&host.timer, &SharedOutlet::new(control), SessionError::Cancelled).await);
        }
    };
    let (target, rings) = target;
    desk.state(State::Built { store: rings.store, console: rings.console });

    let line = host.post.line(session, control.datagrams(), callee.address);
    let arrival = Arrival::new(host, desk, target, [control, bulk.clone()], frames, pages, memory);
    let error = {
        let migration = pin!(migrate(&arrival, Inlet::new(bulk, &BULKS), line));
        let listening = pin!(listen(&arrival, inlet));
        match select3(migration, listening, watch(&arrival)).await {
            Either3::First(Ok(())) => None,
            Either3::First(Err(error)) | Either3::Second(error) | Either3::Third(error) => Some(error),
        }
    };
    match (error, arrival.phase.get()) {
        (None, _) | (Some(_), Phase::Complete) => arrival.close(State::Complete),
        // The guest was destroyed after it had run here: nobody needs the rest. Had it not run, what the source has
        // would be the only copy, and is kept.
        (Some(SessionError::Refused(Refusal::Gone)), Phase::Committed) if arrival.ran.get() => {
            let _ = host.timer.within(SECOND, arrival.say_complete()).await;
            arrival.close(State::Complete);
        }
        (Some(error @ SessionError::Told(_)), Phase::Filling | Phase::InDoubt) | (Some(error), Phase::Filling) => {
            let error = abort(&host.timer, &arrival.control, error).await;
            arrival.close(State::Failed { reason: error.to_string() });
        }
        (Some(error), Phase::InDoubt | Phase::Committed) => {
            arrival.close(State::Interrupted { reason: error.to_string() });
            arrival.hold().await;
        }
    }
    Ok(())
}

type Built<T> = ((T, crate::platform::Rings), u64, u64);

/// Hears what the guest is and builds its frame.
async fn build<P: Platform>(
    host: &Host<P>,
    inlet: &mut Inlet,
    mut target: P::Target,
    memory: &mut Reservation,
) -> Result<Built<P::Target>, SessionError> {
    let welcome = host.timer.within(PEER_WAIT, inlet.next()).await.ok_or(SessionError::TimedOut(Wait::Build))??;
    let welcome = match welcome {
        Message::Welcome(welcome) => welcome,
        Message::Abort(reason) => return Err(SessionError::Told(reason.to_string())),
        _ => return Err(SessionError::Peer(PeerFault::OutOfTurn)),
    };
    if !(VERSIONS.0..=VERSIONS.1).contains(&welcome.version) {
        return Err(SessionError::Peer(PeerFault::Version));
    }
    if welcome.uuid != target.info()?.uuid {
        return Err(SessionError::Refused(Refusal::OtherGuest));
    }
    memory.add_sets(welcome.frames, SETS)?;
    let rings = target.build(welcome.frame)?;
    Ok(((target, rings), welcome.frames, welcome.pages))
}

/// Tells the source why it is over.
async fn abort(timer: &Timer, control: &SharedOutlet, error: SessionError) -> SessionError {
    if !matches!(error, SessionError::Told(_)) {
        let reason = error.to_string();
        let _ = timer.within(SECOND, control.send(Message::Abort(&reason))).await;
    }
    error
}

/// The whole way, phase by phase.
async fn migrate<T: Target>(arrival: &Arrival<T>, mut bulk: Inlet, mut line: Line) -> Result<(), SessionError> {
    let built = Message::Built { can_page: arrival.can_page };
    arrival.say(built).await?;
    arrival.begin(Stage::FullCopy);
    loop {
        let message = bulk.next().await?;
        if !full_copy::take(arrival, &message)? && switchover::take(arrival, &message)? {
            break;
        }
    }
    // From the moment that the source may commit, silence says nothing about whether it did.
    arrival.links.iter().for_each(|link| link.connection().set_patience(None));
    switchover::prepare(arrival).await?;
    arrival.desk.state(State::Ready);
    arrival.timer.wait_for(|| (arrival.phase.get() == Phase::Committed).then_some(())).await;
    arrival.target.borrow_mut().release()?;
    dirty_copy::fetch(arrival, &mut bulk, &mut line).await?;
    arrival.target.borrow_mut().finish()?;
    arrival.phase.set(Phase::Complete);
    arrival.say_complete().await
}

/// Takes in what the source says on the control connection. Ends only with an error.
async fn listen<T: Target>(arrival: &Arrival<T>, mut inlet: Inlet) -> SessionError {
    loop {
        let heard = match inlet.next().await {
            Ok(Message::Pages(pages)) if pages.cause() != Cause::Push => {
                let placed = arrival.place(&pages);
                arrival.tcp_is_late.set(false);
                arrival.report(3);
                placed
            }
            Ok(Message::Commit) if arrival.phase.get() == Phase::InDoubt => {
                arrival.phase.set(Phase::Committed);
                Ok(())
            }
            Ok(Message::Abort(reason)) if arrival.phase.get() != Phase::Committed => {
                Err(SessionError::Told(reason.to_string()))
            }
            Ok(_) => Err(SessionError::Peer(PeerFault::OutOfTurn)),
            // The source closes once it has heard that all is complete.
            Err(_) if arrival.phase.get() == Phase::Complete => core::future::pending().await,
            Err(error) => Err(error),
        };
        if let Err(error) = heard {
            return error;
        }
        arrival.timer.nudge();
    }
}

/// Notices that the toolstack gives up, that the guest begins to run, or that the domain is destroyed.
async fn watch<T: Target>(arrival: &Arrival<T>) -> SessionError {
    let gives_up = || {
        let cancelled = arrival.desk.cancelled() && arrival.phase.get() == Phase::Filling;
        cancelled.then_some(())
    };
    loop {
        if let Err(error) = arrival.target.borrow_mut().info() {
            return error.into();
        }
        let begins = arrival.is_running() && !arrival.ran.get();
        if begins {
            arrival.ran.set(arrival.target.borrow_mut().has_run().unwrap_or(false));
            arrival.timer.nudge();
        }
        let pause = if arrival.ran.get() { SECOND } else { WATCH_BEGIN };
        if arrival.timer.within(pause, arrival.timer.wait_for(gives_up)).await.is_some() {
            return SessionError::Cancelled;
        }
    }
}

impl<T: Target> Arrival<T> {
    fn new<P: Platform>(
        host: &Host<P>,
        desk: &Rc<Desk>,
        target: T,
        links: [Link; 2],
        frames: u64,
        pages: u64,
        memory: Reservation,
    ) -> Self {
        let mut ledger = Ledger::new(host.timer.clone());
        ledger.summary.pages = pages;
        Self {
            can_page: target.can_page(),
            target: RefCell::new(target),
            desk: desk.clone(),
            timer: host.timer.clone(),
            control: SharedOutlet::new(links[0].clone()),
            sets: RefCell::new(Sets::new(frames)),
            ledger: RefCell::new(ledger),
            stubborn: RefCell::default(),
            state: RefCell::default(),
            phase: Cell::new(Phase::Filling),
            ran: Cell::new(false),
            links,
            waiting: RefCell::default(),
            unsaid: RefCell::default(),
            tcp_is_late: Cell::new(false),
            memory: RefCell::new(memory),
        }
    }

    /// Sends on the control connection.
    pub(crate) async fn say(&self, message: Message<'_>) -> Result<(), SessionError> {
        self.control.send(message).await
    }

    /// Asks the source for up to [`BATCH`] pages, now.
    pub(crate) async fn demand(&self, pages: &[Demanded]) -> Result<(), SessionError> {
        let body: heapless::Vec<u8, { 8 * BATCH }> = pages.iter().flat_map(Demanded::emit).collect();
        self.say(Message::Demand(&body)).await
    }

    /// Whether the guest may run.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase.get(), Phase::Committed | Phase::Complete)
    }

    /// The source may commit from here on.
    pub(crate) fn enter_doubt(&self) {
        self.phase.set(Phase::InDoubt);
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
        self.links.iter().map(|link| link.connection().received()).sum()
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
        self.desk.progress(Progress { stage, done, total, bytes, faults, ..Progress::default() });
    }

    async fn say_complete(&self) -> Result<(), SessionError> {
        self.say(Message::Complete).await?;
        let _ = self.timer.within(PEER_WAIT, self.links[0].connection().finished()).await;
        Ok(())
    }

    /// Keeps the guest as it is, waiting or not, until the toolstack destroys it.
    async fn hold(&self) {
        while self.target.borrow_mut().info().is_ok() {
            self.timer.sleep(SECOND).await;
        }
    }

    fn close(&self, state: State) {
        let bytes = self.bytes();
        self.desk.summary(&self.ledger.borrow_mut().close(bytes));
        self.desk.state(state);
    }
}
