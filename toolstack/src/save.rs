//! The sending end of a migration, between libxl and the local agent.
//!
//! ```text
//!   agent                    this helper                       libxl
//!     | <------ out -------------|                               |
//!     | listening -------------> | headers, our record, end ---> | (stream)
//!     | copying ...              | progress -------------------> |
//!     | suspend ---------------> | suspend --------------------> |
//!     | <------ suspended=yes ---| <------------------------ yes |
//!     | committed -------------> | complete(0) ----------------> | writes its own end
//! ```
//!
//! Until `committed` every failure leaves the guest here as it was: the agent puts it back, then says `failed`. A guest
//! that had suspended is resumed by the agent; what is left to do is to tell xenstored. After `committed` the guest
//! belongs to the other side, whatever happens here.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddrV4;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use common::DomId;
use common::control::{FailureCause, Mode, Parameters, Progress, Request, State};

use crate::agents::{Agent, Session, Way};
use crate::callbacks::{Level, Libxl, Message};
use crate::events::{Event, Waiter};
use crate::kept::End;
use crate::monitor;
use crate::process::Process;
use crate::recover;
use crate::refusal::Refusal;
use crate::stock::xen_version;
use crate::stream::Invitation;
use crate::xenstore::Xenstore;

/// How long the agent may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to put a guest back: it waits for a suspend that is under way, to which libxl gives 60 seconds.
const PUT_BACK: Duration = Duration::from_secs(90);
/// How often to look whether the agent is alive while nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// One guest on its way out.
pub struct Save<'a> {
    libxl: &'a mut Libxl,
    store: &'a mut Xenstore,
    waiter: &'a mut Waiter,
    domain: DomId,
    mode: Mode,
    session: Session,
    guest: Guest,
    cancelled: Option<Cancelled>,
    reported: Reported,
    /// What another agent must know, should this one die.
    note: Option<String>,
    /// `xl`'s monitor of the guest.
    monitor: Option<Process>,
    /// When the agent was asked, if it has not answered yet.
    asked: Option<Instant>,
    /// The agent has no right on the guest but what dom0's broker does for it.
    lent: bool,
}

/// Which guest leaves, and how.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The guest.
    pub domain: DomId,
    /// How.
    pub parameters: Parameters,
}

/// The guest as libxl knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guest {
    Runs,
    /// libxl has been asked to suspend it and has not answered.
    Suspending,
    Suspended,
    /// The agent has put it back after it had been suspended.
    Back,
}

/// Why and since when the agent is asked to give up.
struct Cancelled {
    why: Refusal,
    since: Instant,
}

/// The last progress line in libxl's log: one per quarter of a stage.
#[derive(Default, PartialEq, Eq)]
struct Reported {
    stage: u8,
    round: Option<u32>,
    quarter: u64,
}

impl<'a> Save<'a> {
    /// Asks this host's agent to send the guest away. The guest runs on.
    pub fn start(
        libxl: &'a mut Libxl,
        store: &'a mut Xenstore,
        waiter: &'a mut Waiter,
        Order { domain, parameters }: Order,
    ) -> Result<Self, Refusal> {
        // To look for it takes longer than a guest that is about to suspend should wait.
        let monitor = monitor::find(domain);
        let agent = Agent::find(store)?;
        recover::tidy(store, &agent)?;
        // A guest that runs can suspend, whatever was forgotten after an earlier attempt.
        store.resume(domain)?;
        let lent = agent.is_lent_guests(store)?;
        let session = Session::ask(store, agent, Way::Out, domain, &Request::Out { domain, parameters })?;
        let (guest, reported, asked) = (Guest::Runs, Reported::default(), Some(Instant::now()));
        let (cancelled, note, mode) = (None, None, parameters.mode);
        Ok(Self { libxl, store, waiter, domain, mode, session, guest, cancelled, reported, note, monitor, asked, lent })
    }

    /// Runs until the guest belongs to the other side, or is back as it was.
    pub fn run(mut self) -> Result<(), Refusal> {
        let outcome = self.follow();
        match self.guest {
            Guest::Runs => {}
            Guest::Back => self.announce_resume(),
            Guest::Suspending | Guest::Suspended if outcome.is_err() => {
                let domain = self.domain;
                self.log(Level::Error, &format!("domain {domain} may still be stopped: look at it with 'xl list'"));
            }
            Guest::Suspending | Guest::Suspended => {}
        }
        outcome
    }

    fn follow(&mut self) -> Result<(), Refusal> {
        let (mut last, mut look) = (None, true);
        loop {
            let mut idle = true;
            while let Some(path) = self.store.take_change() {
                idle = false;
                if self.session.is_progress(&path) {
                    self.report_progress()?;
                } else {
                    look = true;
                }
            }
            let state = if std::mem::take(&mut look) { self.session.state(self.store)? } else { last.clone() };
            if state != last {
                last.clone_from(&state);
                let kept = recover::keep(self.store, &self.session, self.end())?;
                if self.lent && kept.is_none() && state == Some(State::Committed) {
                    // It died as it said so: what tells another agent that the guest has left went with it. The other host starts
                    // nothing that libxl does not tell it to start.
                    self.turn_to_another()?;
                }
                self.note = kept.or(self.note.take());
                if let Some(state) = state {
                    self.asked = None;
                    if self.enter(state)?.is_break() {
                        return Ok(());
                    }
                }
            } else if idle {
                self.lose_patience()?;
                look = self.wait()?;
            }
        }
    }

    /// Does what the agent's new state asks for; breaks when the guest has left.
    fn enter(&mut self, state: State) -> Result<ControlFlow<()>, Refusal> {
        match state {
            State::Waiting { reason } => {
                self.log(Level::Notice, &format!("waiting for {reason}"));
            }
            State::Listening { session, address, port, key, size } => {
                let peer = SocketAddrV4::new(address, port);
                let invitation = Invitation { session, peer, key, mode: self.mode, size };
                let mut stream = File::from(self.waiter.stream().try_clone()?);
                if stream.write_all(&invitation.encode(xen_version())).is_err() {
                    self.cancel(Refusal::PeerGone)?;
                }
            }
            State::Copying => self.log(Level::Info, "stage 1: copying memory while the guest runs"),
            State::Suspend if self.guest == Guest::Runs => {
                self.log(Level::Info, "stage 2: suspending the guest");
                self.guest = Guest::Suspending;
                if let Some(monitor) = self.monitor {
                    self.end().hold_monitor(self.store, monitor)?;
                }
                if self.libxl.send(&Message::Suspend).is_err() {
                    self.cancel(Refusal::ParentGone)?;
                }
            }
            State::Committed | State::Complete | State::Interrupted { .. } => {
                let domain = self.domain;
                let text = if self.lent {
                    format!("domain {domain} has left; it is destroyed here when the other host has started it")
                } else {
                    format!(
                        "domain {domain} has left; the agent keeps its memory here until the other host has all of it. \
                     Until then it is listed as (null), and libxl's coming 'Unable to destroy guest' is expected"
                    )
                };
                self.log(Level::Notice, &text);
                return Ok(ControlFlow::Break(()));
            }
            State::Failed { cause, reason } => {
                // Without a note of its own it has changed nothing that would have to be forgotten.
                if self.note.is_some() {
                    self.end().forget(self.store)?;
                }
                // libxl's answer must be read before anything else is asked of it. From one that is gone none will come:
                // the guest may have suspended or not, and to be announced as running is right for both.
                if self.guest == Guest::Suspending && self.take_answer().is_err() {
                    self.guest = Guest::Suspended;
                }
                if self.guest == Guest::Suspended {
                    self.guest = Guest::Back;
                }
                return Err(self.why(cause, reason));
            }
            State::Suspend | State::Built { .. } | State::Ready | State::Running => {}
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Waits until something happens; whether that may have been anything but what the store tells.
    fn wait(&mut self) -> Result<bool, Refusal> {
        let event = self.waiter.wait(self.libxl, self.store, TICK)?;
        match event {
            Event::Store => self.store.receive_change()?,
            Event::Answer => match self.take_answer() {
                Err(Refusal::ParentGone) => self.cancel(Refusal::ParentGone)?,
                taken => taken?,
            },
            Event::Terminated => self.cancel(Refusal::Cancelled)?,
            Event::StreamGone => self.cancel(Refusal::PeerGone)?,
            Event::ParentGone => {
                if self.guest == Guest::Suspending {
                    self.withdraw_suspend()?;
                }
                self.cancel(Refusal::ParentGone)?;
            }
            Event::Quiet if self.session.agent.is_alive(self.store)? => {}
            Event::Quiet => self.turn_to_another()?,
        }
        Ok(event != Event::Store)
    }

    /// The agent died. Another one can give the guest back, or go on if it has left. A suspend that is under way ends first:
    /// a guest that suspends afterwards would stay so.
    fn turn_to_another(&mut self) -> Result<(), Refusal> {
        if self.lent {
            // What it did to the guest its broker undoes. A guest that has suspended is libxl's to resume.
            if self.guest == Guest::Suspending {
                let _ = self.libxl.answer();
            }
            self.guest = Guest::Runs;
            self.end().forget(self.store)?;
            return Err(Refusal::AgentLost);
        }
        let Some(note) = self.note.clone() else { return Err(Refusal::AgentLost) };
        self.log(Level::Notice, "the migration agent of this host died; waiting for another one to take the guest up");
        if self.guest == Guest::Suspending {
            let suspended = self.libxl.answer().is_ok_and(|answer| answer != 0);
            self.guest = if suspended { Guest::Suspended } else { Guest::Runs };
        }
        let lost = self.session.agent.domain;
        self.session = recover::hand_on(self.store, lost, self.end(), &note, Some(recover::RESTART))?;
        self.asked = Some(Instant::now());
        Ok(())
    }

    /// Takes libxl's answer to the suspend.
    fn take_answer(&mut self) -> Result<(), Refusal> {
        let suspended = self.libxl.answer().map_err(|_| Refusal::ParentGone)? != 0;
        self.guest = if suspended { Guest::Suspended } else { Guest::Runs };
        Ok(self.session.answer_suspend(self.store, suspended)?)
    }

    /// Takes back a suspend whose answer is no longer waited for; too late if the guest has seen it.
    fn withdraw_suspend(&mut self) -> Result<(), Refusal> {
        let control = format!("/local/domain/{}/control/shutdown", self.domain);
        if self.store.read(&control)?.as_deref() == Some("suspend") {
            self.store.write(&control, "")?;
        }
        Ok(())
    }

    fn cancel(&mut self, why: Refusal) -> Result<(), Refusal> {
        if self.cancelled.is_none() {
            self.cancelled = Some(Cancelled { why, since: Instant::now() });
            self.session.cancel(self.store)?;
        }
        Ok(())
    }

    /// Gives up on an agent that does not answer a request, or does not confirm that it gave up.
    fn lose_patience(&mut self) -> Result<(), Refusal> {
        if let Some(cancelled) = self.cancelled.take_if(|cancelled| cancelled.since.elapsed() > PUT_BACK) {
            return Err(cancelled.why);
        }
        if self.asked.is_some_and(|asked| asked.elapsed() > PATIENCE) {
            self.session.cancel(self.store)?;
            return Err(Refusal::AgentSilent);
        }
        Ok(())
    }

    /// What to tell the operator when the agent gave up. It may have been asked to and have done so for another reason, of
    /// which it knows more than we do.
    fn why(&mut self, cause: FailureCause, reason: String) -> Refusal {
        match self.cancelled.take() {
            Some(cancelled) if cause == FailureCause::Cancelled => cancelled.why,
            _ => Refusal::Agent(reason),
        }
    }

    fn announce_resume(&mut self) {
        let note = match recover::come_back(self.store, self.domain) {
            Ok(()) => "the guest runs on here; libxl's coming 'xc_domain_resume failed' is harmless".into(),
            Err(error) => format!("the guest runs on here, but will not suspend again: {error}"),
        };
        self.log(Level::Notice, &note);
    }

    fn report_progress(&mut self) -> Result<(), Refusal> {
        let Some(progress) = self.session.progress(self.store)? else { return Ok(()) };
        let Progress { stage, round, done, total, rate_kib, .. } = progress;
        let doing = match round {
            Some(round) => format!("stage {stage}, round {round}"),
            None => format!("stage {stage}"),
        };
        let _ = self.libxl.send(&Message::Progress { doing: &doing, done, total });
        let reached = Reported { stage, round, quarter: done.saturating_mul(4).checked_div(total).unwrap_or(0) };
        if reached != self.reported && reached.quarter > 0 {
            self.reported = reached;
            let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0);
            let rate = rate_kib as f64 / 1024.0;
            self.log(Level::Info, &format!("{doing}: {done} of {total} pages, {percent} %, {rate:.1} MB/s"));
        }
        Ok(())
    }

    fn end(&self) -> End {
        End::out(self.domain)
    }

    fn log(&mut self, level: Level, text: &str) {
        self.libxl.log(level, text);
    }
}

#[cfg(test)]
mod tests;
