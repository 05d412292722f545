//! The target's end of one migration.

use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use common::control::{Progress, SessionToken, Size, State};
use common::{BATCH, Backends, DomId, Hold, Rings};
use embassy_futures::select::{Either, Either3, select, select3};

use super::departure::cancelled;
use super::dialing::{self, BULK, CONTROL, Callee};
use super::note::{Note, Role};
use super::pages::{SETS, Sets, Waiting};
use super::stay::{self, Contact};
use super::{Host, epilogue, turn};
use crate::budget::{Reservation, Want};
use crate::channel::{Inlet, SharedOutlet};
use crate::datagram::End;
use crate::desk::Desk;
use crate::error::{LinkError, PeerFault, Refusal, SessionError, Wait};
use crate::ledger::{Ledger, Stage};
use crate::limits::{BULK_LOST, BULK_WAIT, CONTROL_LOST, PEER_WAIT, WATCH};
use crate::platform::{Platform, Target};
use crate::secure::Link;
use crate::tasks::{SECOND, Timer};
use crate::verify::Verifier;
use crate::wire::{Demanded, Kind, Message, Purpose, VERSIONS, Welcome};
use crate::{budget, datagram, full_copy, rescue, switchover};

/// What a source may say on each.
pub(crate) const CONTROLS: [Kind; 6] =
    [Kind::Welcome, Kind::Pages, Kind::Commit, Kind::Abort, Kind::Complete, Kind::Digests];
pub(crate) const BULKS: [Kind; 8] =
    [Kind::Ram, Kind::Gone, Kind::Pages, Kind::Hints, Kind::Dirty, Kind::Digests, Kind::State, Kind::Switch];
/// What an arrival takes besides its page sets: connections, a message of each, the machine state.
const MEMORY: usize =
    CONTROL.size() + BULK.size() + Kind::Pages.limit() + 2 * Kind::State.limit() + datagram::MEMORY + rescue::MEMORY;

/// A guest that arrives. Its parts are borrowed for a moment at a time by the tasks of one session.
pub(crate) struct Arrival<T> {
    pub(crate) target: RefCell<T>,
    pub(crate) desk: Rc<Desk>,
    pub(crate) timer: Timer,
    pub(super) callee: Callee,
    pub(super) session: SessionToken,
    pub(super) uuid: [u8; 16],
    pub(super) notes: RefCell<Notes>,
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
    pub(super) phase: Cell<Phase>,
    /// The guest has been seen to run here.
    pub(crate) ran: Cell<bool>,
    /// The guest may run.
    pub(super) released: Cell<bool>,
    /// Pages that somebody waits for.
    pub(crate) waiting: RefCell<Vec<Waiting>>,
    /// Those of them that the source has not been told of.
    pub(super) unsaid: RefCell<Vec<Demanded>>,
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
pub(super) struct Notes {
    ready: String,
    pub(super) running: String,
}

impl Notes {
    fn new<P: Platform>(host: &Host<P>, note: &Note) -> Self {
        let as_role = |role| Note { role, ..note.clone() }.seal(host);
        Self { ready: as_role(Role::Ready), running: as_role(Role::Running) }
    }
}

/// How far the session is, as far as a failure must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The source has not been told that it may commit.
    Filling,
    /// It has, and may have.
    InDoubt,
    /// It has committed.
    Committed,
    /// Nothing is missing, or wanted any more.
    Over,
}

/// Bytes that taking in a guest takes, or adopting it.
pub(crate) fn cost(size: &Size) -> usize {
    let verifying = if size.digests > 0 { Verifier::cost(size) } else { 0 };
    MEMORY.saturating_add(budget::sets(size.frames, SETS)).saturating_add(verifying)
}

/// Serves a request to fill `domain`.
pub(crate) async fn serve<P: Platform>(
    host: &Host<P>,
    desk: &Rc<Desk>,
    domain: DomId,
    callee: Callee,
    session: SessionToken,
    size: Size,
    backends: Backends,
) {
    if let Err(error) = arrive(host, desk, domain, callee, session, size, backends).await {
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
    size: Size,
    backends: Backends,
) -> Result<(), SessionError> {
    let claim = host.domains.claim(domain)?;
    host.platform.borrow().can_retain()?;
    let mut memory = {
        let turn = turn(host, desk, Want::to_arrive(size, callee.key));
        match select(turn, dialing::postpone(host, callee, session)).await {
            Either::First(memory) => memory?,
            Either::Second(never) => match never {},
        }
    };
    memory.add(MEMORY)?;
    // It may have waited for long.
    host.platform.borrow().can_retain()?;
    let target = host.platform.borrow_mut().open_target(domain, backends)?;
    let calling = select(dialing::dial(host, callee, session, Purpose::Begin), cancelled(&host.timer, desk)).await;
    let Either::First(called) = calling else { return Err(SessionError::Cancelled) };
    let [control, bulk] = called?;
    control.connection().set_patience(Some(PEER_WAIT));
    bulk.connection().set_patience(Some(BULK_WAIT));
    let mut inlet = Inlet::new(control.clone(), &CONTROLS);
    let built = select(build(host, &mut inlet, target, &mut memory), cancelled(&host.timer, desk)).await;
    let Built { target, rings, frames, pages, uuid, verifier } = match built {
        Either::First(Ok(built)) => built,
        Either::First(Err(error)) => return Err(abort(&host.timer, &SharedOutlet::new(control), error).await),
        Either::Second(()) => {
            return Err(abort(&host.timer, &SharedOutlet::new(control), SessionError::Cancelled).await);
        }
    };
    desk.state(State::Built { store: rings.store, console: rings.console });

    let (memo, peer) = (target.memo(), callee.address);
    let note = Note { role: Role::Ready, domain, session, uuid, memo, frames, peer, key: callee.key };
    let arrival = Arrival::new(host, desk, target, &note, Sets::new(frames), pages, memory);
    arrival.verifier.replace(verifier);
    let unheard = {
        let line = host.post.line(session, End::Target, control.datagrams(), callee.address);
        arrival.attach([control.clone(), bulk.clone()]);
        let mut listening = stay::listen(&arrival, [control, bulk.clone()], inlet);
        let mut bulk = Inlet::new(bulk, &BULKS);
        let error = match select3(fill(host, &arrival, &note, &mut bulk), listening.as_mut(), watch(&arrival)).await {
            Either3::First(Ok(())) => None,
            // The bulk connection may have been closed for a reason that is still on its way on the other.
            Either3::First(Err(error @ SessionError::Link(_))) if arrival.phase.get() == Phase::Filling => {
                let told = host.timer.within(SECOND, listening.as_mut()).await;
                Some(told.and_then(Result::err).filter(|told| matches!(told, SessionError::Told(_))).unwrap_or(error))
            }
            Either3::Second(Ok(())) => Some(SessionError::Peer(PeerFault::OutOfTurn)),
            Either3::First(Err(error)) | Either3::Second(Err(error)) | Either3::Third(error) => Some(error),
        };
        let contact = match error {
            None => Contact::Open { listening, bulk, line },
            Some(error) if arrival.phase.get() == Phase::Filling || matches!(error, SessionError::Told(_)) => {
                let reason = arrival.abort(error).await.to_string();
                arrival.close(State::Failed { reason });
                return Ok(());
            }
            Some(error) => {
                arrival.lose(&error);
                Contact::Cut
            }
        };
        stay::stay(host, &arrival, contact).await
    };
    // The source hears of the end whatever it takes; the domain is not held for that.
    drop((arrival, claim));
    epilogue::report(host, callee, session, unheard).await;
    Ok(())
}

/// Goes on with a guest that an earlier life of this agent was filling.
pub(super) async fn adopt<P: Platform>(host: &Host<P>, desk: &Rc<Desk>, note: &Note) -> Result<(), SessionError> {
    let claim = host.domains.claim(note.domain)?;
    let size = Size { frames: note.frames, digests: 0 };
    let mut memory = turn(host, desk, Want::to_arrive(size, note.key).again()).await?;
    memory.add(cost(&size))?;
    let (hold, phase) = match note.role {
        Role::Running => (Hold::Released, Phase::Committed),
        Role::Source | Role::Ready => (Hold::Held, Phase::InDoubt),
    };
    let adopted = host.platform.borrow_mut().adopt_target(note.domain, note.uuid, note.memo, hold, note.frames);
    let (mut target, absent) = adopted?;
    let pages = target.info()?.pages;
    let arrival = Arrival::new(host, desk, target, note, Sets::adopted(absent), pages, memory);
    arrival.phase.set(phase);
    if hold == Hold::Released {
        arrival.released.set(true);
        desk.note(&arrival.notes.borrow().running);
        arrival.lose(&SessionError::Refused(Refusal::Restarted));
    } else {
        desk.note(&arrival.notes.borrow().ready);
        desk.state(State::Ready);
    }
    let unheard = stay::stay(host, &arrival, Contact::Cut).await;
    drop((arrival, claim));
    epilogue::report(host, Callee { address: note.peer, key: note.key }, note.session, unheard).await;
    Ok(())
}

/// A guest's frame that stands, and how much is to come.
struct Built<T> {
    target: T,
    rings: Rings,
    frames: u64,
    pages: u64,
    uuid: [u8; 16],
    verifier: Option<Verifier>,
}

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
    let Welcome { frames, pages, uuid, verify, .. } = welcome;
    memory.add_sets(frames, SETS)?;
    let verifier = if verify { Some(Verifier::new(frames, memory)?) } else { None };
    let rings = target.build(welcome.frame)?;
    Ok(Built { target, rings, frames, pages, uuid, verifier })
}

/// Tells the source why it is over.
async fn abort(timer: &Timer, control: &SharedOutlet, error: SessionError) -> SessionError {
    if !matches!(error, SessionError::Told(_)) {
        let reason = error.to_string();
        let _ = timer.within(SECOND, control.send(Message::Abort(&reason))).await;
    }
    error
}

/// The way to where the source may commit.
async fn fill<P: Platform>(
    host: &Host<P>,
    arrival: &Arrival<P::Target>,
    note: &Note,
    bulk: &mut Inlet,
) -> Result<(), SessionError> {
    let built = Message::Built { can_page: arrival.can_page };
    arrival.say(built).await?;
    arrival.begin(Stage::FullCopy);
    loop {
        let message = bulk.next().await?;
        if !full_copy::take(arrival, &message)? && switchover::take(arrival, &message)? {
            break;
        }
        // Small messages may mean much work, and many of them are here at once.
        arrival.timer.yield_now().await;
    }
    // It may have grown on its way, and no page beyond what the note says is looked at when the guest is adopted.
    let frames = arrival.sets.borrow().ram.frames();
    *arrival.notes.borrow_mut() = Notes::new(host, &Note { frames, ..note.clone() });
    switchover::prepare(arrival).await
}

/// Until the source may have committed: notices that the toolstack gives up, or that the domain is gone.
async fn watch<T: Target>(arrival: &Arrival<T>) -> SessionError {
    loop {
        if let Err(error) = arrival.target.borrow_mut().info() {
            return error.into();
        }
        let gives_up = || (arrival.desk.cancelled() && arrival.phase.get() == Phase::Filling).then_some(());
        if arrival.timer.within(WATCH, arrival.timer.wait_for(gives_up)).await.is_some() {
            return SessionError::Cancelled;
        }
    }
}

impl<T: Target> Arrival<T> {
    fn new<P: Platform>(
        host: &Host<P>,
        desk: &Rc<Desk>,
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
            desk: desk.clone(),
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
    pub(super) fn attach(&self, links: [Link; 2]) {
        let control = Rc::new(SharedOutlet::new(links[0].clone()));
        *self.lines.borrow_mut() = Some(Lines { control, links });
        if self.lost.replace(false) {
            self.ledger.borrow_mut().summary.recoveries += 1;
            self.desk.state(State::Running);
        }
    }

    /// The connections are of no more use.
    pub(super) fn lose(&self, error: &SessionError) {
        if let Some(lines) = self.lines.take() {
            lines.links.iter().for_each(|link| link.connection().abort());
            self.earlier.set(self.earlier.get() + received(&lines));
            self.count_opening(&lines);
        }
        // What the source says of the end matters more than that it was lost.
        let told = matches!(error, SessionError::Told(_));
        if self.released.get() && (!self.lost.replace(true) || told) {
            self.desk.state(State::Interrupted { reason: error.to_string() });
        }
    }

    /// Tells the source why it is over.
    async fn abort(&self, error: SessionError) -> SessionError {
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
        self.desk.note(&self.notes.borrow().ready);
        self.desk.state(State::Ready);
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
        self.desk.progress(Progress { stage, done, total, bytes, faults, ..Progress::default() });
    }

    fn count_opening(&self, lines: &Lines) {
        self.ledger.borrow_mut().steps.open += lines.links.iter().map(|link| link.take_spent()[1]).sum::<u64>();
    }

    pub(super) fn close(&self, state: State) {
        let bytes = self.bytes();
        self.lines.borrow().iter().for_each(|lines| self.count_opening(lines));
        self.desk.summary(&self.ledger.borrow_mut().close(bytes));
        self.desk.state(state);
    }
}

fn received(lines: &Lines) -> u64 {
    lines.links.iter().map(|link| link.connection().received()).sum()
}
