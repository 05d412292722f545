//! One migration.
//!
//! Both ends go through the same phases, each a function that takes the proof of the one before:
//!
//! ```text
//!  source                                          target
//!  handshake            <-- Hello, Welcome, Built -->            handshake
//!  full_copy::send      --- Ram, Pages, Hints -->                full_copy::take
//!  switchover::leave    --- Dirty, Pages, State, Switch -->      switchover::take
//!                       <-- Ready ---                            switchover::prepare
//!  commit               --- Commit -->                           let_run
//!  dirty_copy::serve    <-- Demand ---, --- Pages -->            stay
//!  destroy              <-- Complete ---                         finish
//! ```
//!
//! # The commit rule
//!
//! **[`SourceHold::retain`] is the commit.** Before it the guest belongs to the source: whatever fails, at either end or
//! between them, leads through [`departure::give_back`] and the guest runs on at the source, its dirty log off, its
//! suspend (if there was one) cancelled; the target drops what it has, and its guest never ran, because it holds a
//! pause count that only [`Message::Commit`](crate::wire::Message::Commit) gives back. After `retain` has returned the
//! source does not run the guest again, and the hypervisor refuses everybody else. The source keeps every page until the
//! target has said [`Message::Complete`](crate::wire::Message::Complete), and only then destroys the guest. One thing
//! undoes the commit: the target's [`Message::Revoked`](crate::wire::Message::Revoked), which says that its copy never
//! ran and never will, since its domain is dying. Only then is [`SourceHold::give_back`] called below that line.
//!
//! `Commit` is sent after `retain`, never before; a target that has said `Ready` and hears nothing more does not know
//! on which side of the line the source is, so it neither runs the guest nor drops it: it asks.
//!
//! # Recovery
//!
//! From `Ready` on no broken connection ends a session. The target calls again until the source answers ([`stay`]); the
//! source lets it in ([`departure`]), hears what is missing and goes on. What is still to be said when a session is over
//! is said by [`epilogue`]; what an agent's next life must know stands in a [`note`](crate::host::note).
//!
//! [`SourceHold::retain`]: crate::platform::SourceHold::retain
//! [`SourceHold::give_back`]: crate::platform::SourceHold::give_back

pub(crate) mod arrival;
pub(crate) mod departure;
pub(crate) mod dialing;
mod epilogue;
mod retained;
mod stay;

use alloc::rc::Rc;

use common::DomId;
use common::control::{Request, State};

use crate::error::{Refusal, SessionError};
use crate::host::Host;
use crate::host::note::{Note, Role};
use crate::host::peers::Callee;
use crate::host::toolstack::Toolstack;
use crate::limits::LET_GO;
use crate::platform::{Platform, SourceHold as _};
use crate::source::{Committed, Departure};
use crate::switchover::Prepared;

/// Serves one request from beginning to end.
pub(crate) async fn serve<P: Platform>(host: Rc<Host<P>>, toolstack: Rc<Toolstack>, request: Request) {
    match request {
        Request::Out { domain, parameters } => departure::serve(&host, &toolstack, domain, parameters).await,
        Request::In { domain, peer, key, session, size, backends } => {
            let callee = Callee { address: peer, key };
            arrival::serve(&host, &toolstack, domain, callee, session, size, backends).await;
        }
        Request::Recover { note } => recover(&host, &toolstack, &note).await,
        Request::Discard { domain } => {
            let outcome = discard(&host, domain).await;
            toolstack.state(outcome.map_or_else(|error| error.failed(), |()| State::Complete));
        }
        Request::Withdraw { domain } => {
            let has_run = host.platform.borrow().has_run(domain);
            toolstack.state(match has_run {
                Ok(false) => State::Complete,
                Ok(true) => SessionError::Refused(Refusal::HasRun).failed(),
                Err(error) => SessionError::from(error).failed(),
            });
        }
    }
}

/// Frees what is kept of a guest that has left. A session that has lost the other agent lets go of it; no other does.
async fn discard<P: Platform>(host: &Host<P>, domain: DomId) -> Result<(), SessionError> {
    host.domains.want(domain, true);
    host.timer.nudge();
    let free = host.timer.within(LET_GO, host.timer.wait_for(|| host.domains.claim(domain).ok())).await;
    host.domains.want(domain, false);
    let _claim = free.ok_or(SessionError::Refused(Refusal::InHand))?;
    Ok(host.platform.borrow_mut().discard(domain)?)
}

/// Takes up what an earlier life of this agent left when it died.
async fn recover<P: Platform>(host: &Host<P>, toolstack: &Rc<Toolstack>, note: &str) {
    let adopted = match Note::open(&host.config.security, note) {
        Err(error) => Err(error),
        Ok(note) => match note.role {
            Role::Source => retained::adopt(host, toolstack, &note).await,
            Role::Ready | Role::Running => arrival::adopt(host, toolstack, &note).await,
        },
    };
    if let Err(error) = adopted {
        toolstack.state(error.failed());
    }
}

/// The commit. Nothing before this line is final, nothing after it can be undone; see the module's commit rule.
pub(crate) fn commit<P: Platform>(
    host: &Host<P>,
    departure: &mut Departure<P::Source>,
    _prepared: Prepared,
    note: &Note,
) -> Result<Committed, SessionError> {
    host.platform.borrow().can_retain()?;
    let committed = departure.commit()?;
    // Where no label tells that the guest has left, its note does, before anybody hears of it.
    let memo = departure.source().memo();
    if memo != note.memo {
        departure.toolstack().note(&Note { memo, ..note.clone() }.seal(host));
    }
    departure.toolstack().state(State::Committed);
    Ok(committed)
}
