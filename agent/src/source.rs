//! A guest that leaves, at its source: what is known of it, and the connections that it goes over. The stages and the session
//! work on it.

pub(crate) mod answering;
pub(crate) mod sending;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::{Ipv4Addr, SocketAddrV4};
use core::pin::Pin;

use common::control::{Mode, Size, State};
use common::{BATCH, Gfn, PAGE_SIZE, Page, PageSet, cost};

use crate::channel::{Inlet, Outlet};
use crate::datagram::End;
use crate::digest::Kept;
use crate::error::{PeerFault, PlatformError, Refusal, SessionError};
use crate::host::Host;
use crate::host::budget::Reservation;
use crate::host::listener;
use crate::host::listener::Called;
use crate::host::peers::Seat;
use crate::host::toolstack::{Complaint, Toolstack};
use crate::ledger::{Ledger, Sends};
use crate::limits::{BULK_WAIT, PAUSE_GRACE, PEER_WAIT};
use crate::net::IN_FLIGHT_CONTROL;
use crate::platform::{GuestInfo, Platform, Source};
use crate::secure::record::MAX_PAYLOAD;
use crate::tasks::Timer;
use crate::wire::{Demanded, Kind, Message, Welcome};
use crate::{datagram, platform, tail};
use answering::Answering;

/// What a departure takes besides its page sets: connections, and those of a target that calls again meanwhile, a batch, the machine
/// state and what is made of it, twice.
const _: () = assert!(
    cost::DEPARTURE
        == 4 * listener::BUFFERS.size()
            + 2 * MAX_PAYLOAD
            + (BATCH + 1) * PAGE_SIZE
            + 3 * Kind::State.limit()
            + 16 * DEMANDS
            + datagram::MEMORY
);
/// Demands that may wait. While there are more, the target is not listened to.
const DEMANDS: usize = 4096;
/// What a target may say.
pub(crate) const HEARD: [Kind; 7] =
    [Kind::Built, Kind::Ready, Kind::Demand, Kind::Complete, Kind::Abort, Kind::Missing, Kind::Revoked];
/// Nobody calls the target.
pub(crate) const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// Pages that are handled in one go.
pub(crate) type Batch = heapless::Vec<Gfn, BATCH>;

/// A guest that leaves.
pub(crate) struct Departure<S> {
    pub(crate) source: S,
    pub(crate) toolstack: Rc<Toolstack>,
    /// About pages that cannot be read.
    pub(crate) complaint: Complaint,
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
    /// What was dirtied after the suspend was asked for: what the resuming guest touches first. In stage 3, what is left of it.
    pub(crate) recent: PageSet,
    /// In stage 1 what the target was told is stale, or a round of a pre-copy; in stage 3, the dirty pages that have not
    /// been sent.
    pub(crate) left: PageSet,
    /// For sets that live for a moment.
    pub(crate) scratch: PageSet,
    /// How often each page was sent.
    pub(crate) sends: Sends,
    /// Pages that looked, when they were read, like ones that must never be armed. The guest decides what they look like.
    pub(crate) pinned: PageSet,
    /// When it was last looked how stage 1 gets on, and the bytes that had arrived over the bulk connection by then.
    pub(crate) looked: Option<(u64, u64)>,
    /// When to look at the dirty log again, at the earliest.
    pub(crate) next_look: u64,
    /// Bytes per second that stage 1 moved.
    pub(crate) rate: u64,
    /// The toolstack has been asked to suspend the guest.
    pub(crate) asked: bool,
    pub(crate) rescue: Answering,
    /// The target has been told all that it needs to run the guest: it may have said that it is ready.
    pub(crate) switched: bool,
    /// The connections are not the first ones: the target says what it misses.
    pub(crate) recovers: bool,
    /// What a later life of the agent must know.
    pub(crate) note: String,
    /// The agents have lost each other.
    pub(crate) lost: bool,
    /// Bytes handed to earlier connections.
    pub(crate) earlier: u64,
    pub(crate) batch: Vec<Page>,
    /// All memory is compared at the switch.
    pub(crate) verify: bool,
    /// What the pages that follow in stage 3 held then.
    pub(crate) told: Option<Kept>,
    pub(crate) memory: Reservation,
    /// One of those that the other agent may have here.
    pub(crate) seat: Option<Seat>,
    /// When it was first seen that somebody has paused the guest.
    paused_since: Option<u64>,
}

/// What the target has said.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) built: Cell<Option<bool>>,
    pub(crate) ready: Cell<bool>,
    pub(crate) demands: RefCell<VecDeque<Gfn>>,
    /// After the agents lost each other: what the target misses, and whether it has named all of it.
    pub(crate) missing: RefCell<PageSet>,
    pub(crate) told: Cell<bool>,
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

/// The proof that the source can never run the guest again.
pub(crate) struct Committed(());

impl Committed {
    /// Retains the guest. Before this nothing is final, after it nothing can be undone: see the commit rule in [`crate::session`].
    pub(crate) fn retain<S: Source>(source: &mut S) -> Result<Self, PlatformError> {
        source.retain()?;
        Ok(Self(()))
    }

    /// The same proof for a guest that an earlier life of this agent retained.
    pub(crate) fn of<S: Source>(source: &S) -> Option<Self> {
        source.is_retained().then_some(Self(()))
    }
}

/// How a session ends after the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The target misses nothing more.
    Complete,
    /// The guest never ran there and never will.
    Revoked,
    /// What was kept here is gone.
    Lost,
}

/// What comes in on the control connection, until there is an end or an error.
pub(crate) type Listening = Pin<Box<dyn Future<Output = Result<Ending, SessionError>>>>;

/// What the memory depends on that moving this guest takes.
pub(crate) fn size_of(info: &GuestInfo, verify: bool) -> Size {
    Size { frames: info.max_gfn.saturating_add(1), digests: if verify { info.pages } else { 0 } }
}

/// Asks for what sending a guest takes from the first.
pub(crate) fn reserve(memory: &mut Reservation, info: &GuestInfo) -> Result<(), SessionError> {
    memory.add(cost::departure(&size_of(info, false)))
}

/// What answers the datagrams of whoever called.
pub(crate) fn answering<P: Platform>(host: &Host<P>, called: &Called) -> Answering {
    let peer = called.control.connection().peer().unwrap_or(NOBODY);
    let channel = host.datagram_port.open(called.hello.session, End::Source, called.control.datagrams(), peer);
    Answering::new(channel, host.timer.clone())
}

impl<S: Source> Departure<S> {
    pub(crate) fn new<P: Platform>(
        host: &Host<P>,
        toolstack: &Rc<Toolstack>,
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
        ledger.summary.sealed = u64::from(called.peer.is_some());
        let set = || PageSet::new(frames);
        Self {
            source,
            toolstack: toolstack.clone(),
            complaint: Complaint::default(),
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
            left: set(),
            scratch: set(),
            sends: Sends::new(frames),
            pinned: set(),
            looked: None,
            next_look: 0,
            rate: 0,
            asked: false,
            rescue: answering(host, called),
            switched: false,
            recovers: false,
            note: String::new(),
            lost: false,
            earlier: 0,
            batch: vec![[0; PAGE_SIZE]; BATCH],
            verify: false,
            told: None,
            memory,
            seat: None,
            paused_since: None,
        }
    }

    /// What the guest is now. It must run, or have suspended: one that stays paused cannot suspend.
    pub(crate) fn check_running(&mut self) -> Result<GuestInfo, SessionError> {
        let info = self.source.info()?;
        if info.stopped {
            return Err(SessionError::Refused(Refusal::Stopped));
        }
        if !info.paused || info.suspended {
            self.paused_since = None;
            return Ok(info);
        }
        let now = self.timer.now();
        match *self.paused_since.get_or_insert(now) + PAUSE_GRACE {
            end if now < end => Ok(info),
            _ => Err(SessionError::Refused(Refusal::Paused)),
        }
    }

    /// Hears what the target says on its control connection, and minds what is said to it.
    pub(crate) fn listen(&self, called: &Called) -> Listening {
        let listening = listen(Inlet::new(called.control.clone(), &HEARD), self.inbox.clone(), self.timer.clone());
        Box::pin(tail::minding([called.control.clone(), called.bulk.clone()], self.timer.clone(), listening))
    }

    /// Says what the guest is.
    pub(crate) async fn welcome(&mut self, info: &GuestInfo, frame: &[u8]) -> Result<(), SessionError> {
        let GuestInfo { pages, uuid, .. } = *info;
        let welcome = Welcome { pages, frames: self.frames, uuid, verify: self.verify, frame };
        self.control.send(Message::Welcome(welcome)).await
    }

    /// How long the target may say nothing, or take nothing.
    pub(crate) fn set_patience(&self, control: u64, bulk: u64) {
        self.control.connection().set_patience(Some(control));
        self.bulk.connection().set_patience(Some(bulk));
    }

    /// Bytes handed to all connections so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.earlier + self.control.connection().sent() + self.bulk.connection().sent()
    }

    /// Lets every set reach as far as the guest does now.
    pub(crate) fn grow(&mut self, frames: u64) -> Result<(), SessionError> {
        if frames <= self.frames {
            return Ok(());
        }
        let _moving = self.memory.grow_sets(self.frames, frames, cost::DEPARTURE_SETS)?;
        self.frames = frames;
        self.sends.grow(frames);
        let sets =
            [&mut self.ram, &mut self.log, &mut self.recent, &mut self.left, &mut self.scratch, &mut self.pinned];
        sets.into_iter().for_each(|set| set.grow(frames));
        Ok(())
    }

    /// Adds to what is known to be dirty what the log says, of as much of the guest as there is by now.
    pub(crate) fn take_log(
        &mut self,
        read: fn(&mut S, &mut [u64]) -> platform::Result<()>,
    ) -> Result<(), SessionError> {
        let max_gfn = self.source.info()?.max_gfn;
        self.grow(max_gfn + 1)?;
        let (source, found) = (&mut self.source, &mut self.scratch);
        found.update(|words| read(source, words))?;
        self.log.union_with(found);
        Ok(())
    }

    /// Takes a page out of what is left; whether it was in it.
    pub(crate) fn take(&mut self, gfn: Gfn) -> bool {
        self.recent.remove(gfn);
        self.left.remove(gfn)
    }

    pub(crate) fn count_sealing(&mut self) {
        self.ledger.steps.seal += self.control.take_sealing() + self.bulk.take_sealing();
    }

    pub(crate) fn close(&mut self, state: State) {
        let bytes = self.bytes();
        self.count_sealing();
        self.toolstack.summary(&self.ledger.close(bytes));
        self.toolstack.state(state);
    }
}

/// Takes in what the target says.
async fn listen(mut inlet: Inlet, inbox: Rc<Inbox>, timer: Timer) -> Result<Ending, SessionError> {
    loop {
        match inlet.next().await {
            Err(error) => return Err(error),
            Ok(Message::Built { can_page }) => inbox.built.set(Some(can_page)),
            Ok(Message::Ready) => inbox.ready.set(true),
            Ok(Message::Demand(body)) => {
                inbox.demand(Message::demanded(body));
                timer.nudge();
                timer.wait_for(|| (inbox.demands.borrow().len() < DEMANDS).then_some(())).await;
            }
            Ok(Message::Missing(set)) if inbox.committed.get() && !inbox.told.get() => {
                let missing = &mut *inbox.missing.borrow_mut();
                let mut count = 0;
                for gfn in set.gfns() {
                    if gfn.0 >= missing.frames() {
                        return Err(SessionError::Peer(PeerFault::NoSuchPage));
                    }
                    missing.insert(gfn);
                    count += 1;
                }
                inbox.told.set(count == 0);
            }
            Ok(Message::Complete) if inbox.committed.get() => return Ok(Ending::Complete),
            Ok(Message::Revoked) => return Ok(Ending::Revoked),
            Ok(Message::Abort(reason)) => return Err(SessionError::Told(reason.to_string())),
            Ok(_) => return Err(SessionError::Peer(PeerFault::OutOfTurn)),
        }
        timer.nudge();
    }
}

/// Whether a page is all zeros.
pub(crate) fn is_zero(page: &Page) -> bool {
    let blocks = page.as_chunks::<64>().0;
    blocks.iter().all(|block| {
        let words = block.as_chunks::<8>().0;
        words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0
    })
}
