//! The source's end of one migration.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::{Ipv4Addr, SocketAddrV4};
use core::pin::pin;

use embassy_futures::select::{Either, select};

use super::{BULK_WAIT, Host, PEER_WAIT, PeerFault, Refusal, SUSPEND_WAIT, SessionError, Wait};
use crate::bitmap::PageSet;
use crate::budget::Reservation;
use crate::channel::{Inlet, Outlet};
use crate::config::Config;
use crate::control::{Mode, SessionToken, State};
use crate::desk::Desk;
use crate::ledger::{Ledger, Sends};
use crate::lobby::Called;
use crate::net::IN_FLIGHT_CONTROL;
use crate::platform::{BATCH, DomId, Gfn, GuestInfo, PAGE_SIZE, Page, Platform, Source};
use crate::rescue::Answering;
use crate::secure::record::MAX_PAYLOAD;
use crate::tasks::{SECOND, Timer};
use crate::wire::{Demanded, Kind, Message, Purpose, VERSIONS, Welcome};
use crate::{datagram, dirty_copy, full_copy, lobby, session, switchover};

/// Page sets that a departure keeps, and one for a moment in the switch.
const SETS: usize = 11;
/// What it takes besides: connections, a batch, the machine state and what is made of it.
const MEMORY: usize = 2 * (lobby::BUFFERS.size() + MAX_PAYLOAD)
    + (BATCH + 1) * PAGE_SIZE
    + 2 * Kind::State.limit()
    + 16 * DEMANDS
    + datagram::MEMORY;
/// Demands that may wait. While there are more, the target is not listened to.
const DEMANDS: usize = 4096;
/// What a target may say.
const HEARD: [Kind; 5] = [Kind::Built, Kind::Ready, Kind::Demand, Kind::Complete, Kind::Abort];

/// A guest that leaves.
pub(crate) struct Departure<S> {
    pub(crate) source: S,
    pub(crate) desk: Rc<Desk>,
    pub(crate) timer: Timer,
    pub(crate) control: Outlet,
    pub(crate) bulk: Outlet,
    pub(crate) inbox: Rc<Inbox>,
    pub(crate) ledger: Ledger,
    /// How memory moves: what was asked for, or what the target can do.
    pub(crate) policy: Mode,
    pub(crate) frames: u64,
    /// What the target was told is RAM.
    pub(crate) ram: PageSet,
    /// What is known to be dirty: written since it was sent, or before its turn came.
    pub(crate) log: PageSet,
    /// What was dirtied after the suspend was asked for: what the resuming guest touches first.
    pub(crate) recent: PageSet,
    /// What the target was told is stale.
    pub(crate) hinted: PageSet,
    /// A round of a pre-copy; in stage 3, the dirty pages that have not been sent.
    pub(crate) left: PageSet,
    /// For sets that live for a moment.
    pub(crate) scratch: PageSet,
    /// How often each page was sent.
    pub(crate) sends: Sends,
    /// Pages that looked, when they were read, like ones that must never be armed. The guest decides what they look like.
    pub(crate) pinned: PageSet,
    pub(crate) next_peek: u64,
    /// Bytes per second that stage 1 moved.
    pub(crate) rate: u64,
    /// The toolstack has been asked to suspend the guest.
    pub(crate) asked: bool,
    pub(crate) rescue: Answering,
    pub(super) batch: Vec<Page>,
    memory: Reservation,
}

/// What the target has said.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) built: Cell<Option<bool>>,
    pub(crate) ready: Cell<bool>,
    pub(crate) complete: Cell<bool>,
    pub(crate) demands: RefCell<VecDeque<Gfn>>,
    /// Not said by the target: the commit has happened here.
    pub(crate) committed: Cell<bool>,
}

impl Inbox {
    /// Takes demands in: what backends wait for goes before all others, since they give up in the end.
    fn demand(&self, demanded: impl Iterator<Item = Demanded>) {
        let mut demands = self.demands.borrow_mut();
        for Demanded { gfn, first } in demanded {
            if first { demands.push_front(gfn) } else { demands.push_back(gfn) }
        }
    }
}

/// Serves a request to send `domain` away.
pub(crate) async fn serve<P: Platform>(host: &Host<P>, desk: &Rc<Desk>, domain: DomId, mode: Mode) {
    if let Err(error) = leave(host, desk, domain, mode).await {
        desk.state(State::Failed { reason: error.to_string() });
    }
}

/// An error here means that nothing was begun: the guest was only looked at.
async fn leave<P: Platform>(host: &Host<P>, desk: &Rc<Desk>, domain: DomId, mode: Mode) -> Result<(), SessionError> {
    let claim = host.domains.claim(domain)?;
    let (mut source, info, memory) = open(host, domain)?;
    let frame = source.frame()?;
    let called = invite(host, desk).await?;

    let mut departure = Departure::new(host, desk, source, &info, mode, &called, memory);
    let inbox = departure.inbox.clone();
    let mut listening = pin!(listen(Inlet::new(called.control.clone(), &HEARD), &inbox, &host.timer));
    let features = host.platform.borrow().features();
    let outcome = {
        let migration = pin!(migrate(&mut departure, &called, &info, features, &frame));
        let cancelled = pin!(async {
            cancelled(&host.timer, desk).await;
            host.timer.wait_for(|| (!inbox.committed.get()).then_some(())).await;
        });
        match select(migration, select(listening.as_mut(), cancelled)).await {
            // A broken connection may have been closed for a reason that is still on its way.
            Either::First(Err(error @ SessionError::Link(_))) => {
                let told = host.timer.within(SECOND, listening).await;
                Err(told.filter(|told| matches!(told, SessionError::Told(_))).unwrap_or(error))
            }
            Either::First(outcome) => outcome,
            Either::Second(Either::First(error)) => Err(error),
            Either::Second(Either::Second(())) => Err(SessionError::Cancelled),
        }
    };
    let Err(error) = outcome else {
        departure.close(State::Complete);
        return Ok(());
    };
    if inbox.committed.get() {
        departure.close(State::Interrupted { reason: error.to_string() });
        claim.keep();
    } else {
        give_back(&mut departure, &error).await;
    }
    Ok(())
}

/// Opens the guest and refuses what is going to be impossible.
fn open<P: Platform>(host: &Host<P>, domain: DomId) -> Result<(P::Source, GuestInfo, Reservation), SessionError> {
    let features = host.platform.borrow().features();
    if !features.foreign_map {
        return Err(SessionError::Refused(Refusal::NoForeignMap));
    }
    if !features.dirty_log {
        return Err(SessionError::Refused(Refusal::NoDirtyLog));
    }
    let mut source = host.platform.borrow_mut().open_source(domain)?;
    let info = source.info()?;
    if info.paged_pages != 0 {
        return Err(SessionError::Refused(Refusal::PagedOut));
    }
    let mut memory = host.budget.reserve(MEMORY)?;
    memory.add_sets(info.max_gfn + 1, SETS)?;
    Ok((source, info, memory))
}

/// Waits for the target's agent, which learns from the toolstack where to call and what to say.
async fn invite<P: Platform>(host: &Host<P>, desk: &Desk) -> Result<Called, SessionError> {
    let mut token = [0; 16];
    host.platform.borrow_mut().random(&mut token);
    let session = SessionToken(token);
    let address = host.timer.wait_for(|| host.net.borrow().address());
    let address = host.timer.within(PEER_WAIT, address).await.ok_or(SessionError::TimedOut(Wait::Address))?;
    let invitation = host.lobby.expect(session, Purpose::Begin, None);
    let Config { port, security, .. } = &*host.config;
    desk.state(State::Listening { session, address, port: *port, key: security.public_key() });
    let answered = host.timer.within(PEER_WAIT, invitation.answered(&host.timer));
    let error = match select(answered, cancelled(&host.timer, desk)).await {
        Either::First(Some(called)) => return Ok(called),
        Either::First(None) => SessionError::TimedOut(Wait::Call),
        Either::Second(()) => SessionError::Cancelled,
    };
    // Why nobody came, or why the toolstack gives up, if somebody did come.
    Err(invitation.turned_away().map_or(error, SessionError::Refused))
}

/// The whole way, phase by phase.
async fn migrate<S: Source>(
    departure: &mut Departure<S>,
    called: &Called,
    info: &GuestInfo,
    features: crate::platform::Features,
    frame: &[u8],
) -> Result<(), SessionError> {
    let version = VERSIONS.1.min(called.hello.versions.1);
    if version < VERSIONS.0.max(called.hello.versions.0) {
        return Err(SessionError::Peer(PeerFault::Version));
    }
    let welcome = Welcome {
        version,
        mode: departure.policy,
        features,
        vcpus: info.vcpus,
        pages: info.pages,
        frames: departure.frames,
        uuid: info.uuid,
        verify: false,
        frame,
    };
    departure.control.send(Message::Welcome(welcome)).await?;
    let inbox = departure.inbox.clone();
    let built = departure.timer.within(PEER_WAIT, departure.timer.wait_for(|| inbox.built.get())).await;
    let can_page = built.ok_or(SessionError::TimedOut(Wait::Build))?;
    if !can_page || !info.hap {
        departure.policy = Mode::Precopy;
    }

    let copied = full_copy::send(departure).await?;
    let prepared = switchover::leave(departure, copied).await?;
    let committed = session::commit(departure, prepared).await?;
    dirty_copy::serve(departure, &committed).await?;
    departure.source.destroy()?;
    Ok(())
}

/// Takes in what the target says. Ends only with an error.
async fn listen(mut inlet: Inlet, inbox: &Inbox, timer: &Timer) -> SessionError {
    loop {
        match inlet.next().await {
            Err(error) => return error,
            Ok(Message::Built { can_page }) => inbox.built.set(Some(can_page)),
            Ok(Message::Ready) => inbox.ready.set(true),
            Ok(Message::Demand(body)) => {
                inbox.demand(Message::demanded(body));
                timer.nudge();
                timer.wait_for(|| (inbox.demands.borrow().len() < DEMANDS).then_some(())).await;
            }
            Ok(Message::Complete) if inbox.committed.get() => {
                inbox.complete.set(true);
                // The target closes now; that is no error.
                core::future::pending::<()>().await;
            }
            Ok(Message::Abort(reason)) => return SessionError::Told(reason.to_string()),
            Ok(_) => return SessionError::Peer(PeerFault::OutOfTurn),
        }
        timer.nudge();
    }
}

/// The one way out before the commit: the peer is told, and the guest runs on here.
async fn give_back<S: Source>(departure: &mut Departure<S>, error: &SessionError) {
    let (timer, desk) = (departure.timer.clone(), departure.desk.clone());
    let mut reason = error.to_string();
    if !matches!(error, SessionError::Told(_)) {
        let _ = timer.within(SECOND, departure.control.send(Message::Abort(&reason))).await;
    }
    // A suspend that is under way ends first: a guest that suspends afterwards would stay so.
    if departure.asked && desk.suspended().is_none() {
        let source = &mut departure.source;
        let suspended = timer.wait_for(|| {
            let over = desk.suspended().is_some() || source.info().map_or(true, |info| info.suspended);
            over.then_some(())
        });
        let _ = timer.within(SUSPEND_WAIT, suspended).await;
    }
    if let Err(error) = departure.source.release() {
        reason = format!("{reason}; and the guest could not be given back, see whether it runs: {error}");
    }
    departure.close(State::Failed { reason });
}

/// Waits until the toolstack gives up.
pub(super) async fn cancelled(timer: &Timer, desk: &Desk) {
    timer.wait_for(|| desk.cancelled().then_some(())).await;
}

impl<S: Source> Departure<S> {
    fn new<P: Platform>(
        host: &Host<P>,
        desk: &Rc<Desk>,
        source: S,
        info: &GuestInfo,
        policy: Mode,
        called: &Called,
        memory: Reservation,
    ) -> Self {
        let frames = info.max_gfn + 1;
        called.control.connection().set_in_flight(IN_FLIGHT_CONTROL);
        called.control.connection().set_patience(Some(PEER_WAIT));
        called.bulk.connection().set_patience(Some(BULK_WAIT));
        let mut ledger = Ledger::new(host.timer.clone());
        ledger.summary.pages = info.pages;
        let set = || PageSet::new(frames);
        let peer = called.control.connection().peer().unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        let line = host.post.line(called.hello.session, called.control.datagrams(), peer);
        Self {
            source,
            desk: desk.clone(),
            timer: host.timer.clone(),
            control: Outlet::new(called.control.clone()),
            bulk: Outlet::new(called.bulk.clone()),
            inbox: Rc::default(),
            ledger,
            policy,
            frames,
            ram: set(),
            log: set(),
            recent: set(),
            hinted: set(),
            left: set(),
            scratch: set(),
            sends: Sends::new(frames),
            pinned: set(),
            next_peek: 0,
            rate: 0,
            asked: false,
            rescue: Answering::new(line, host.timer.clone()),
            batch: vec![[0; PAGE_SIZE]; BATCH],
            memory,
        }
    }

    /// Bytes handed to both connections so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.control.connection().sent() + self.bulk.connection().sent()
    }

    /// Lets every set reach as far as the guest does now.
    pub(crate) fn grow(&mut self, frames: u64) -> Result<(), SessionError> {
        if frames <= self.frames {
            return Ok(());
        }
        self.memory.add_sets(frames - self.frames, SETS)?;
        self.frames = frames;
        self.sends.grow(frames);
        let sets = [&mut self.ram, &mut self.log, &mut self.recent, &mut self.hinted, &mut self.left];
        sets.into_iter().chain([&mut self.scratch, &mut self.pinned]).for_each(|set| set.grow(frames));
        Ok(())
    }

    fn close(&mut self, state: State) {
        let bytes = self.bytes();
        self.desk.summary(&self.ledger.close(bytes));
        self.desk.state(state);
    }
}
