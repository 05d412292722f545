//! Sessions that wait for their peer.
//!
//! The first agent that shows a session's token is the one that the session is with. If another one shows it, one of them is not
//! meant, and nobody here can tell which.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use common::PublicKey;
use common::control::SessionToken;

use crate::error::{PeerFault, Refusal, SessionError};
use crate::secure::{Link, SessionName};
use crate::tasks::Timer;
use crate::wire::{ConnectionRole, Hello, Purpose};

/// Sessions that wait for their peer.
#[derive(Default)]
pub(crate) struct PendingSessions {
    expected: RefCell<Vec<Expected>>,
}

/// One of them.
struct Expected {
    session: SessionToken,
    name: SessionName,
    purpose: Purpose,
    /// Whom it is with, once that is known.
    only: Option<PublicKey>,
    /// Somebody else has shown its token.
    contested: bool,
    control: Option<(Hello, Link)>,
    bulk: Option<(Hello, Link)>,
    /// A peer has said that it will call later.
    postponed: bool,
    /// Why the last caller that named this session was turned away.
    turned_away: Option<Refusal>,
}

/// Both connections of a peer that called: to the same agent, and known to belong together.
pub(crate) struct Called {
    pub(crate) hello: Hello,
    /// Who called; nobody knows on plain connections.
    pub(crate) peer: Option<PublicKey>,
    pub(crate) control: Link,
    pub(crate) bulk: Link,
}

/// A place kept for a peer, until dropped.
pub(crate) struct Invitation {
    pending: Rc<PendingSessions>,
    session: SessionToken,
}

impl PendingSessions {
    /// Expects a peer that knows `session`; any that this agent trusts, or the `only` one.
    pub(crate) fn expect(
        self: &Rc<Self>,
        session: SessionToken,
        purpose: Purpose,
        only: Option<PublicKey>,
    ) -> Invitation {
        let name = SessionName::of(session);
        let (contested, control, bulk, postponed, turned_away) = Default::default();
        let expected = Expected { session, name, purpose, only, contested, control, bulk, postponed, turned_away };
        self.expected.borrow_mut().push(expected);
        Invitation { pending: self.clone(), session }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.expected.borrow().iter().any(|peer| !peer.is_complete())
    }

    /// If a peer is about to call for bulk, how long a round trip to it takes.
    pub(super) fn awaits_bulk(&self) -> Option<Duration> {
        let expected = self.expected.borrow();
        let control = expected.iter().filter(|peer| peer.bulk.is_none()).filter_map(|peer| peer.control.as_ref());
        control.map(|(_, link)| link.connection().round_trip()).max()
    }

    /// Whether a session of that name is expected.
    pub(super) fn expects(&self, name: SessionName) -> bool {
        self.find_by(|peer| peer.name == name, |_| ()).is_some()
    }

    /// A caller that named a session was turned away. Those of the protocol's version 1 said the token itself.
    pub(super) fn turn_away(&self, name: SessionName, refusal: Refusal) {
        let is = |peer: &Expected| peer.name == name || peer.session.0 == name.0;
        self.find_by(is, |peer| peer.turned_away = Some(refusal));
    }

    /// Takes a caller, that has named a session, as one of its two connections.
    pub(super) fn admit(&self, name: SessionName, hello: Hello, link: Link) -> Result<(), SessionError> {
        let admitted = self.find_by(|peer| peer.name == name, |peer| peer.admit(hello, link));
        admitted.unwrap_or(Err(SessionError::Peer(PeerFault::Stranger)))
    }

    /// Does `work` on who is expected for a session.
    fn find<T>(&self, session: SessionToken, work: impl FnOnce(&mut Expected) -> T) -> Option<T> {
        self.find_by(|peer| peer.session == session, work)
    }

    fn find_by<T>(&self, is: impl Fn(&Expected) -> bool, work: impl FnOnce(&mut Expected) -> T) -> Option<T> {
        self.expected.borrow_mut().iter_mut().find(|peer| is(peer)).map(work)
    }
}

impl Expected {
    fn is_complete(&self) -> bool {
        self.control.is_some() && self.bulk.is_some()
    }

    /// Takes a caller as one of the two connections. An agent that calls again has lost what it had.
    fn admit(&mut self, hello: Hello, link: Link) -> Result<(), SessionError> {
        if hello.session != self.session {
            return Err(SessionError::Peer(PeerFault::Unbound));
        }
        if self.only.is_some() && link.peer() != self.only {
            self.contested = true;
            return Err(SessionError::Refused(Refusal::Contested));
        }
        let postpones = (hello.purpose, self.purpose) == (Purpose::Postpone, Purpose::Begin);
        if hello.purpose != self.purpose && !postpones {
            return Err(SessionError::Peer(PeerFault::OutOfTurn));
        }
        self.only = link.peer();
        if postpones {
            self.postponed = true;
            return Ok(());
        }
        link.connection().limit_in_flight(hello.window as usize);
        match (hello.role, &self.control) {
            (ConnectionRole::Control, _) => (self.control, self.bulk) = (Some((hello, link)), None),
            (ConnectionRole::Bulk, Some((_, control))) if control.binding() == hello.binding => {
                self.bulk = Some((hello, link));
            }
            (ConnectionRole::Bulk, _) => return Err(SessionError::Peer(PeerFault::Unbound)),
        }
        Ok(())
    }
}

impl Invitation {
    /// The session that it is for.
    pub(crate) fn session(&self) -> SessionToken {
        self.session
    }

    /// From here on the peer may call only because the agents have lost each other.
    pub(crate) fn expect_again(&self) {
        self.pending.find(self.session, |peer| peer.purpose = Purpose::Recover);
    }

    /// Waits until an agent calls that knows the token as well, and is not the one that the session is with.
    pub(crate) async fn contested(&self, timer: &Timer) {
        timer.wait_for(|| self.pending.find(self.session, |peer| peer.contested).filter(|contested| *contested)).await;
    }

    /// Waits until the peer has called twice.
    pub(crate) async fn answered(&self, timer: &Timer) -> Called {
        let take = |peer: &mut Expected| {
            if !peer.is_complete() {
                return None;
            }
            let ((hello, control), (_, bulk)) = (peer.control.take()?, peer.bulk.take()?);
            Some(Called { hello, peer: control.peer(), control, bulk })
        };
        timer.wait_for(|| self.pending.find(self.session, take).flatten()).await
    }

    /// Waits until the peer says that it will call later.
    pub(crate) async fn postponed(&self, timer: &Timer) {
        let take = |peer: &mut Expected| core::mem::take(&mut peer.postponed).then_some(());
        timer.wait_for(|| self.pending.find(self.session, take).flatten()).await;
    }

    /// Waits until the peer has called twice, and leaves it waiting.
    pub(crate) async fn asked(&self, timer: &Timer) {
        timer.wait_for(|| self.pending.find(self.session, |peer| peer.is_complete()).filter(|called| *called)).await;
    }

    /// Why the last caller that named the session was turned away, if one was.
    pub(crate) fn turned_away(&self) -> Option<Refusal> {
        self.pending.find(self.session, |peer| peer.turned_away).flatten()
    }
}

impl Drop for Invitation {
    fn drop(&mut self) {
        self.pending.expected.borrow_mut().retain(|peer| peer.session != self.session);
    }
}
