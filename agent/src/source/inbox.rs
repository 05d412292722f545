//! What the target says on its control connection; the phase of the session decides what it may say.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::ToString;
use core::cell::{Cell, RefCell};
use core::pin::Pin;

use common::{Features, Gfn, PageSet};

use crate::error::{PeerFault, SessionError};
use crate::messages::Inlet;
use crate::tasks::Timer;
use crate::wire::{Demanded, Kind, Message};

/// Demands that may wait. While there are more, the target is not listened to.
pub(super) const DEMANDS: usize = 4096;
/// What a target may say.
pub(crate) const HEARD: [Kind; 7] =
    [Kind::Built, Kind::Ready, Kind::Demand, Kind::Complete, Kind::Abort, Kind::Missing, Kind::Revoked];

/// How far the session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The guest runs here.
    #[default]
    Copying,
    /// The toolstack has been asked to suspend it.
    Suspending,
    /// The target has been told all that it needs to run the guest: it may have said that it is ready.
    Switched,
    /// The guest is the target's.
    Committed,
    /// It is, and the agents have lost each other.
    Lost,
    /// They have met again, and the target has yet to say what it misses.
    Recovering,
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

/// What the target has said.
#[derive(Default)]
pub(crate) struct Inbox {
    phase: Cell<Phase>,
    built: Cell<Option<Features>>,
    ready: Cell<bool>,
    demands: RefCell<VecDeque<Gfn>>,
    /// After the agents lost each other: what the target misses.
    missing: RefCell<PageSet>,
}

impl Inbox {
    /// How far the session is.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// It is so far now.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
    }

    /// What the target can do for the guest, once it has built it.
    pub(crate) fn built(&self) -> Option<Features> {
        self.built.get()
    }

    /// Whether the target has all that it needs to run the guest.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.get()
    }

    /// Whether the guest is the target's.
    pub(crate) fn is_committed(&self) -> bool {
        matches!(self.phase.get(), Phase::Committed | Phase::Lost | Phase::Recovering)
    }

    /// The target has called again: what it said before is of no more use, and it says what it misses, of so many frames.
    pub(crate) fn recover(&self, frames: u64) {
        self.phase.set(Phase::Recovering);
        self.demands.borrow_mut().clear();
        let missing = &mut *self.missing.borrow_mut();
        missing.grow(frames);
        missing.clear();
    }

    /// What the target misses, once it has named all of it.
    pub(crate) fn missing(&self) -> Option<&RefCell<PageSet>> {
        (self.phase.get() != Phase::Recovering).then_some(&self.missing)
    }

    /// Whether the target waits for pages.
    pub(crate) fn has_demands(&self) -> bool {
        !self.demands.borrow().is_empty()
    }

    pub(crate) fn next_demand(&self) -> Option<Gfn> {
        self.demands.borrow_mut().pop_front()
    }

    /// A page that was demanded could not be sent yet.
    pub(crate) fn demand_again(&self, gfn: Gfn) {
        self.demands.borrow_mut().push_back(gfn);
    }

    /// Takes demands in: what backends wait for goes before all others, since they give up in the end.
    fn demand(&self, demanded: impl Iterator<Item = Demanded>) {
        let mut demands = self.demands.borrow_mut();
        for Demanded { gfn, first } in demanded {
            if first { demands.push_front(gfn) } else { demands.push_back(gfn) }
        }
    }

    /// Takes in pages that the target misses. When it names none, these were all.
    fn miss(&self, gfns: impl Iterator<Item = Gfn>) -> Result<(), SessionError> {
        let missing = &mut *self.missing.borrow_mut();
        let mut all = true;
        for gfn in gfns {
            if gfn.0 >= missing.frames() {
                return Err(SessionError::Peer(PeerFault::NoSuchPage));
            }
            missing.insert(gfn);
            all = false;
        }
        if all {
            self.phase.set(Phase::Committed);
        }
        Ok(())
    }
}

/// Takes in what the target says.
pub(super) async fn listen(mut inlet: Inlet, inbox: Rc<Inbox>, timer: Timer) -> Result<Ending, SessionError> {
    loop {
        match inlet.next().await? {
            Message::Built(features) => inbox.built.set(Some(features)),
            Message::Ready => inbox.ready.set(true),
            Message::Demand(body) => {
                inbox.demand(Message::demanded(body));
                timer.nudge();
                timer.wait_for(|| (inbox.demands.borrow().len() < DEMANDS).then_some(())).await;
            }
            Message::Missing(set) if inbox.phase.get() == Phase::Recovering => inbox.miss(set.gfns())?,
            Message::Complete if inbox.is_committed() => return Ok(Ending::Complete),
            Message::Revoked => return Ok(Ending::Revoked),
            Message::Abort(reason) => return Err(SessionError::Told(reason.to_string())),
            _ => return Err(SessionError::Peer(PeerFault::OutOfTurn)),
        }
        timer.nudge();
    }
}
