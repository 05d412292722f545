//! The follower: a process that sees a migration through after its save helper has ended, or was killed.
//!
//! libxl goes on only when its helper is gone, and by then a guest may still come back, or not have been started yet. So each
//! helper leaves a detached process behind, until it is clear on which host the guest runs. It
//!
//! - lends this host's agent the guest, where the agent has no right of its own ([`crate::broker`]), from the beginning to the end;
//! - makes a guest whole that comes back: its suspend is announced anew, its name and its monitor are given back;
//! - ends the copy of a guest that arrived and was not started because `xl` was killed: such a guest comes back, too;
//! - has the next agent take the guest up when this host's agent dies.
//!
//! Should it be killed, the watchdog does the same, or the next helper, or `tsmc recover`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::DomId;

use crate::agents::{Agent, Session, Way};
use crate::broker::Broker;
use crate::kept::End;
use crate::print;
use crate::process::Process;
use crate::recover::{self, Became};
use crate::refusal::Refusal;
use crate::xenstore::Xenstore;

/// The helper's first word when it is to follow.
pub const WORD: &str = "--follow";
/// How often to look. Each look costs xenstored a few turns.
const LOOK: Duration = Duration::from_secs(1);
/// How often to look whether the helper has ended: the guest may be waiting for that.
const HELPER: Duration = Duration::from_millis(250);

/// How long what `xl` printed stays open for a line about a guest that comes back.
const PATIENCE: Duration = Duration::from_secs(10);

/// A migration to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follow {
    end: End,
    /// The helper, which sees to the migration as long as it lives.
    helper: Process,
    /// Who asked for the migration, and started the helper.
    toolstack: Process,
}

/// Leaves a follower behind, which has lent the guest by then if that has to be. What libxl opened for this process is closed in every
/// process that it starts from now on.
pub fn start(end: End) -> Result<(), Refusal> {
    let (Some(helper), Some(toolstack)) = (Process::this(), Process::parent()) else {
        return Err(Refusal::System(io::ErrorKind::NotFound.into()));
    };
    close_fds::set_fds_cloexec(3, &[]);
    let words = [end.way.to_string(), end.domain.to_string(), helper.to_string(), toolstack.to_string()];
    // The sending side's operator reads a last line of it. On the other side the transport waits for all who could write.
    let stderr = if end.way == Way::Out { Stdio::inherit() } else { Stdio::null() };
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(WORD).args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    let follower = command.process_group(0).spawn()?;
    // It closes that once it follows; what it says is why it does not.
    let mut said = String::new();
    follower.stdout.map_or(Ok(0), |mut stdout| stdout.read_to_string(&mut said))?;
    if said.is_empty() { Ok(()) } else { Err(Refusal::Agent(said.trim_end().to_owned())) }
}

impl Follow {
    /// What [`start`] passed, without the first word.
    pub fn parse(words: &[String]) -> Option<Self> {
        let [way, domain, helper, toolstack] = words else { return None };
        let end = End { way: way.parse().ok()?, domain: domain.parse().ok()? };
        Some(Self { end, helper: helper.parse().ok()?, toolstack: toolstack.parse().ok()? })
    }

    /// Follows until nothing is left to do. What fails is tried again, over a new connection: nobody else sees to the guest.
    pub fn run(self) {
        let mut lending = Lending { domain: self.end.domain, broker: None };
        if let Err(refusal) = Xenstore::connect().map_err(Refusal::from).and_then(|mut store| lending.begin(&mut store))
        {
            let _ = writeln!(io::stdout(), "{refusal}");
            return;
        }
        let null = File::options().write(true).open("/dev/null");
        let _ = null.map(|null| rustix::stdio::dup2_stdout(&null));
        while self.helper.is_alive() {
            lending.end_with_the_agent();
            thread::sleep(HELPER);
        }
        let mut following = Following::new(self);
        loop {
            if let Ok(mut store) = Xenstore::connect() {
                lending.end_with_the_agent();
                // The next agent needs it as well.
                let _ = lending.begin(&mut store);
                while let Ok(goes_on) = following.look(&mut store) {
                    if !goes_on {
                        return;
                    }
                    thread::sleep(LOOK);
                    if lending.end_with_the_agent() {
                        break;
                    }
                }
                following.session = None;
            }
            thread::sleep(LOOK);
        }
    }

    /// Does what is to be done now; `session` is the one that was found last, since to look for one costs more than to ask it.
    fn attend(self, store: &mut Xenstore, session: &mut Option<Session>, note: &str) -> Result<Became, Refusal> {
        if let Some(session) = session
            && session.state(store)?.is_some()
        {
            if let Some(newer) = session.note(store)?.filter(|newer| newer != note) {
                self.end.keep(store, &newer, None, None)?;
            }
            return recover::see_to(store, session, self.end);
        }
        let agent = match Agent::find(store) {
            Ok(agent) => agent,
            Err(Refusal::NoAgent | Refusal::AgentNotReady { .. }) => return Ok(Became::Open(String::new())),
            Err(refusal) => return Err(refusal),
        };
        *session = recover::session_of(store, &agent, self.end, note)?;
        match session {
            Some(session) => recover::see_to(store, session, self.end),
            None => recover::take_up(store, agent, self.end, note),
        }
    }

    /// The last line that the operator reads of a migration, when `xl` has ended; whether it is said. `at_last`: what becomes of a
    /// guest that may come back is not waited for any longer.
    fn part(self, store: &mut Xenstore, over: Option<&str>, at_last: bool) -> Result<bool, Refusal> {
        let domain = self.end.domain;
        let left = recover::name_of(store, domain)?.is_none();
        match over {
            _ if left && Agent::find(store)?.is_lent_guests(store)? => {
                print::err(format_args!("tsmc: domain {domain} has left this host"));
            }
            _ if left => print::err(format_args!(
                "tsmc: domain {domain} has left this host. libxl's errors about destroying it are expected: the agent keeps its \
                 memory until the other host has all of it ('tsmc status')"
            )),
            Some(words) if !words.is_empty() => print::err(format_args!("tsmc: domain {domain}: {words}")),
            None if !at_last => return Ok(false),
            _ => {}
        }
        // A reader of `xl`'s output may be waiting for its end.
        let null = File::options().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stderr(&null).map_err(io::Error::from)?;
        Ok(true)
    }
}

/// The guest as it is lent to this host's agent, if that needs it.
struct Lending {
    domain: DomId,
    broker: Option<Broker>,
}

impl Lending {
    /// Without an agent nothing is lent: the helper says so itself, or the next agent is waited for.
    fn begin(&mut self, store: &mut Xenstore) -> Result<(), Refusal> {
        if self.broker.is_none()
            && let Ok(agent) = Agent::find(store)
        {
            self.broker = Broker::lend(store, &agent, self.domain)?;
        }
        Ok(())
    }

    /// Undoes what an agent that has died has done to the guest; whether one has.
    fn end_with_the_agent(&mut self) -> bool {
        let is_dead = |broker: &mut Broker| {
            let alive = Xenstore::connect().and_then(|mut store| Agent::is_at(&mut store, broker.agent()));
            alive.is_ok_and(|alive| !alive)
        };
        self.broker.take_if(is_dead).is_some()
    }
}

/// How far a follower is.
struct Following {
    follow: Follow,
    /// Whether it has found something to follow.
    begun: bool,
    /// The session that was found last.
    session: Option<Session>,
    /// What became of the guest, once that is clear.
    over: Option<String>,
    /// Whether the operator's last line is still to be said.
    speaks: bool,
    patience: Duration,
}

impl Following {
    fn new(follow: Follow) -> Self {
        let speaks = follow.end.way == Way::Out;
        Self { follow, begun: false, session: None, over: None, speaks, patience: PATIENCE }
    }

    /// Does what is to be done now; whether anything is left to do later.
    fn look(&mut self, store: &mut Xenstore) -> Result<bool, Refusal> {
        let Follow { end, toolstack, .. } = self.follow;
        if !self.begun {
            match end.note(store)? {
                // Of an earlier migration of the same domain, which has a follower of its own.
                Some(_) if end.is_followed(store)? => return Ok(false),
                Some(note) => end.keep(store, &note, Process::this(), None)?,
                // It has not come so far that anything could be left to do for the guest.
                None => {
                    recover::clear_away(store, end, toolstack)?;
                    return Ok(false);
                }
            }
            self.begun = true;
        }
        if self.over.is_none() {
            self.over = match end.note(store)? {
                Some(note) => match self.follow.attend(store, &mut self.session, &note)? {
                    Became::Open(_) => None,
                    Became::Over(words) => Some(words),
                },
                // Another process has brought it to its end.
                None => Some(String::new()),
            };
        }
        if self.speaks && !toolstack.is_alive() {
            self.speaks = !self.follow.part(store, self.over.as_deref(), self.patience.is_zero())?;
            self.patience = self.patience.saturating_sub(LOOK);
        }
        Ok(self.over.is_none() || self.speaks)
    }
}

#[cfg(test)]
mod tests {
    use common::DomId;

    use super::*;
    use crate::testing::FakeStore;

    const HOME: &str = "/local/domain/1/data/tsmc";

    fn follow(end: End) -> Follow {
        let this = Process::this().expect("it runs");
        Follow { end, helper: this, toolstack: this }
    }

    #[test]
    fn what_is_passed_to_a_follower_is_understood() {
        let follow = follow(End::arriving(DomId(7)));
        let Follow { end, helper, toolstack } = follow;
        let words = [end.way.to_string(), end.domain.to_string(), helper.to_string(), toolstack.to_string()];
        assert_eq!(Follow::parse(&words), Some(follow));
        assert_eq!(Follow::parse(&words[1..]), None);
    }

    #[test]
    fn a_guest_is_followed_from_one_agent_to_the_next_until_it_is_back() {
        let (agent, mut store) = FakeStore::with_agent();
        let follow = follow(End::out(DomId(5)));
        follow.end.keep(&mut store, "00ff", Process::this(), None).expect("kept");
        let following = thread::spawn(move || {
            let mut session = None;
            let mut looks = Vec::new();
            while let Some(note) = follow.end.note(&mut store).expect("an answer") {
                let became = follow.attend(&mut store, &mut session, &note).expect("an answer");
                if looks.last() != Some(&became) {
                    looks.push(became);
                }
            }
            (looks, store)
        });
        // This agent knows nothing of it: the one that had it in hand is gone.
        let (name, request) = agent.wait_for(&format!("{HOME}/request"), "out-5-");
        assert_eq!(request, "recover note=00ff");
        agent.set(&format!("{HOME}/session/{name}/note"), "11ee");
        agent.set(&format!("{HOME}/session/{name}/state"), "committed");
        // It is kept from now on: that session is the one to follow.
        while agent.wait_for("/tool/tsmc/out", "5").1 != "11ee" {
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(Duration::from_millis(100));
        agent.set(&format!("{HOME}/session/{name}/state"), "failed cause=back reason=the guest is back");
        let (looks, _) = following.join().expect("no panic");
        let words: Vec<&str> = looks.iter().map(Became::words).collect();
        assert!(words[0].contains("its pages follow") && words[1].contains("under way"), "{words:?}");
        let became = Became::Over("the guest is back; xenstored has been told".into());
        assert_eq!(looks.last(), Some(&became));
        assert_eq!(agent.resumed(), ["5"]);
    }

    #[test]
    fn a_follower_outlives_an_agent_that_refuses_its_configuration() {
        let (agent, mut store) = FakeStore::start();
        let follow = follow(End::out(DomId(5)));
        follow.end.keep(&mut store, "00ff", None, None).expect("kept");
        agent.set("/local/domain/1/name", "tsmc-agent");
        agent.set(&format!("{HOME}/refused"), "no identity");
        let mut following = Following::new(follow);
        following.look(&mut store).expect_err("nobody to ask");
        agent.remove("/local/domain/1");
        agent.add_agent(9);
        let session = "/local/domain/9/data/tsmc/session/out-5-00000001";
        agent.set(&format!("{session}/note"), "00ff");
        agent.set(&format!("{session}/state"), "complete");
        // The toolstack, this process, may still want to read its last line.
        assert_eq!((following.look(&mut store).expect("an answer"), following.over.is_some()), (true, true));
        assert_eq!(follow.end.note(&mut store).expect("an answer"), None);
    }

    #[test]
    fn a_follower_that_was_interrupted_while_it_began_is_no_other_one() {
        let (_fake, mut store) = FakeStore::start();
        let follow = follow(End::arriving(DomId(5)));
        follow.end.keep(&mut store, "00ff", Process::this(), None).expect("kept");
        assert!(Following::new(follow).look(&mut store).expect("an answer"));
    }

    #[test]
    fn without_an_agent_a_follower_waits() {
        let (_fake, mut store) = FakeStore::start();
        let mut session = None;
        let became = follow(End::out(DomId(5))).attend(&mut store, &mut session, "00ff").expect("an answer");
        assert_eq!((became, session.is_none()), (Became::Open(String::new()), true));
    }
}
