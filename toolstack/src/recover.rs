//! Guests whose agent died: what dom0 keeps for the agent's next life, and handing it over.
//!
//! An agent leaves a note of each guest that is not just as it was: one whose dirty log is on, one that has left, one whose
//! pages are still missing. Its own nodes vanish with it; the save helpers copy the note to where it stays. It is sealed:
//! dom0 can keep it, and not read or change it. A helper ends before its migration does: the note of one that went well is
//! removed by the next helper, or by `tsmc recover`.

use std::thread;
use std::time::{Duration, Instant};

use agent::control::{Request, State, reason};
use agent::platform::DomId;

use crate::agents::{Agent, Session, Way};
use crate::refusal::Refusal;
use crate::xenstore::{Xenstore, XenstoreError};

/// Where the notes are: `<way>/<domain>` below.
const KEPT: &str = "/tool/tsmc";
/// How long the next agent may take to come up.
const RESTART: Duration = Duration::from_secs(60);
/// How long to watch what comes of a guest.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often to look.
const LOOK: Duration = Duration::from_millis(100);

/// Keeps a session's note, if it has left one; gives it.
pub fn keep(store: &mut Xenstore, session: &Session, way: Way, domain: u16) -> Result<Option<String>, XenstoreError> {
    let note = session.note(store)?;
    if let Some(note) = &note {
        store.write(&node(way, domain), note)?;
        store.write(&helper(way, domain), &format!("{} {}", std::process::id(), program(std::process::id())))?;
    }
    Ok(note)
}

/// Whether a helper still follows the migration: it turns to the next agent by itself.
fn is_followed(store: &mut Xenstore, way: Way, domain: u16) -> Result<bool, XenstoreError> {
    let kept = store.read(&helper(way, domain))?.unwrap_or_default();
    let Some((process, name)) = kept.split_once(' ') else { return Ok(false) };
    Ok(process.parse().is_ok_and(|process| program(process) == name) && !name.is_empty())
}

/// Whether the agent that is here left this note itself, and has brought that migration to its end since. The helper had
/// nothing more to do by then, and nobody has removed the note.
fn is_complete(store: &mut Xenstore, agent: &Agent, way: Way, domain: u16, note: &str) -> Result<bool, XenstoreError> {
    for id in agent.sessions(store)? {
        let session = Session { agent: agent.clone(), id };
        if session.id.to_string().starts_with(&format!("{way}-{domain}-"))
            && session.state(store)? == Some(State::Complete)
            && session.note(store)?.as_deref() == Some(note)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a process is called; nothing if there is none.
fn program(process: u32) -> String {
    std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default().trim_end().into()
}

/// Keeps it no more: the guest is as it was, or whole.
pub fn forget(store: &mut Xenstore, way: Way, domain: u16) -> Result<(), XenstoreError> {
    store.remove(&node(way, domain))
}

/// Waits for another agent than the one that died, and hands it the note.
pub fn hand_on(store: &mut Xenstore, lost: u16, way: Way, domain: u16, note: &str) -> Result<Session, Refusal> {
    let since = Instant::now();
    loop {
        match Agent::find(store) {
            Ok(agent) if agent.domain != lost => return hand_over(store, agent, way, domain, note),
            Ok(_) | Err(Refusal::NoAgent | Refusal::AgentNotReady { .. }) if since.elapsed() < RESTART => {}
            Ok(_) => return Err(Refusal::AgentLost),
            Err(Refusal::NoAgent | Refusal::AgentNotReady { .. }) => return Err(Refusal::AgentLost),
            Err(refusal) => return Err(refusal),
        }
        thread::sleep(LOOK);
    }
}

fn hand_over(store: &mut Xenstore, agent: Agent, way: Way, domain: u16, note: &str) -> Result<Session, Refusal> {
    Session::ask(store, agent, way, domain, &Request::Recover { note: note.into() })
}

/// Forgets the migrations that this agent has brought to their end since their helpers ended.
pub fn tidy(store: &mut Xenstore, agent: &Agent) -> Result<(), XenstoreError> {
    for (way, domain, note) in kept(store)? {
        if is_complete(store, agent, way, domain, &note)? {
            forget(store, way, domain)?;
        }
    }
    Ok(())
}

/// All notes that are kept.
fn kept(store: &mut Xenstore) -> Result<Vec<(Way, u16, String)>, XenstoreError> {
    let mut notes = Vec::new();
    for way in [Way::Out, Way::In] {
        for name in store.list(&format!("{KEPT}/{way}"))? {
            let Ok(domain) = name.parse() else { continue };
            if let Some(note) = store.read(&node(way, domain))? {
                notes.push((way, domain, note));
            }
        }
    }
    Ok(notes)
}

/// Hands this host's agent the notes of all domains, or of one, and says what came of each, one line each.
pub fn recover(store: &mut Xenstore, only: Option<u16>) -> Result<String, Refusal> {
    let agent = Agent::find(store)?;
    let mut told = String::new();
    for (way, domain, note) in kept(store)? {
        if only.is_some_and(|only| only != domain) {
            continue;
        }
        if is_followed(store, way, domain)? {
            told.push_str(&format!("domain {domain}: its migration is under way, and its helper sees to it\n"));
            continue;
        }
        let state = if is_complete(store, &agent, way, domain, &note)? {
            Some(State::Complete)
        } else {
            let session = hand_over(store, agent.clone(), way, domain, &note)?;
            let state = settled(store, &session)?;
            if let Some(note) = session.note(store)? {
                store.write(&node(way, domain), &note)?;
            }
            state
        };
        told.push_str(&format!("domain {domain}: {}\n", conclude(store, way, domain, state)?));
    }
    match (told.is_empty(), only) {
        (false, _) => Ok(told),
        (true, None) => Ok("nothing to recover\n".into()),
        (true, Some(domain)) => Ok(format!("domain {domain}: no agent has left anything to recover\n")),
    }
}

/// Has the agent free what it keeps of a guest that has left. It refuses while the other host's agent is there to fetch it.
pub fn discard(store: &mut Xenstore, domain: u16) -> Result<String, Refusal> {
    let agent = Agent::find(store)?;
    let session = Session::ask(store, agent, Way::Out, domain, &Request::Discard { domain: DomId(domain) })?;
    match settled(store, &session)? {
        Some(State::Complete) => {}
        Some(State::Failed { reason }) => return Err(Refusal::Agent(reason)),
        _ => return Err(Refusal::AgentSilent),
    }
    forget(store, Way::Out, domain)?;
    Ok(format!("domain {domain}: what was kept of it is discarded, and its memory is free again\n"))
}

/// Waits until it is clear what becomes of a guest, or no longer.
fn settled(store: &mut Xenstore, session: &Session) -> Result<Option<State>, Refusal> {
    let since = Instant::now();
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

/// Does what is left to do for dom0, and says what became of the guest.
fn conclude(store: &mut Xenstore, way: Way, domain: u16, state: Option<State>) -> Result<String, Refusal> {
    Ok(match (way, state) {
        (_, None) => return Err(Refusal::AgentSilent),
        (Way::Out, Some(State::Committed)) => "it has left; the agents have met again, and its pages follow".into(),
        (Way::Out, Some(State::Complete)) => {
            forget(store, way, domain)?;
            "it has left; the other host has all of it, and its memory here is free again".into()
        }
        (Way::In, Some(State::Running)) => "it runs here; the agents have met again, and its pages follow".into(),
        (Way::In, Some(State::Complete)) => {
            forget(store, way, domain)?;
            "it is here, and nothing of it is missing".into()
        }
        (Way::Out, Some(State::Failed { reason })) if [reason::HERE, reason::REVOKED].contains(&reason.as_str()) => {
            forget(store, way, domain)?;
            match store.resume(domain) {
                Ok(()) => format!("{reason}; xenstored has been told"),
                Err(error) => format!("{reason}, but will not suspend again: {error}"),
            }
        }
        (_, Some(State::Failed { reason })) if reason == reason::GONE => {
            forget(store, way, domain)?;
            "it is gone; nothing is left to recover".into()
        }
        (_, Some(State::Failed { reason })) => reason,
        (Way::Out, Some(_)) => {
            "it has left; its pages stay here until the other host's agent calls, whenever that is".into()
        }
        (Way::In, Some(_)) => "the other host's agent cannot be reached yet; this one goes on calling".into(),
    })
}

fn node(way: Way, domain: u16) -> String {
    format!("{KEPT}/{way}/{domain}")
}

/// The node of the helper that follows the migration: its process, and what that is called.
fn helper(way: Way, domain: u16) -> String {
    format!("{}/helper", node(way, domain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeStore;

    const HOME: &str = "/local/domain/1/data/tsmc";

    /// What `tsmc recover` says when the agent answers the one note that is kept with `state`.
    fn told(way: Way, state: &str) -> (FakeStore, Xenstore, String) {
        let (agent, mut store) = FakeStore::with_agent();
        agent.set(&format!("/tool/tsmc/{way}/5"), "00ff");
        let recovering = thread::spawn(move || {
            let told = recover(&mut store, None).map_err(|refusal| refusal.to_string());
            (store, told)
        });
        let (name, request) = agent.wait_for(&format!("{HOME}/request"), &format!("{way}-5-"));
        assert_eq!(request, "recover note=00ff");
        agent.set(&format!("{HOME}/session/{name}/state"), state);
        let (store, told) = recovering.join().expect("no panic");
        (agent, store, told.expect("an answer"))
    }

    #[test]
    fn a_guest_that_is_back_is_announced_to_xenstored() {
        let (agent, mut store, text) = told(Way::Out, &format!("failed reason={}", reason::HERE));
        assert_eq!(text, "domain 5: the guest has not left: it runs here; xenstored has been told\n");
        assert_eq!(agent.resumed(), ["5"]);
        assert_eq!(recover(&mut store, None).expect("an answer"), "nothing to recover\n");
    }

    #[test]
    fn a_guest_whose_pages_still_follow_stays_noted() {
        let (agent, mut store, text) = told(Way::In, "running");
        assert!(text.contains("its pages follow"), "{text}");
        assert_eq!(agent.resumed(), [""; 0]);
        assert_eq!(store.read("/tool/tsmc/in/5").expect("an answer").as_deref(), Some("00ff"));
    }

    #[test]
    fn a_migration_that_a_helper_follows_is_left_to_it() {
        let (agent, mut store) = FakeStore::with_agent();
        agent.set("/tool/tsmc/out/5", "00ff");
        let us = std::process::id();
        agent.set("/tool/tsmc/out/5/helper", &format!("{us} {}", program(us)));
        let text = recover(&mut store, None).expect("an answer");
        assert_eq!(text, "domain 5: its migration is under way, and its helper sees to it\n");
        agent.set("/tool/tsmc/out/5/helper", &format!("{us} something-else"));
        assert!(!is_followed(&mut store, Way::Out, 5).expect("an answer"));
    }

    #[test]
    fn a_guest_that_arrived_whole_is_not_taken_up_again() {
        let (agent, mut store) = FakeStore::with_agent();
        agent.set("/tool/tsmc/in/5", "00ff");
        agent.set(&format!("{HOME}/session/in-5-0a0a0a0a/note"), "00ff");
        agent.set(&format!("{HOME}/session/in-5-0a0a0a0a/state"), "complete");
        let text = recover(&mut store, None).expect("an answer");
        assert_eq!(text, "domain 5: it is here, and nothing of it is missing\n");
        assert_eq!(store.list(&format!("{HOME}/request")).expect("a list"), [""; 0]);
        assert_eq!(recover(&mut store, None).expect("an answer"), "nothing to recover\n");
    }

    #[test]
    fn what_the_agent_has_completed_is_tidied_away_and_nothing_else() {
        let (fake, mut store) = FakeStore::with_agent();
        let agent = Agent::find(&mut store).expect("an agent");
        for (way, domain, state) in [("out", 5, "complete"), ("in", 6, "running"), ("out", 7, "failed reason=x")] {
            fake.set(&format!("/tool/tsmc/{way}/{domain}"), "00ff");
            fake.set(&format!("{HOME}/session/{way}-{domain}-0a0a0a0a/note"), "00ff");
            fake.set(&format!("{HOME}/session/{way}-{domain}-0a0a0a0a/state"), state);
        }
        fake.set("/tool/tsmc/in/5", "00ff");
        tidy(&mut store, &agent).expect("tidied");
        let left: Vec<_> = kept(&mut store).expect("notes").into_iter().map(|(way, domain, _)| (way, domain)).collect();
        assert_eq!(left, [(Way::Out, 7), (Way::In, 5), (Way::In, 6)]);
    }

    #[test]
    fn the_note_of_the_next_life_takes_the_place_of_the_last_one_s() {
        let (agent, mut store) = FakeStore::with_agent();
        agent.set("/tool/tsmc/in/5", "00ff");
        let recovering = thread::spawn(move || recover(&mut store, None).map(|_| store).expect("an answer"));
        let (name, _) = agent.wait_for(&format!("{HOME}/request"), "in-5-");
        agent.set(&format!("{HOME}/session/{name}/note"), "11ee");
        agent.set(&format!("{HOME}/session/{name}/state"), "running");
        let mut store = recovering.join().expect("no panic");
        assert_eq!(store.read("/tool/tsmc/in/5").expect("an answer").as_deref(), Some("11ee"));
        agent.set(&format!("{HOME}/session/{name}/state"), "complete");
        assert_eq!(
            recover(&mut store, None).expect("an answer"),
            "domain 5: it is here, and nothing of it is missing\n"
        );
    }

    #[test]
    fn a_guest_is_discarded_if_the_agent_agrees() {
        for (state, expected) in [
            ("complete", Ok("domain 5: what was kept of it is discarded, and its memory is free again\n")),
            ("failed reason=the guest has not left this host", Err("the guest has not left this host")),
        ] {
            let (agent, mut store) = FakeStore::with_agent();
            agent.set("/tool/tsmc/out/5", "00ff");
            let discarding = thread::spawn(move || discard(&mut store, 5).map_err(|refusal| refusal.to_string()));
            let (name, request) = agent.wait_for(&format!("{HOME}/request"), "out-5-");
            assert_eq!(request, "discard domain=5");
            agent.set(&format!("{HOME}/session/{name}/state"), state);
            let said = discarding.join().expect("no panic");
            assert_eq!(said.as_deref().map_err(String::as_str), expected);
            assert_eq!(agent.has("/tool/tsmc/out/5"), expected.is_err());
        }
    }

    #[test]
    fn what_is_over_is_forgotten() {
        for (way, state) in
            [(Way::Out, "complete"), (Way::In, "complete"), (Way::Out, "failed reason=the guest is gone")]
        {
            let (_agent, mut store, text) = told(way, state);
            assert!(text.starts_with("domain 5: it "), "{text}");
            assert_eq!(store.read(&node(way, 5)).expect("an answer"), None);
        }
    }
}
