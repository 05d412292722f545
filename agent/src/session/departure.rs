//! The source's end of one migration.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::pin::pin;

use embassy_futures::select::{Either, select};

use super::{Host, PEER_WAIT, PeerFault, Refusal, SUSPEND_WAIT, SessionError, Wait};
use crate::bitmap::PageSet;
use crate::channel::{Inlet, Outlet};
use crate::control::{Mode, SessionToken, State};
use crate::desk::Desk;
use crate::ledger::{Ledger, Sends};
use crate::lobby::Called;
use crate::platform::{BATCH, DomId, Gfn, GuestInfo, PAGE_SIZE, Page, PageMask, Platform, Source};
use crate::tasks::{SECOND, Timer};
use crate::wire::{Cause, Message, VERSIONS, Welcome};
use crate::{dirty_copy, full_copy, session, switchover};

/// Page sets that a departure keeps, for the memory budget.
const SETS: u64 = 9;
/// Demands that may wait; a target has at most a few per virtual CPU and backend.
const DEMANDS: usize = 4096;

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
    /// Pages that looked, when they were read, like ones that must never be armed; ascending.
    pub(crate) pinned: Vec<Gfn>,
    pub(crate) next_peek: u64,
    /// Bytes per second that stage 1 moved.
    pub(crate) rate: u64,
    /// The toolstack has been asked to suspend the guest.
    pub(crate) asked: bool,
    batch: Vec<Page>,
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

/// Serves a request to send `domain` away.
pub(crate) async fn serve<P: Platform>(host: &Host<P>, desk: &Rc<Desk>, domain: DomId, mode: Mode) {
    if let Err(error) = leave(host, desk, domain, mode).await {
        desk.state(State::Failed { reason: error.to_string() });
    }
}

/// An error here means that nothing was begun: the guest was only looked at.
async fn leave<P: Platform>(host: &Host<P>, desk: &Rc<Desk>, domain: DomId, mode: Mode) -> Result<(), SessionError> {
    let (mut source, info) = open(host, domain)?;
    let frame = source.frame()?;
    let invited = select(invite(host, desk), cancelled(&host.timer, desk)).await;
    let called = match invited {
        Either::First(called) => called?,
        Either::Second(()) => return Err(SessionError::Cancelled),
    };

    let inbox = Rc::new(Inbox::default());
    let mut listening = pin!(listen(Inlet::new(called.control.clone()), &inbox, &host.timer));
    let mut departure = Departure::new(host, desk, source, &info, mode, &called, inbox.clone());
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
    } else {
        give_back(&mut departure, &error).await;
    }
    Ok(())
}

/// Opens the guest and refuses what is going to be impossible.
fn open<P: Platform>(host: &Host<P>, domain: DomId) -> Result<(P::Source, GuestInfo), SessionError> {
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
    session::check_budget(&host.config, info.max_gfn + 1, SETS)?;
    Ok((source, info))
}

/// Waits for the target's agent, which learns from the toolstack where to call and what to say.
async fn invite<P: Platform>(host: &Host<P>, desk: &Desk) -> Result<Called, SessionError> {
    let mut token = [0; 16];
    host.platform.borrow_mut().random(&mut token);
    let session = SessionToken(token);
    let address = host.timer.wait_for(|| host.net.borrow().address());
    let address = host.timer.within(PEER_WAIT, address).await.ok_or(SessionError::TimedOut(Wait::Address))?;
    let invitation = host.lobby.expect(session);
    desk.state(State::Listening { session, address, port: host.config.port });
    let called = host.timer.within(PEER_WAIT, invitation.answered(&host.timer)).await;
    called.ok_or(SessionError::TimedOut(Wait::Call))
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
                let mut demands = inbox.demands.borrow_mut();
                demands.extend(Message::demanded(body));
                if demands.len() > DEMANDS {
                    return SessionError::Peer(PeerFault::OutOfTurn);
                }
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
    let reason = error.to_string();
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
        log::error!("the guest could not be given back: {error}");
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
        inbox: Rc<Inbox>,
    ) -> Self {
        let frames = info.max_gfn + 1;
        called.control.set_patience(Some(PEER_WAIT));
        called.bulk.set_patience(Some(PEER_WAIT));
        let mut ledger = Ledger::new(host.timer.clone());
        ledger.summary.pages = info.pages;
        let set = || PageSet::new(frames);
        Self {
            source,
            desk: desk.clone(),
            timer: host.timer.clone(),
            control: Outlet::new(called.control.clone()),
            bulk: Outlet::new(called.bulk.clone()),
            inbox,
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
            pinned: Vec::new(),
            next_peek: 0,
            rate: 0,
            asked: false,
            batch: vec![[0; PAGE_SIZE]; BATCH],
        }
    }

    /// Bytes handed to both connections so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.control.connection().sent() + self.bulk.connection().sent()
    }

    /// Lets every set reach as far as the guest does now.
    pub(crate) fn grow(&mut self, frames: u64) {
        self.frames = self.frames.max(frames);
        self.sends.grow(frames);
        [&mut self.ram, &mut self.log, &mut self.recent, &mut self.hinted, &mut self.left, &mut self.scratch]
            .into_iter()
            .for_each(|set| set.grow(frames));
    }

    /// Reads up to [`BATCH`] pages and sends them, in bulk or, when demanded, on the control connection. Gives the
    /// pages that could not be read.
    pub(crate) async fn send(&mut self, cause: Cause, gfns: &mut Batch) -> Result<Batch, SessionError> {
        let (zero, unreadable) = self.read(gfns)?;
        for gfn in gfns.iter() {
            if self.sends.count(*gfn) > 2 && self.policy == Mode::Tsmc {
                return Err(SessionError::Refused(Refusal::ThirdSend));
            }
        }
        if gfns.is_empty() {
            return Ok(unreadable);
        }
        let (sent, summary) = (gfns.len() as u64, &mut self.ledger.summary);
        summary.zero_pages += u64::from(zero.count_ones());
        summary.most_sends = self.sends.most();
        match cause {
            Cause::Copy => summary.stage1_pages += sent,
            Cause::Urgent => summary.stage2_pages += sent,
            Cause::Push | Cause::Demand | Cause::Prepull => summary.stage3_pages += sent,
        }
        match cause {
            Cause::Push => summary.pushed += sent,
            Cause::Prepull => summary.prepull_sent += sent,
            Cause::Copy | Cause::Urgent | Cause::Demand => {}
        }
        let channel = match cause {
            Cause::Demand | Cause::Prepull => &mut self.control,
            Cause::Copy | Cause::Urgent | Cause::Push => &mut self.bulk,
        };
        channel.send_pages(cause, gfns, &self.batch, zero).await?;
        Ok(unreadable)
    }

    /// Sends pages that no longer exist as zeros, so that the target misses nothing it was told of.
    pub(crate) async fn send_as_zeros(&mut self, gfns: &Batch) -> Result<(), SessionError> {
        let zero = if gfns.len() == BATCH { PageMask::MAX } else { (1 << gfns.len()) - 1 };
        self.bulk.send_pages(Cause::Urgent, gfns, &self.batch, zero).await
    }

    /// Looks at pages that are not sent now, for those that must never be armed.
    pub(crate) fn look_at(&mut self, gfns: &mut Batch) -> Result<(), SessionError> {
        self.read(gfns).map(|_| ())
    }

    /// Reads pages into the batch buffer. `gfns` keeps those that could be read; gives which of them are zero, and the
    /// others.
    fn read(&mut self, gfns: &mut Batch) -> Result<(PageMask, Batch), SessionError> {
        let (mut zero, mut unreadable) = (0, Batch::new());
        if gfns.is_empty() {
            return Ok((zero, unreadable));
        }
        let mask = self.source.read(gfns, &mut self.batch[..gfns.len()])?;
        let mut kept = 0;
        for index in 0..gfns.len() {
            let gfn = gfns[index];
            if mask >> index & 1 == 0 {
                let _ = unreadable.push(gfn);
                continue;
            }
            if kept != index {
                gfns[kept] = gfn;
                let (to, from) = self.batch.split_at_mut(index);
                to[kept] = from[0];
            }
            if is_zero(&self.batch[kept]) {
                zero |= 1 << kept;
            } else if self.source.is_pinned(&self.batch[kept])
                && let Err(place) = self.pinned.binary_search(&gfn)
            {
                self.pinned.insert(place, gfn);
            }
            kept += 1;
        }
        gfns.truncate(kept);
        Ok((zero, unreadable))
    }

    fn close(&mut self, state: State) {
        let bytes = self.bytes();
        self.desk.summary(&self.ledger.close(bytes));
        self.desk.state(state);
    }
}

/// Pages that are handled in one go.
pub(crate) type Batch = heapless::Vec<Gfn, BATCH>;

fn is_zero(page: &Page) -> bool {
    let blocks = page.as_chunks::<64>().0;
    blocks.iter().all(|block| {
        let words = block.as_chunks::<8>().0;
        words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0
    })
}
