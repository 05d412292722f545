//! Following what an agent reports about its sessions, while it happens.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use common::control::{Progress, ROOT, SESSIONS, State, Summary};
use tests_qemu::exec::{Dom0, Error, Event, Request, Running};

use super::agents::Agent;

/// How long the follower may take to notice that it is to stop.
const PATIENCE: Duration = Duration::from_millis(300);

/// What an agent has said about a session.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Where it stands.
    pub state: Option<State>,
    /// How far the current stage is.
    pub progress: Option<Progress>,
    /// The figures at the end.
    pub summary: Option<Summary>,
}

impl Session {
    /// Whether it ended well.
    pub fn is_complete(&self) -> bool {
        self.state == Some(State::Complete)
    }

    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        self.state.as_ref().is_some_and(State::is_end)
    }
}

type Sessions = BTreeMap<String, Session>;

/// The sessions that this host's agent remembers, with their names; none if there is no agent.
pub fn now(dom0: &Dom0) -> Result<Vec<(String, Session)>> {
    let output = dom0.run(&["tsmc", "status", "--json"])?;
    if !output.success() {
        return Ok(Vec::new());
    }
    let status: serde_json::Value = serde_json::from_str(&output.text()).context("tsmc status --json")?;
    let session = |told: &serde_json::Value| {
        let line = |key: &str| told[key].as_str();
        let session = Session {
            state: line("state").and_then(|line| line.parse().ok()),
            progress: line("progress").and_then(|line| line.parse().ok()),
            summary: line("summary").and_then(|line| line.parse().ok()),
        };
        (line("id").unwrap_or_default().to_owned(), session)
    };
    Ok(status["sessions"].as_array().into_iter().flatten().map(session).collect())
}

/// Follows the sessions of one agent that change from now on. Ends when dropped.
pub struct Follower {
    sessions: Arc<Mutex<Sessions>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Starts to follow `agent`.
    pub fn start(agent: &Agent) -> Result<Self> {
        let root = format!("/local/domain/{}/{ROOT}/{SESSIONS}", agent.domain);
        let running = agent.dom0.start(&Request::new(&["session-watch", &root])).context("cannot follow an agent")?;
        let sessions = Arc::new(Mutex::new(Sessions::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (sessions, stop) = (sessions.clone(), stop.clone());
            std::thread::spawn(move || follow(running, &sessions, &stop))
        };
        Ok(Self { sessions, stop, thread: Some(thread) })
    }

    /// The session that was last begun, since the start, of those whose name begins like this: `out-` leave the host, `in-`
    /// arrive. With its name.
    pub fn session_of(&self, way: &str) -> Option<(String, Session)> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let last = sessions.iter().rfind(|(name, _)| name.starts_with(way));
        last.map(|(name, session)| (name.clone(), session.clone()))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn follow(mut running: Running, sessions: &Mutex<Sessions>, stop: &AtomicBool) {
    let mut pending = String::new();
    while !stop.load(Ordering::Relaxed) {
        match running.next_event(Some(PATIENCE)) {
            Ok(Event::Stdout(bytes)) => pending.push_str(&String::from_utf8_lossy(&bytes)),
            Ok(Event::Exit(_)) => return,
            Ok(_) | Err(Error::Timeout) => {}
            Err(error) => return println!("an agent is followed no longer: {error}"),
        }
        while let Some((line, rest)) = pending.split_once('\n') {
            note(line, &mut sessions.lock().unwrap_or_else(PoisonError::into_inner));
            pending = rest.to_owned();
        }
    }
}

/// Takes in one line: `SESSION NODE VALUE`.
fn note(line: &str, sessions: &mut Sessions) {
    let mut words = line.splitn(3, ' ');
    let (Some(name), Some(node), Some(value)) = (words.next(), words.next(), words.next()) else { return };
    let session = sessions.entry(name.to_owned()).or_default();
    match node {
        "state" => session.state = value.parse().ok(),
        "progress" => session.progress = value.parse().ok(),
        "summary" => session.summary = value.parse().ok(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_put_together_from_lines() {
        let mut sessions = Sessions::new();
        for line in [
            "out-1 state copying",
            "out-1 progress stage=1 done=3 total=9 bytes=5 rate_kib=2",
            "in-2 state failed reason=no memory",
            "odd",
        ] {
            note(line, &mut sessions);
        }
        assert_eq!(sessions.len(), 2);
        assert_eq!(sessions["out-1"].state, Some(State::Copying));
        assert_eq!(sessions["out-1"].progress.map(|progress| progress.done), Some(3));
        assert!(sessions["in-2"].is_over() && !sessions["in-2"].is_complete());
    }
}
