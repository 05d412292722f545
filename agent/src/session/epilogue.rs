//! Delivers a finished session's last message until the peer has it, for the last eight sessions.
//!
//! A target that said it was ready and heard no more, or whose last word may not have been heard, calls again until it is
//! answered; a source waits to be told. Each of them remembers only so many.

use core::future::Future;

use alloc::string::String;

use common::control::SessionToken;
use embassy_futures::select::select;

use super::dialing;
use crate::error::SessionError;
use crate::host::Host;
use crate::host::listener;
use crate::host::peers::Callee;
use crate::host::pending::Invitation;
use crate::limits::{CONTROL_LOST, EPILOGUE_RECALL, RECALL_AFTER};
use crate::messages::{Inlet, Outlet};
use crate::platform::Platform;
use crate::target::CONTROLS;
use crate::wire::{Message, Purpose};

/// Sessions that are remembered.
const REMEMBERED: usize = 8;

/// How a session ended.
pub(super) enum Answer {
    /// The guest belongs to the target, which has all of it.
    Complete,
    /// The guest is here, for this reason: the target's copy never ran and never will.
    Abort(String),
}

impl Answer {
    pub(super) fn message(&self) -> Message<'_> {
        match self {
            Self::Complete => Message::Complete,
            Self::Abort(reason) => Message::Abort(reason),
        }
    }
}

/// The target's last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastWord {
    /// Nothing is missing, or will be wanted any more.
    Complete,
    /// The guest never ran here and never will.
    Revoked,
}

impl LastWord {
    pub(super) fn message(self) -> Message<'static> {
        match self {
            Self::Complete => Message::Complete,
            Self::Revoked => Message::Revoked,
        }
    }
}

/// At the source: waits for the target to ask, and tells it.
pub(super) async fn answer<P: Platform>(host: &Host<P>, invitation: Invitation, answer: Answer) {
    let answering = async {
        loop {
            let called = invitation.answered(&host.timer).await;
            // Whoever asks takes memory. Where there is none now, it asks again.
            let Ok(_memory) = host.budget.reserve(2 * listener::BUFFERS.size()) else { continue };
            let mut control = Outlet::new(called.control.clone());
            let told =
                async { control.send(answer.message()).await.is_ok() && called.control.connection().finished().await };
            if host.timer.within(CONTROL_LOST, told).await == Some(true) {
                return;
            }
        }
    };
    while_remembered(host, invitation.session(), answering).await;
}

/// At the target: calls the source until it has heard the last word, if it has not yet.
pub(super) async fn report<P: Platform>(host: &Host<P>, callee: Callee, session: SessionToken, word: Option<LastWord>) {
    let Some(word) = word else { return };
    let reporting = async {
        let mut pause = RECALL_AFTER;
        loop {
            let told = async {
                let [control, _bulk] = dialing::both(host, callee, session, Purpose::Recover).await?;
                Outlet::new(control.clone()).send(word.message()).await?;
                await_answer(Inlet::new(control.clone(), &CONTROLS)).await?;
                control.connection().linger();
                Ok::<_, SessionError>(())
            };
            if host.timer.within(CONTROL_LOST, told).await.is_some_and(|told| told.is_ok()) {
                return;
            }
            host.timer.sleep(pause).await;
            pause = (pause * 2).min(EPILOGUE_RECALL);
        }
    };
    while_remembered(host, session, reporting).await;
}

/// Waits until the source says that it is over for it, too.
async fn await_answer(mut inlet: Inlet) -> Result<(), SessionError> {
    loop {
        if let Message::Complete | Message::Abort(_) = inlet.next().await? {
            return Ok(());
        }
    }
}

/// Does `work` until enough other sessions have ended like this.
async fn while_remembered<P: Platform>(host: &Host<P>, session: SessionToken, work: impl Future<Output = ()>) {
    {
        let remembered = &mut *host.epilogues.borrow_mut();
        remembered.push_back(session);
        if remembered.len() > REMEMBERED {
            remembered.pop_front();
        }
    }
    let forgotten = host.timer.wait_for(|| (!host.epilogues.borrow().contains(&session)).then_some(()));
    select(work, forgotten).await;
    host.epilogues.borrow_mut().retain(|other| *other != session);
}
