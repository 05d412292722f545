//! One `xl migrate` whose course the test steers: it waits for a moment, strikes, and sees what comes of it.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use common::control::State;
use tests_qemu::exec::{self, Dom0, Event, Request, Running};

use super::super::fixture::Fixture;
use crate::network::Place;
use crate::scenario::migration;
use crate::scenario::sessions::{Follower, Session};

/// How long anything may take that is not waited for by design.
pub const LIMIT: Duration = Duration::from_secs(90);

/// How often the agents' reports are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A migration under way.
pub struct Attempt {
    source: Follower,
    target: Follower,
    /// The dom0 that the guest leaves.
    pub dom0: Dom0,
    xl: Option<JoinHandle<Result<Ended, exec::Error>>>,
}

/// How `xl migrate` ended.
pub struct Ended {
    /// Its exit status.
    pub status: i32,
    /// All that it printed, in order.
    pub printed: String,
}

/// A moment in a migration at which something can be done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The source waits for the target's agent.
    Listening,
    /// Stage 1 runs: some pages have crossed.
    Copying,
    /// The toolstack is asked to suspend the guest.
    Suspend,
    /// The source has committed and the target has released the guest.
    Running,
    /// After the commit, the agents have lost each other.
    Interrupted,
    /// The source's agent has given up: the guest belongs to the source.
    Failed,
    /// Both agents are done.
    Complete,
}

impl Moment {
    fn is_now(self, source: &Session, target: &Session) -> bool {
        let (from, to) = (source.state.as_ref(), target.state.as_ref());
        let copies = |session: &Session| session.progress.is_some_and(|progress| progress.done > 0);
        match self {
            Self::Listening => matches!(from, Some(State::Listening { .. })),
            Self::Copying => from == Some(&State::Copying) && copies(source),
            Self::Suspend => from == Some(&State::Suspend),
            Self::Running => from == Some(&State::Committed) && to == Some(&State::Running),
            Self::Interrupted => [from, to].iter().all(|state| matches!(state, Some(State::Interrupted { .. }))),
            Self::Failed => matches!(from, Some(State::Failed { .. })),
            Self::Complete => source.is_complete() && target.is_complete(),
        }
    }
}

impl Attempt {
    /// Starts `request`, an `xl migrate` from one place to the other.
    pub fn start(fixture: &Fixture, (from, to): (&Place, &Place), request: &Request) -> Result<Self> {
        let (source, target) = (Follower::start(fixture.agent(from)?)?, Follower::start(fixture.agent(to)?)?);
        let dom0 = fixture.testbed()?.dom0(from);
        println!("{} in dom0 of {}", request.argv.join(" "), from.letter);
        let mut request = request.clone();
        migration::verify(&mut request);
        let running = dom0.start(&request)?;
        Ok(Self { source, target, dom0, xl: Some(std::thread::spawn(move || listen(running))) })
    }

    /// What the source's and the target's agent say of it now.
    pub fn sessions(&self) -> (Session, Session) {
        let of = |follower: &Follower, way| follower.session_of(way).map(|(_, session)| session).unwrap_or_default();
        (of(&self.source, "out-"), of(&self.target, "in-"))
    }

    /// The session's name at the source and at the target, where it has begun.
    pub fn names(&self) -> (Option<String>, Option<String>) {
        let of = |follower: &Follower, way| follower.session_of(way).map(|(name, _)| name);
        (of(&self.source, "out-"), of(&self.target, "in-"))
    }

    /// Whether both agents are done with it, well or not.
    pub fn is_over(&self) -> bool {
        let (source, target) = self.sessions();
        source.is_over() && target.is_over()
    }

    /// Waits for a moment.
    pub fn reach(&self, moment: Moment) -> Result<()> {
        self.wait(&format!("{moment:?}"), |source, target| moment.is_now(source, target))
    }

    /// Waits until `is_so` of the source's and the target's session.
    pub fn wait(&self, what: &str, is_so: impl Fn(&Session, &Session) -> bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            let (source, target) = self.sessions();
            if is_so(&source, &target) {
                println!("{what} after {:.1} s", begun.elapsed().as_secs_f64());
                return Ok(());
            }
            if begun.elapsed() > LIMIT || source.is_over() && target.is_over() {
                let states =
                    [source.state, target.state].map(|state| state.map_or("nothing".into(), |s| s.to_string()));
                bail!("never came to: {what}. The source's agent says {}, the target's {}", states[0], states[1]);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for the end of `xl`.
    pub fn ended(&mut self) -> Result<Ended> {
        let xl = self.xl.take().context("xl has been waited for")?;
        let ended = xl.join().ok().context("the listener to xl died")?.context("xl migrate")?;
        println!("{}xl migrate exits with {}", ended.printed, ended.status);
        Ok(ended)
    }
}

fn listen(running: Running) -> Result<Ended, exec::Error> {
    let mut printed = String::new();
    let output = running.finish_with(Some(2 * LIMIT), |event| {
        if let Event::Stdout(bytes) | Event::Stderr(bytes) = event {
            printed.push_str(&String::from_utf8_lossy(bytes));
        }
    })?;
    Ok(Ended { status: output.status, printed })
}
