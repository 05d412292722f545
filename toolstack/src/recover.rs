//! Recovery of guests whose agent died, whose helper has ended, or whose toolstack was killed.
//!
//! An agent leaves a note of each guest that is not just as it was: one whose dirty log is on, one that has left, one whose
//! pages are still missing. Its own nodes vanish with it; the helpers copy the note to where it [stays](crate::kept). It is
//! sealed: dom0 can keep it, and not read or change it.
//!
//! What is left to do for dom0 when a migration ends is here too. It is done by the first that notices: the migration's
//! [follower](crate::follow), the watchdog, the next helper, or `tsmc recover`.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::DomId;
use common::control::{FailureCause, Request, State};

use crate::agents::{Agent, Session, Way};
use crate::broker;
use crate::kept::{self, End};
use crate::process::Process;
use crate::refusal::Refusal;
use crate::xenstore::{Xenstore, XenstoreError};

/// How long the next agent may take to come up.
pub const RESTART: Duration = Duration::from_secs(60);
/// How long to watch what comes of a guest.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often to look.
const LOOK: Duration = Duration::from_millis(100);

/// How `xl` calls a guest that is arriving, and one that it has sent away: it says so nowhere else.
const ARRIVING: &str = "--incoming";
const AWAY: &str = "--migratedaway";

/// What has become of a guest, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Became {
    /// Its migration goes on, or its return.
    Open(String),
    /// Nothing is left to do, or nothing can be done.
    Over(String),
}

impl Became {
    /// In words.
    pub fn words(&self) -> &str {
        let (Self::Open(words) | Self::Over(words)) = self;
        words
    }
}

/// Of a migration in which nothing is to be done now.
const UNDER_WAY: &str = "its migration is under way, and is seen to";

/// Keeps a session's note, if it has left one; gives it. The calling process follows the migration.
pub fn keep(store: &mut Xenstore, session: &Session, end: End) -> Result<Option<String>, XenstoreError> {
    let note = session.note(store)?;
    if let Some(note) = &note {
        end.keep(store, note, Process::this(), Process::parent())?;
    }
    Ok(note)
}

/// Waits for another agent than the one that died, at most so long, and hands it the note.
pub fn hand_on(
    store: &mut Xenstore,
    lost: DomId,
    end: End,
    note: &str,
    at_most: Option<Duration>,
) -> Result<Session, Refusal> {
    let since = Instant::now();
    loop {
        match Agent::find(store) {
            Ok(agent) if agent.domain != lost => return hand_over(store, agent, end, note),
            Ok(_) | Err(Refusal::NoAgent | Refusal::AgentNotReady { .. }) => {}
            Err(refusal) => return Err(refusal),
        }
        if at_most.is_some_and(|limit| since.elapsed() > limit) {
            return Err(Refusal::AgentLost);
        }
        thread::sleep(LOOK);
    }
}

fn hand_over(store: &mut Xenstore, agent: Agent, end: End, note: &str) -> Result<Session, Refusal> {
    Session::ask(store, agent, end.way, end.domain, &Request::Recover { note: note.into() })
}

/// Sees to the ends that no process follows, as far as this agent's own sessions say what to do, and to guests whose broker was killed.
pub fn tidy(store: &mut Xenstore, agent: &Agent) -> Result<(), Refusal> {
    broker::undo_abandoned()?;
    for (end, note) in kept::all(store)? {
        if !end.is_followed(store)?
            && let Some(session) = session_of(store, agent, end, &note)?
        {
            see_to(store, &session, end)?;
        }
    }
    Ok(())
}

/// Has the agent take up what it has no session of, and says what came of it.
pub fn take_up(store: &mut Xenstore, agent: Agent, end: End, note: &str) -> Result<Became, Refusal> {
    let session = hand_over(store, agent, end, note)?;
    taken_up(store, end, &session, Instant::now())
}

/// Waits until it is clear what becomes of a guest that an agent was asked to take up at that time, and does what is left to do.
fn taken_up(store: &mut Xenstore, end: End, session: &Session, since: Instant) -> Result<Became, Refusal> {
    let state = settled(store, session, since)?.ok_or(Refusal::AgentSilent)?;
    if let Some(note) = session.note(store)? {
        end.keep(store, &note, None, None)?;
    }
    conclude_taken_up(store, end, state)
}

/// Does what this session of the agent that is here asks for.
pub fn see_to(store: &mut Xenstore, session: &Session, end: End) -> Result<Became, Refusal> {
    match session.state(store)? {
        Some(state) if state.is_end() => conclude(store, end, state).map(Became::Over),
        Some(_) if end.way == Way::In && is_abandoned(store, end)? => {
            bring_home(store, &session.agent, end).map(Became::Open)
        }
        _ => Ok(Became::Open(UNDER_WAY.into())),
    }
}

/// The session of this agent that has left this note.
pub fn session_of(store: &mut Xenstore, agent: &Agent, end: End, note: &str) -> Result<Option<Session>, XenstoreError> {
    for id in agent.sessions(store)? {
        let session = Session { agent: agent.clone(), id };
        if session.guest() == Some((end.way, end.domain)) && session.note(store)?.as_deref() == Some(note) {
            return Ok(Some(session));
        }
    }
    Ok(None)
}

/// Hands this host's agent the notes of all domains, or of one, and says what came of each, one line each.
pub fn recover(store: &mut Xenstore, only: Option<DomId>) -> Result<String, Refusal> {
    let agent = Agent::find(store)?;
    let (mut told, mut handed) = (Vec::new(), Vec::new());
    for (end, note) in kept::all(store)? {
        if only.is_some_and(|only| only != end.domain) {
            continue;
        }
        let session = if end.is_followed(store)? { None } else { Some(session_of(store, &agent, end, &note)?) };
        match session {
            Some(Some(session)) => told.push((end, see_to(store, &session, end)?)),
            Some(None) => handed.push((end, hand_over(store, agent.clone(), end, &note)?)),
            None => told.push((end, Became::Open(UNDER_WAY.into()))),
        }
    }
    // Only now are they waited for: one may be the other end of another, when a guest migrated to its own host.
    let since = Instant::now();
    for (end, session) in handed {
        told.push((end, taken_up(store, end, &session, since)?));
    }
    let told: String =
        told.iter().map(|(end, became)| format!("domain {}: {}\n", end.domain, became.words())).collect();
    match (told.is_empty(), only) {
        (false, _) => Ok(told),
        (true, None) => Ok("nothing to recover\n".into()),
        (true, Some(domain)) => Ok(format!("domain {domain}: no agent has left anything to recover\n")),
    }
}

/// Has the agent free what it keeps of a guest that has left. It refuses while the other host's agent is there to fetch it.
pub fn discard(store: &mut Xenstore, domain: DomId) -> Result<String, Refusal> {
    let agent = Agent::find(store)?;
    let session = Session::ask(store, agent, Way::Out, domain, &Request::Discard { domain })?;
    match settled(store, &session, Instant::now())? {
        Some(State::Complete) => {}
        Some(State::Failed { reason, .. }) => return Err(Refusal::Agent(reason)),
        _ => return Err(Refusal::AgentSilent),
    }
    End::out(domain).forget(store)?;
    Ok(format!("domain {domain}: what was kept of it is discarded, and its memory is free again\n"))
}

/// Waits until it is clear what becomes of a guest, or no longer.
fn settled(store: &mut Xenstore, session: &Session, since: Instant) -> Result<Option<State>, Refusal> {
    loop {
        let state = session.state(store)?;
        let clear = matches!(state, Some(State::Committed | State::Running | State::Complete | State::Failed { .. }));
        if clear || since.elapsed() > PATIENCE {
            return Ok(state);
        }
        if !session.agent.is_alive(store)? {
            return Err(Refusal::AgentLost);
        }
        while store.take_change().is_some() {}
        thread::sleep(LOOK);
    }
}

/// Does what is left to do for dom0 about a guest that an agent was asked to take up, and says what became of it.
fn conclude_taken_up(store: &mut Xenstore, end: End, state: State) -> Result<Became, Refusal> {
    Ok(match (end.way, state) {
        // The agent did not take it up.
        (_, State::Failed { cause: FailureCause::Cancelled | FailureCause::Other, reason }) => Became::Over(reason),
        (_, state) if state.is_end() => Became::Over(conclude(store, end, state)?),
        (Way::Out, State::Committed) => {
            Became::Open("it has left; the agents have met again, and its pages follow".into())
        }
        (Way::In, State::Running) => {
            Became::Open("it runs here; the agents have met again, and its pages follow".into())
        }
        (_, State::Waiting { reason }) => Became::Open(format!("the agent takes it up later: it waits for {reason}")),
        (Way::Out, _) => {
            Became::Open("it has left; its pages stay here until the other host's agent calls, whenever that is".into())
        }
        (Way::In, _) => Became::Open("the other host's agent cannot be reached yet; this one goes on calling".into()),
    })
}

/// Does what is left to do for dom0 when a migration has ended like this, and says what became of the guest.
fn conclude(store: &mut Xenstore, end: End, state: State) -> Result<String, Refusal> {
    let became = match (end.way, state) {
        (_, State::Failed { cause: FailureCause::Gone, reason }) => format!("{reason}; nothing is left to recover"),
        (Way::Out, State::Failed { reason, .. }) => match come_back(store, end.domain) {
            Ok(()) => format!("{reason}; xenstored has been told"),
            Err(error) => format!("{reason}, but will not suspend again: {error}"),
        },
        (Way::In, State::Failed { reason, .. }) => reason,
        (Way::Out, _) => "it has left; the other host has all of it, and its memory here is free again".into(),
        (Way::In, _) => "it is here, and nothing of it is missing".into(),
    };
    end.forget(store)?;
    Ok(became)
}

/// Makes a guest whole that runs here again after it had suspended: xenstored takes it for stopped, and `xl` may have given it
/// the name of one that it has sent away.
pub fn come_back(store: &mut Xenstore, domain: DomId) -> Result<(), XenstoreError> {
    let resumed = store.resume(domain);
    if let Some(name) = name_of(store, domain)?
        && let Some(own) = name.strip_suffix(AWAY)
    {
        xl(&["rename", &name, own]);
    }
    resumed
}

/// Whether `xl` was killed while the guest was arriving: only an operator could start it now.
fn is_abandoned(store: &mut Xenstore, end: End) -> Result<bool, XenstoreError> {
    Ok(end.is_left_alone(store)? && is_arriving(store, end.domain)?)
}

fn is_arriving(store: &mut Xenstore, domain: DomId) -> Result<bool, XenstoreError> {
    Ok(name_of(store, domain)?.is_some_and(|name| name.ends_with(ARRIVING)))
}

/// Destroys what a toolstack that was killed has left of a domain in which no guest can ever run.
pub fn clear_away(store: &mut Xenstore, end: End, toolstack: Process) -> Result<(), XenstoreError> {
    if !toolstack.is_alive() && is_arriving(store, end.domain)? {
        xl(&["destroy", &end.domain.to_string()]);
    }
    Ok(())
}

/// Ends the copy of a guest that never ran here and will not be started: it goes on where it came from. One that an operator
/// has started is left alone. Says which.
fn bring_home(store: &mut Xenstore, agent: &Agent, end: End) -> Result<String, Refusal> {
    let number = end.domain.to_string();
    // So that it is not started between the question and what is done about the answer.
    if !xl(&["pause", &number]) {
        return Ok("it never ran here, and cannot be paused".into());
    }
    let answer = ask_to_withdraw(store, agent, end);
    if let Ok(Some(State::Complete)) = answer {
        xl(&["destroy", &number]);
        return Ok("it never ran here, and xl is gone: it goes on where it came from".into());
    }
    // Whatever became of the question, it leaves no guest paused.
    xl(&["unpause", &number]);
    match answer? {
        Some(State::Failed { reason, .. }) => {
            // There is no need to ask again.
            end.forget_toolstack(store)?;
            Ok(reason)
        }
        _ => Err(Refusal::AgentSilent),
    }
}

/// Asks the agent whether the guest has never run here. Gives how far the answer has come in the time that it may take.
fn ask_to_withdraw(store: &mut Xenstore, agent: &Agent, end: End) -> Result<Option<State>, Refusal> {
    let request = Request::Withdraw { domain: end.domain };
    let session = Session::ask(store, agent.clone(), "withdraw", end.domain, &request)?;
    settled(store, &session, Instant::now())
}

/// What a domain is called; nothing once dom0 believes that it has destroyed it.
pub fn name_of(store: &mut Xenstore, domain: DomId) -> Result<Option<String>, XenstoreError> {
    store.read(&format!("/local/domain/{domain}/name"))
}

/// Runs `xl`; whether it succeeded. What it prints says nothing that its status does not.
fn xl(words: &[&str]) -> bool {
    Command::new("xl").args(words).output().is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests;
