//! The source's end after the commit: a guest that has left, whose pages are kept until the target has them all.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::ToString;
use core::ops::ControlFlow;
use core::pin::pin;

use common::Gfn;
use common::control::{Parameters, State};
use embassy_futures::select::{Either, Either3, select, select3};

use super::epilogue::{self, Answer};
use crate::error::{LinkError, PlatformError, Refusal, SessionError};
use crate::host::budget::Want;
use crate::host::claim::Claim;
use crate::host::note::Note;
use crate::host::pending::{Called, Invitation};
use crate::host::toolstack::{Toolstack, retry};
use crate::host::{Host, turn};
use crate::limits::{LAST_WORD, PEER_WAIT, XEN_RETRY};
use crate::platform::{Guest as _, Platform, Source, SourceHold};
use crate::source::{Committed, Departure, Ending, Listening, Terms, reserve, size_of};
use crate::wire::Purpose;
use crate::{dirty_copy, platform};

/// Pages that are left to be freed all at once, if nobody else is to be served: 4 GiB of a guest.
const AT_ONCE: u64 = 1 << 20;

/// Where a departure is once it has committed.
pub(super) enum Contact {
    /// Connected, and heard.
    Open(Listening),
    /// The target has called again.
    Called(Called),
    /// Nobody has called yet.
    Cut,
}

/// After the commit: serves the target, over as many connections as that takes, until it misses nothing.
pub(super) async fn see_off<P: Platform>(
    host: &Host<P>,
    mut departure: Departure<P::Source>,
    claim: Claim,
    invitation: Invitation,
    mut contact: Contact,
    committed: Committed,
) {
    let ending = loop {
        contact = match contact {
            Contact::Cut => match select(invitation.answered(&host.timer), claim.wanted(&host.timer)).await {
                Either::First(called) => Contact::Called(called),
                Either::Second(()) => {
                    let (answer, state) = over(Refusal::Discarded);
                    departure.close(state);
                    drop((departure, claim));
                    return epilogue::answer(host, invitation, answer).await;
                }
            },
            Contact::Called(called) => match departure.welcome_back(host, &called).await {
                Ok(listening) => Contact::Open(listening),
                Err(SessionError::Refused(Refusal::Gone)) => break Ending::Lost,
                Err(error) => {
                    departure.lose(&error);
                    Contact::Cut
                }
            },
            Contact::Open(mut listening) => {
                let served = {
                    let serving = pin!(dirty_copy::serve(&mut departure, &committed));
                    select3(serving, listening.as_mut(), invitation.answered(&host.timer)).await
                };
                match served {
                    Either3::Second(Ok(ending)) => break ending,
                    Either3::First(SessionError::Refused(Refusal::Gone)) => break Ending::Lost,
                    Either3::First(error) | Either3::Second(Err(error)) => {
                        departure.lose(&error);
                        Contact::Cut
                    }
                    Either3::Third(called) => {
                        departure.lose(&LinkError::Lost.into());
                        Contact::Called(called)
                    }
                }
            }
        };
    };
    finish(host, departure, claim, invitation, ending, committed).await;
}

/// The end of such a session: the target hears of it, and the guest is destroyed once it has all of it.
async fn finish<P: Platform>(
    host: &Host<P>,
    mut departure: Departure<P::Source>,
    claim: Claim,
    invitation: Invitation,
    ending: Ending,
    committed: Committed,
) {
    let mut to_destroy = None;
    let (answer, state) = match ending {
        Ending::Complete => {
            to_destroy = Some(committed);
            (Answer::Complete, State::Complete)
        }
        Ending::Lost => {
            log::error!("{}: {}", departure.toolstack().id, Refusal::Lost);
            over(Refusal::Lost)
        }
        Ending::Revoked => over(departure.take_back(committed).await),
    };
    let _ = host.timer.within(LAST_WORD, departure.say(answer.message())).await;
    if let Some(committed) = to_destroy {
        departure.destroy(&claim, &committed).await;
    }
    departure.close(state);
    departure.bulk().abort();
    let heard = host.timer.within(PEER_WAIT, departure.finished()).await;
    drop((departure, claim));
    if heard != Some(true) {
        epilogue::answer(host, invitation, answer).await;
    }
}

/// Goes on with a guest that an earlier life of this agent was sending away.
pub(super) async fn adopt<P: Platform>(
    host: &Host<P>,
    toolstack: &Rc<Toolstack>,
    note: &Note,
) -> Result<(), SessionError> {
    let claim = host.domains.claim(note.domain)?;
    let seat = host.peers.seat_again(note.key);
    let mut source = host.platform.borrow_mut().adopt_source(note.domain, note.uuid, note.memo)?;
    let info = source.info()?;
    let invitation = host.pending.expect(note.session, Purpose::Recover, note.key);
    let Some(committed) = Committed::of(&source) else {
        // dom0 may always have back a guest that has not left.
        source.give_back()?;
        drop((source, claim, seat));
        let (answer, state) = over(Refusal::NotLeft);
        toolstack.state(state);
        epilogue::answer(host, invitation, answer).await;
        return Ok(());
    };
    let size = size_of(&mut source, &info, false)?;
    let mut memory = turn(host, toolstack, Want::to_leave(size).again()).await?;
    reserve(&mut memory, size)?;
    toolstack.note(&note.seal(host));
    toolstack.state(State::Interrupted { reason: SessionError::Refused(Refusal::Restarted).to_string() });
    let called = match select(invitation.answered(&host.timer), claim.wanted(&host.timer)).await {
        Either::First(called) => called,
        Either::Second(()) => {
            let (answer, state) = over(Refusal::Discarded);
            toolstack.state(state);
            drop((source, claim, seat));
            epilogue::answer(host, invitation, answer).await;
            return Ok(());
        }
    };
    let terms = Terms { parameters: Parameters::default(), frames: size.frames, memory, seat };
    let mut departure = Departure::new(host, toolstack, source, &info, &called, terms);
    departure.adopt();
    see_off(host, departure, claim, invitation, Contact::Called(called), committed).await;
    Ok(())
}

/// What the target hears, and the toolstack, of a session that is over for this reason.
fn over(refusal: Refusal) -> (Answer, State) {
    (Answer::Abort(refusal.to_string()), SessionError::Refused(refusal).failed())
}

impl<S: Source> Departure<S> {
    /// Frees the guest's memory: the target has all of it.
    async fn destroy(&mut self, claim: &Claim, committed: &Committed) {
        if let Err(error) = self.free(claim, committed).await {
            log::warn!("{}: the guest's memory is freed all at once: {error}", self.toolstack().id);
        }
        let _ = self.insist("the guest that has left cannot be destroyed", S::destroy).await;
    }

    /// Asks the hypervisor for something after the commit until it is done, or the domain is gone.
    async fn insist(&mut self, what: &str, work: fn(&mut S) -> platform::Result<()>) -> platform::Result<()> {
        let (timer, toolstack) = (self.timer().clone(), self.toolstack().clone());
        let once = || match work(self.source()) {
            done @ (Ok(()) | Err(PlatformError::Gone)) => ControlFlow::Break(done),
            Err(error) => ControlFlow::Continue(format!("{what}: {error}")),
        };
        retry(&timer, &toolstack.id, XEN_RETRY, once).await
    }

    /// Frees the guest's pages bit by bit, as long as there are many or this agent has other guests in hand. To destroy the domain
    /// with all of its memory is one hypercall, and nobody is served for as long as that takes, nor any session begun; when
    /// nobody is to be served, it takes least.
    async fn free(&mut self, claim: &Claim, _: &Committed) -> Result<(), PlatformError> {
        let mut next = Gfn(0);
        while let Some(mut chunk) = self.pages().next_chunk(&mut next) {
            let few = self.source().info()?.pages <= AT_ONCE;
            self.find_to_free(chunk)?;
            while let Some(batch) = self.pages().next_found(&mut chunk) {
                if few && claim.is_only() {
                    return Ok(());
                }
                self.source().free(&batch)?;
                self.timer().yield_now().await;
            }
        }
        Ok(())
    }

    /// Undoes the commit: the target has said that its copy never ran and never will. Gives what to say of it.
    async fn take_back(&mut self, _: Committed) -> Refusal {
        match self.insist("the guest cannot be taken back", S::give_back).await {
            Ok(()) => Refusal::Revoked,
            Err(_) => Refusal::Lost,
        }
    }
}
