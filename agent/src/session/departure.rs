//! The source's end of one migration.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::pin::pin;

use common::DomId;
use common::control::{FailureCause, Parameters, SessionToken, Size, State};
use embassy_futures::select::{Either, Either3, select, select3};

use super::epilogue::{self, Answer};
use super::retained::{self, Contact};
use crate::config::Config;
use crate::error::{LinkError, PlatformError, Refusal, SessionError, Wait};
use crate::host::budget::Want;
use crate::host::note::{Note, Role};
use crate::host::pending::{Called, Invitation};
use crate::host::toolstack::Toolstack;
use crate::host::{Host, cancelled, turn};
use crate::limits::{LAST_WORD, PEER_WAIT, SUSPEND_WAIT};
use crate::messages::Outlet;
use crate::platform::{Guest as _, GuestInfo, Platform, SaveMachine, Source, SourceHold as _, SourceMemory as _};
use crate::source::{Committed, Departure, Listening, NOBODY, Phase, Terms, reserve, size_of};
use crate::wire::{Message, Purpose};
use crate::{full_copy, switchover};

/// What the source waits for when the target has not begun.
const OTHER_WAITS: &str = "the other host's agent, which waits for its turn; see 'tsmc status' there";

/// Serves a request to send `domain` away.
pub(crate) async fn serve<P: Platform>(
    host: &Host<P>,
    toolstack: &Rc<Toolstack>,
    domain: DomId,
    parameters: Parameters,
) {
    if let Err(error) = leave(host, toolstack, domain, parameters).await {
        toolstack.state(error.failed());
    }
}

/// An error here means that nothing was begun: the guest was only looked at.
async fn leave<P: Platform>(
    host: &Host<P>,
    toolstack: &Rc<Toolstack>,
    domain: DomId,
    parameters: Parameters,
) -> Result<(), SessionError> {
    let claim = host.domains.claim(domain)?;
    let size = {
        let (mut source, info) = open(host, domain)?;
        size_of(&mut source, &info, parameters.verify)?
    };
    let mut memory = turn(host, toolstack, Want::to_leave(size)).await?;
    // It may have waited for long.
    let (mut source, info) = open(host, domain)?;
    let now = size_of(&mut source, &info, parameters.verify)?;
    reserve(&mut memory, now)?;
    let config = source.config()?;
    // The target hears the size for whose like room is kept here, whatever the guest has become: hosts in a circle count on that.
    let (invitation, called) = invite(host, toolstack, size).await?;
    // The target has begun; others that go there have, too, and will end.
    let seat = match host.timer.within(PEER_WAIT, host.timer.wait_for(|| host.peers.seat(called.peer))).await {
        Some(seat) => seat,
        None => {
            let error = SessionError::Refused(Refusal::ManySessions);
            let reason = error.to_string();
            let told = async { Outlet::new(called.control.clone()).send(Message::Abort(&reason)).await };
            let _ = host.timer.within(LAST_WORD, told).await;
            return Err(error);
        }
    };

    let session = invitation.session();
    let (uuid, memo, frames, peer) = (info.uuid, source.memo(), now.frames, NOBODY);
    let note = Note { role: Role::Source, domain, session, uuid, memo, frames, peer, key: called.peer };
    let terms = Terms { parameters, frames, memory, seat };
    let mut departure = Departure::new(host, toolstack, source, &info, &called, terms);
    let mut listening = departure.listen(&called);
    let outcome = until_committed(host, &mut departure, &mut listening, &invitation, &info, &config, &note).await;
    match outcome {
        Ok(committed) => {
            retained::see_off(host, departure, claim, invitation, Contact::Open(listening), committed).await
        }
        Err(error) => {
            let doubt = departure.inbox().phase() == Phase::Switched;
            let reason = give_back(&mut departure, &error).await;
            // The target may be ready and not know that it is over.
            let told = !doubt || host.timer.within(LAST_WORD, departure.finished()).await == Some(true);
            drop((departure, claim, listening));
            if !told {
                epilogue::answer(host, invitation, Answer::Abort(reason)).await;
            }
        }
    }
    Ok(())
}

/// Migrates up to the commit, unless the target, the toolstack or another caller ends it before.
async fn until_committed<P: Platform>(
    host: &Host<P>,
    departure: &mut Departure<P::Source>,
    listening: &mut Listening,
    invitation: &Invitation,
    info: &GuestInfo,
    config: &[u8],
    note: &Note,
) -> Result<Committed, SessionError> {
    let toolstack = departure.toolstack().clone();
    let migration = pin!(migrate(host, departure, info, config, note));
    let calls = select(invitation.asked(&host.timer), invitation.contested(&host.timer));
    let others = select3(listening.as_mut(), cancelled(&host.timer, &toolstack), calls);
    match select(migration, others).await {
        // A broken connection may have been closed for a reason that is still on its way.
        Either::First(Err(error @ SessionError::Link(_))) => {
            let told = host.timer.within(LAST_WORD, listening.as_mut()).await;
            Err(told.and_then(Result::err).filter(|told| matches!(told, SessionError::Told(_))).unwrap_or(error))
        }
        Either::First(outcome) => outcome,
        Either::Second(Either3::First(Ok(_))) => Err(SessionError::Refused(Refusal::GoneThere)),
        Either::Second(Either3::First(Err(error))) => Err(error),
        Either::Second(Either3::Second(())) => Err(SessionError::Cancelled),
        // The target has lost us, and asks whether we have committed.
        Either::Second(Either3::Third(Either::First(()))) => Err(LinkError::Lost.into()),
        Either::Second(Either3::Third(Either::Second(()))) => Err(SessionError::Refused(Refusal::Contested)),
    }
}

/// Opens the guest and refuses what is going to be impossible.
fn open<P: Platform>(host: &Host<P>, domain: DomId) -> Result<(P::Source, GuestInfo), SessionError> {
    host.platform.borrow().can_retain()?;
    let mut source = host.platform.borrow_mut().open_source(domain)?;
    let info = source.info()?;
    if info.paused {
        return Err(SessionError::Refused(Refusal::Paused));
    }
    if info.paged_pages != 0 {
        return Err(SessionError::Refused(Refusal::PagedOut));
    }
    Ok((source, info))
}

/// Waits for the target's agent, which learns from the toolstack where to call and what to say.
async fn invite<P: Platform>(
    host: &Host<P>,
    toolstack: &Toolstack,
    size: Size,
) -> Result<(Invitation, Called), SessionError> {
    let mut token = [0; 16];
    host.platform.borrow_mut().random(&mut token);
    let session = SessionToken(token);
    let address = host.timer.wait_for(|| host.net.borrow().address());
    let address = host.timer.within(PEER_WAIT, address).await.ok_or(SessionError::TimedOut(Wait::Address))?;
    let invitation = host.pending.expect(session, Purpose::Begin, None);
    let Config { port, security, .. } = &*host.config;
    toolstack.state(State::Listening { session, address, port: *port, key: security.public_key(), size });
    // A target that waits for its turn says so now and then.
    let answered = async {
        let mut said = false;
        loop {
            let next = select(invitation.answered(&host.timer), invitation.postponed(&host.timer));
            match host.timer.within(PEER_WAIT, next).await {
                Some(Either::First(called)) => return Some(called),
                Some(Either::Second(())) if said => {}
                Some(Either::Second(())) => {
                    said = true;
                    toolstack.state(State::Waiting { reason: OTHER_WAITS.to_string() });
                }
                None => return None,
            }
        }
    };
    let error = match select3(answered, cancelled(&host.timer, toolstack), invitation.contested(&host.timer)).await {
        Either3::First(Some(called)) => {
            invitation.expect_again();
            return Ok((invitation, called));
        }
        Either3::First(None) => SessionError::TimedOut(Wait::Call),
        Either3::Second(()) => SessionError::Cancelled,
        Either3::Third(()) => SessionError::Refused(Refusal::Contested),
    };
    // Why nobody came, or why the toolstack gives up, if somebody did come.
    Err(invitation.turned_away().map_or(error, SessionError::Refused))
}

/// The way to the commit, phase by phase.
async fn migrate<P: Platform>(
    host: &Host<P>,
    departure: &mut Departure<P::Source>,
    info: &GuestInfo,
    config: &[u8],
    note: &Note,
) -> Result<Committed, SessionError> {
    departure.welcome(info, config).await?;
    let (timer, inbox) = (departure.timer(), departure.inbox());
    let built = timer.within(PEER_WAIT, timer.wait_for(|| inbox.built())).await;
    let there = built.ok_or(SessionError::TimedOut(Wait::Build))?;
    if !there.labels && departure.source().is_private()? {
        return Err(SessionError::Refused(Refusal::Exposed));
    }
    // Where guests bear no labels nothing is kept once the other host has started the guest.
    let is_kept = host.platform.borrow().features().labels;
    if !there.paging || !info.hap || !is_kept {
        departure.fall_back_to_precopy();
    }

    // From here on a dead agent leaves the guest other than it was.
    departure.toolstack().note(&note.seal(host));
    let copied = full_copy::send(departure).await?;
    let prepared = switchover::leave(departure, copied).await?;
    super::commit(host, departure, prepared, note)
}

/// The one way out before the commit: the peer is told, and the guest runs on here. Gives the reason.
async fn give_back<S: Source>(departure: &mut Departure<S>, error: &SessionError) -> String {
    let (timer, toolstack) = (departure.timer().clone(), departure.toolstack().clone());
    let (mut cause, mut reason) = (error.cause(), error.to_string());
    if !matches!(error, SessionError::Told(_)) {
        let _ = timer.within(LAST_WORD, departure.say(Message::Abort(&reason))).await;
    }
    // A suspend that is under way ends first: a guest that suspends afterwards would stay so.
    if departure.inbox().phase() != Phase::Copying && toolstack.suspended().is_none() {
        let source = departure.source();
        let suspended = timer.wait_for(|| {
            let over =
                toolstack.suspended().is_some() || source.info().map_or(true, |info| info.suspended || info.stopped);
            over.then_some(())
        });
        let _ = timer.within(SUSPEND_WAIT, suspended).await;
    }
    match departure.source().give_back() {
        // Nothing is left to give back.
        Ok(()) | Err(PlatformError::Gone) => {}
        Err(error) => {
            cause = FailureCause::Other;
            reason = format!("{reason}; and the guest could not be given back, see whether it runs: {error}");
        }
    }
    departure.close(State::Failed { cause, reason: reason.clone() });
    reason
}
