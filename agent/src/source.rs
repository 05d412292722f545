//! A guest that leaves, at its source: what is known of it, and the connections that it goes over. The stages and the session
//! work on it.

pub(crate) mod answering;
mod connections;
pub(crate) mod inbox;
mod pages;
mod peeks;
pub(crate) mod sending;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};

use common::control::{Mode, Size, State};
use common::{BATCH, Gfn, PAGE_SIZE, Page, cost};

use crate::datagram::End;
use crate::digest::Kept;
use crate::error::{PlatformError, Refusal, SessionError};
use crate::host::Host;
use crate::host::budget::Reservation;
use crate::host::listener::{self, Called};
use crate::host::peers::Seat;
use crate::host::toolstack::{Complaint, Toolstack};
use crate::ledger::Ledger;
use crate::limits::{COMMITTED, PAUSE_GRACE, UNCOMMITTED};
use crate::messages::Inlet;
use crate::platform::{GuestInfo, Platform, Source};
use crate::secure::record::MAX_PAYLOAD;
use crate::tasks::{Instant, Timer};
use crate::wire::{Kind, Message, Welcome};
use crate::{datagram, platform, tail};
use answering::Answering;
use connections::Connections;
pub(crate) use inbox::{Ending, Inbox, Listening, Phase};
pub(crate) use pages::Pages;
use peeks::Peeks;

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
    pub(crate) source: S,
    pub(crate) toolstack: Rc<Toolstack>,
    /// About pages that cannot be read.
    pub(crate) complaint: Complaint,
    pub(crate) timer: Timer,
    pub(crate) connections: Connections,
    pub(crate) answering: Answering,
    pub(crate) inbox: Rc<Inbox>,
    pub(crate) ledger: Ledger,
    /// How memory moves: what was asked for, or what the target can do.
    pub(crate) mode: Mode,
    pub(crate) pages: Pages,
    pub(crate) peeks: Peeks,
    /// What was read last.
    pub(crate) batch: Vec<Page>,
    pub(crate) verify: Verify,
    pub(crate) memory: Reservation,
    _seat: Seat,
    /// When it was first seen that somebody has paused the guest.
    paused_since: Option<Instant>,
}

/// What was asked for, and what there is for it.
pub(crate) struct Terms {
    pub(crate) mode: Mode,
    /// All memory is compared at the switch.
    pub(crate) verify: bool,
    pub(crate) memory: Reservation,
    /// One of those that the other agent may have here.
    pub(crate) seat: Seat,
}

/// Whether all memory is compared at the switch.
pub(crate) enum Verify {
    No,
    Yes,
    /// It was: this is what the pages that follow in stage 3 held then.
    Told(Kept),
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
    let socket = host.datagram_port.open(called.hello.session, End::Source, called.control.datagrams(), peer);
    Answering::new(socket, host.timer.clone())
}

impl<S: Source> Departure<S> {
    pub(crate) fn new<P: Platform>(
        host: &Host<P>,
        toolstack: &Rc<Toolstack>,
        source: S,
        info: &GuestInfo,
        called: &Called,
        terms: Terms,
    ) -> Self {
        let Terms { mode, verify, memory, seat } = terms;
        let mut ledger = Ledger::new(host.timer.clone());
        ledger.summary.pages = info.pages;
        ledger.summary.sealed = u64::from(called.peer.is_some());
        Self {
            source,
            toolstack: toolstack.clone(),
            complaint: Complaint::default(),
            timer: host.timer.clone(),
            connections: Connections::new(called, UNCOMMITTED),
            answering: answering(host, called),
            inbox: Rc::default(),
            ledger,
            mode,
            pages: Pages::new(info.max_gfn + 1),
            peeks: Peeks::default(),
            batch: vec![[0; PAGE_SIZE]; BATCH],
            verify: if verify { Verify::Yes } else { Verify::No },
            memory,
            _seat: seat,
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
    ) -> Result<Listening, SessionError> {
        self.count_sealing();
        self.connections = self.connections.again(called, COMMITTED);
        self.answering = answering(host, called);
        self.inbox.recover(self.pages.frames());
        let info = self.source.info()?;
        self.welcome(&info, &[]).await?;
        Ok(self.listen(called))
    }

    /// The agents have lost each other after the commit: the target will call again.
    pub(crate) fn lose(&mut self, error: &SessionError) {
        self.connections.abort();
        if self.inbox.phase.get() == Phase::Committed {
            self.toolstack.state(State::Interrupted { reason: error.to_string() });
        }
        self.inbox.phase.set(Phase::Lost);
    }

    /// Lets every set reach as far as the guest does now.
    pub(crate) fn grow(&mut self) -> Result<(), SessionError> {
        let (before, frames) = (self.pages.frames(), self.source.info()?.max_gfn + 1);
        if frames > before {
            let _moving = self.memory.grow_sets(before, frames, cost::DEPARTURE_SETS)?;
            self.pages.grow(frames);
        }
        Ok(())
    }

    /// Adds to what is known to be dirty what the log says, of as much of the guest as there is by now.
    pub(crate) fn take_log(
        &mut self,
        read: fn(&mut S, &mut [u64]) -> platform::Result<()>,
    ) -> Result<(), SessionError> {
        self.grow()?;
        Ok(self.pages.take_log(|words| read(&mut self.source, words))?)
    }

    /// Does `work`, and answers datagrams meanwhile.
    pub(crate) async fn answering<T>(&mut self, work: impl Future<Output = T>) -> T {
        self.answering.beside(&mut self.source, self.pages.ram(), work).await
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
