//! A guest that leaves, at its source: what is known of it, and the connections that it goes over. The stages and the session
//! work on it.

mod answering;
mod connections;
pub(crate) mod inbox;
mod memory;
mod pages;
mod peeks;
mod sending;
pub(crate) mod verify;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use common::control::{Mode, Parameters, Progress, Size, State, Summary};
use common::{BATCH, Gfn, PAGE_SIZE, Page, cost};

use crate::datagram::End;
use crate::error::{PlatformError, Refusal, SessionError};
use crate::host::Host;
use crate::host::budget::Reservation;
use crate::host::listener;
use crate::host::peers::Seat;
use crate::host::pending::Called;
use crate::host::toolstack::{Complaint, Toolstack};
use crate::ledger::{Ledger, Stage};
use crate::limits::{COMMITTED, UNCOMMITTED};
use crate::messages::Inlet;
use crate::platform::{self, Guest, GuestInfo, Platform, SourceHold, SourceMemory};
use crate::secure::record::MAX_PAYLOAD;
use crate::tasks::{Instant, Timer, ms};
use crate::wire::{Kind, Message, Welcome};
use crate::{datagram, tail};
use answering::Answering;
use connections::Connections;
pub(crate) use inbox::{Ending, Inbox, Listening, Phase};
pub(crate) use pages::Pages;
use peeks::Peeks;
use verify::Verify;

/// What a departure takes besides its page sets: connections, and those of a target that calls again meanwhile, a batch, the machine
/// state and what is made of it, twice.
const _: () = assert!(
    cost::DEPARTURE
        == 4 * listener::BUFFERS.size()
            + 2 * MAX_PAYLOAD
            + (BATCH + 1) * PAGE_SIZE
            + 3 * Kind::State.limit()
            + 16 * inbox::DEMANDS
            + datagram::MEMORY
);
/// Nobody calls the target.
pub(crate) const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// Pages that are handled in one go.
pub(crate) type Batch = heapless::Vec<Gfn, BATCH>;

/// A guest that leaves.
pub(crate) struct Departure<S> {
    // The guest and its memory.
    source: S,
    pages: Pages,
    /// What was read last.
    batch: Vec<Page>,
    /// When it was first seen that somebody has paused the guest.
    paused_since: Option<Instant>,
    verify: Verify,
    // The target.
    connections: Connections,
    answering: Answering,
    inbox: Rc<Inbox>,
    peeks: Peeks,
    // The session.
    toolstack: Rc<Toolstack>,
    timer: Timer,
    ledger: Ledger,
    /// How memory moves: what was asked for, or what the target can do.
    mode: Mode,
    /// How long the guest may stand still for its memory, if there is a bound.
    max_downtime: Option<Duration>,
    /// About pages that cannot be read.
    complaint: Complaint,
    memory: Reservation,
    _seat: Seat,
}

/// What was asked for, and what there is for it.
pub(crate) struct Terms {
    pub(crate) parameters: Parameters,
    /// Frames that the guest may have.
    pub(crate) frames: u64,
    pub(crate) memory: Reservation,
    /// One of those that the other agent may have here.
    pub(crate) seat: Seat,
}

/// The proof that the source can never run the guest again.
pub(crate) struct Committed(());

impl Committed {
    /// The proof for a guest that an earlier life of this agent retained.
    pub(crate) fn of<S: SourceHold>(source: &S) -> Option<Self> {
        source.is_retained().then_some(Self(()))
    }
}

/// What the memory depends on that moving this guest takes.
pub(crate) fn size_of<S: SourceMemory>(source: &mut S, info: &GuestInfo, verify: bool) -> platform::Result<Size> {
    Ok(Size { frames: source.frames()?, digests: if verify { info.pages } else { 0 } })
}

/// Asks for what sending a guest takes from the first.
pub(crate) fn reserve(memory: &mut Reservation, size: Size) -> Result<(), SessionError> {
    memory.add(cost::departure(&Size { digests: 0, ..size }))
}

/// What answers the datagrams of whoever called.
pub(crate) fn answering<P: Platform>(host: &Host<P>, called: &Called) -> Answering {
    let peer = called.control.connection().peer().unwrap_or(NOBODY);
    let socket = host.datagram_port.open(called.hello.session, End::Source, called.control.datagrams(), peer);
    Answering::new(socket, host.timer.clone())
}

impl<S> Departure<S> {
    pub(crate) fn new<P: Platform>(
        host: &Host<P>,
        toolstack: &Rc<Toolstack>,
        source: S,
        info: &GuestInfo,
        called: &Called,
        terms: Terms,
    ) -> Self {
        let Terms { parameters: Parameters { mode, verify, max_downtime }, frames, memory, seat } = terms;
        let mut ledger = Ledger::new(host.timer.clone());
        ledger.summary.pages = info.pages;
        ledger.summary.sealed = u64::from(called.peer.is_some());
        Self {
            source,
            pages: Pages::new(frames),
            batch: vec![[0; PAGE_SIZE]; BATCH],
            paused_since: None,
            verify: if verify { Verify::Yes } else { Verify::No },
            connections: Connections::new(called, UNCOMMITTED),
            answering: answering(host, called),
            inbox: Rc::default(),
            peeks: Peeks::default(),
            toolstack: toolstack.clone(),
            timer: host.timer.clone(),
            ledger,
            mode,
            max_downtime,
            complaint: Complaint::default(),
            memory,
            _seat: seat,
        }
    }

    pub(crate) fn timer(&self) -> &Timer {
        &self.timer
    }

    pub(crate) fn toolstack(&self) -> &Rc<Toolstack> {
        &self.toolstack
    }

    /// What the target has said, and how far the session is.
    pub(crate) fn inbox(&self) -> &Rc<Inbox> {
        &self.inbox
    }

    /// The guest itself.
    pub(crate) fn source(&mut self) -> &mut S {
        &mut self.source
    }

    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    pub(crate) fn pages_mut(&mut self) -> &mut Pages {
        &mut self.pages
    }

    /// The figures so far.
    pub(crate) fn summary(&self) -> &Summary {
        &self.ledger.summary
    }

    pub(crate) fn summary_mut(&mut self) -> &mut Summary {
        &mut self.ledger.summary
    }

    /// How memory moves.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// The target, or the guest, cannot do without all memory before the switch.
    pub(crate) fn fall_back_to_precopy(&mut self) {
        self.mode = Mode::Precopy;
    }

    /// Begins a stage, unless it has begun.
    pub(crate) fn begin(&mut self, stage: Stage) {
        if !self.ledger.is_in(stage) {
            self.ledger.begin(stage, self.connections.bytes());
        }
    }

    /// Bytes per second since the stage began.
    pub(crate) fn rate(&self) -> u64 {
        self.ledger.rate(self.connections.bytes())
    }

    /// How many pages may be sent in a pre-copy while the guest stands still, at `rate` bytes a second, if there is a bound.
    pub(crate) fn most_at_switch(&self, rate: u64) -> Option<u64> {
        self.max_downtime.map(|most| rate.saturating_mul(ms(most)) / 1000 / PAGE_SIZE as u64)
    }

    /// Refuses to stop the guest for longer than is allowed.
    pub(crate) fn check_downtime(&mut self, rate: u64) -> Result<(), SessionError> {
        let (Mode::Precopy, Some(most)) = (self.mode, self.max_downtime) else { return Ok(()) };
        let pages = self.pages.count_dirty();
        let would_ms = pages * PAGE_SIZE as u64 * 1000 / rate.max(1);
        if would_ms <= ms(most) {
            return Ok(());
        }
        Err(SessionError::Refused(Refusal::TooDirty { pages, would_ms, most_ms: ms(most) }))
    }

    /// Says how far the stage is.
    pub(crate) fn report(&self, progress: Progress) {
        let bytes = self.ledger.stage_bytes(self.connections.bytes());
        self.toolstack.progress(Progress { bytes, ..progress });
    }

    /// Says that pages cannot be read, now and then.
    pub(crate) fn complain(&mut self, error: PlatformError) {
        self.complaint.about(&self.toolstack.id, error);
    }

    /// Hears what the target says on its control connection, and minds what is said to it.
    pub(crate) fn listen(&self, called: &Called) -> Listening {
        let inlet = Inlet::new(called.control.clone(), &inbox::HEARD);
        let listening = inbox::listen(inlet, self.inbox.clone(), self.timer.clone());
        Box::pin(tail::minding([called.control.clone(), called.bulk.clone()], self.timer.clone(), listening))
    }

    /// Says what the guest is.
    pub(crate) async fn welcome(&mut self, info: &GuestInfo, config: &[u8]) -> Result<(), SessionError> {
        let GuestInfo { pages, uuid, .. } = *info;
        let verify = !matches!(self.verify, Verify::No);
        let welcome = Welcome { pages, frames: self.pages.frames(), uuid, verify, config };
        self.connections.control.send(Message::Welcome(welcome)).await
    }

    /// The target has called again: everything goes on, over its new connections.
    pub(crate) async fn welcome_back<P: Platform>(
        &mut self,
        host: &Host<P>,
        called: &Called,
    ) -> Result<Listening, SessionError>
    where
        S: Guest,
    {
        self.count_sealing();
        self.connections = self.connections.again(called, COMMITTED);
        self.answering = answering(host, called);
        self.inbox.recover(self.pages.frames());
        let info = self.source.info()?;
        self.welcome(&info, &[]).await?;
        Ok(self.listen(called))
    }

    /// The guest is the target's. Before this nothing is final, after it nothing can be undone: see the commit rule in
    /// [`crate::session`].
    pub(crate) fn commit(&mut self) -> Result<Committed, SessionError>
    where
        S: SourceHold,
    {
        self.source.retain()?;
        self.inbox.enter(Phase::Committed);
        self.connections.set_patience(COMMITTED);
        Ok(Committed(()))
    }

    /// An earlier life of this agent was told what there was to tell; the target is to say what it misses.
    pub(crate) fn adopt(&mut self) {
        self.pages.forget();
        self.inbox.enter(Phase::Lost);
    }

    /// The agents have lost each other after the commit: the target will call again.
    pub(crate) fn lose(&mut self, error: &SessionError) {
        self.connections.abort();
        if self.inbox.phase() == Phase::Committed {
            self.toolstack.state(State::Interrupted { reason: error.to_string() });
        }
        self.inbox.enter(Phase::Lost);
    }

    fn count_sealing(&mut self) {
        self.ledger.steps.seal += self.connections.take_sealing();
    }

    pub(crate) fn close(&mut self, state: State) {
        self.count_sealing();
        self.toolstack.summary(&self.ledger.close(self.connections.bytes()));
        self.toolstack.state(state);
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
