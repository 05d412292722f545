//! What every fault test begins with, and what it must leave: exactly one guest that runs, whole, and nothing else.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tests_qemu::exec::{Dom0, Request};

use super::super::fixture::Fixture;
use super::attempt::{Attempt, LIMIT, Moment};
use crate::mode::Mode;
use crate::network::Place;
use crate::scenario::agents::AGENT_NAME;
use crate::scenario::guest;
use crate::scenario::testbed::SHELL;
use crate::scenario::{migration, sessions};
use crate::trouble::{Between, Trouble};

/// What the link carries when stage 1 is to last: 750 pages a second.
const SLOW_KBIT: u32 = 24_000;
/// What it carries when stage 3 is to last until the test has had its look: 60 pages a second.
const CRAWL_KBIT: u32 = 2_000;

/// A guest that runs on one host, and an agent on each.
pub struct Scene<'a> {
    /// The hosts.
    pub fixture: &'a mut Fixture,
    /// Where the guest runs.
    pub from: &'static Place,
    /// Where it is to go.
    pub to: &'static Place,
}

impl<'a> Scene<'a> {
    /// Sets the scene, with the guest that the last test has left where there is one.
    pub fn set(fixture: &'a mut Fixture) -> Result<Self> {
        fixture.agents()?;
        let (_, (from, to)) = fixture.take_guest()?;
        Ok(Self { fixture, from, to })
    }

    /// The name of the hosts' network.
    pub fn network(&self) -> Result<&str> {
        Ok(&self.fixture.testbed()?.run.namespace)
    }

    /// The dom0 of a host.
    pub fn dom0(&self, place: &Place) -> Result<Dom0> {
        Ok(self.fixture.testbed()?.dom0(place))
    }

    /// Starts a migration.
    pub fn attempt(&self) -> Result<Attempt> {
        self.attempt_by(&migration::request(guest::NAME, self.to, SHELL, Mode::TSMC))
    }

    /// Starts a migration by this command.
    pub fn attempt_by(&self, request: &Request) -> Result<Attempt> {
        Attempt::start(self.fixture, (self.from, self.to), request)
    }

    /// Cuts the link between the agents.
    pub fn cut(&self) -> Result<Trouble> {
        Trouble::cut(self.network()?, Between::Agents)
    }

    /// Slows down what the source's agent sends.
    fn slow(&self, kbit: u32) -> Result<Trouble> {
        Trouble::slow(self.network()?, self.from, self.to, kbit)
    }

    /// Lets stage 3 last.
    pub fn crawl(&self) -> Result<Trouble> {
        self.slow(CRAWL_KBIT)
    }

    /// Starts a migration and lets it come to stage 1, in which it is slow.
    pub fn copying(&self) -> Result<(Attempt, Trouble)> {
        self.copying_by(&migration::request(guest::NAME, self.to, SHELL, Mode::TSMC))
    }

    /// The same by this command.
    pub fn copying_by(&self, request: &Request) -> Result<(Attempt, Trouble)> {
        let slow = self.slow(SLOW_KBIT)?;
        let attempt = self.attempt_by(request)?;
        attempt.reach(Moment::Copying)?;
        Ok((attempt, slow))
    }

    /// Starts a migration and lets it come to the suspend, and not to the commit: the guest runs nowhere, and the link
    /// between the agents is cut before the target can say that it is ready.
    pub fn suspended(&self) -> Result<(Attempt, Trouble)> {
        let (attempt, slow) = self.copying()?;
        // While the helper is stopped, nobody suspends the guest.
        signal(&attempt.dom0, "STOP", SAVE_HELPER)?;
        drop(slow);
        attempt.reach(Moment::Suspend)?;
        let cut = self.cut()?;
        signal(&attempt.dom0, "CONT", SAVE_HELPER)?;
        let begun = Instant::now();
        while domains(&attempt.dom0)?.iter().any(Domain::is_runnable) {
            ensure!(begun.elapsed() < LIMIT, "the guest does not suspend");
        }
        Ok((attempt, cut))
    }

    /// Starts a migration and lets it come to stage 3, of which most is still to come: the link is slow.
    pub fn stage_3(&self) -> Result<(Attempt, Trouble)> {
        let attempt = self.attempt()?;
        attempt.reach(Moment::Suspend)?;
        let slow = self.crawl()?;
        attempt.reach(Moment::Running)?;
        Ok((attempt, slow))
    }

    /// Fails unless exactly one guest runs, on `place`, and all of its memory is as it must be. Nothing of it is on the
    /// other host.
    pub fn runs_only_on(&self, place: &Place) -> Result<()> {
        self.runs_on(place)?;
        self.wait_empty(if place == self.from { self.to } else { self.from })
    }

    /// Waits until a host has no guest, and nothing of one.
    pub fn wait_empty(&self, place: &Place) -> Result<()> {
        let begun = Instant::now();
        loop {
            let left = domains(&self.dom0(place)?)?;
            if left.is_empty() {
                return Ok(());
            }
            ensure!(begun.elapsed() < LIMIT, "left behind on {}: {left:?}", place.letter);
        }
    }

    /// Waits until no agent has a session that goes on.
    pub fn wait_idle(&self) -> Result<()> {
        for place in [self.from, self.to] {
            let begun = Instant::now();
            loop {
                let mut left = sessions::now(&self.dom0(place)?)?;
                left.retain(|(_, session)| !session.is_over());
                if left.is_empty() {
                    break;
                }
                ensure!(begun.elapsed() < LIMIT, "sessions go on on {}: {left:?}", place.letter);
            }
        }
        Ok(())
    }

    /// Memory of a host that nobody has or has claimed, MiB.
    pub fn free_mib(&self, place: &Place) -> Result<u32> {
        let free = self.dom0(place)?.run(&["xl", "info", "free_memory"])?.text();
        free.trim().parse().context("xl info prints a number")
    }

    /// Fails unless exactly one guest runs, on `place`, and all of its memory is as it must be.
    pub fn runs_on(&self, place: &Place) -> Result<()> {
        let begun = Instant::now();
        let mut writes = None;
        loop {
            // A guest may cross while it is looked for, and would be seen twice if the source came first.
            let there = domains(&self.dom0(self.to)?)?;
            let here = domains(&self.dom0(self.from)?)?;
            let runnable = |domains: &[Domain]| domains.iter().filter(|domain| domain.is_runnable()).count();
            let found = || format!("{here:?} on {}, {there:?} on {}", self.from.letter, self.to.letter);
            ensure!(runnable(&here) + runnable(&there) <= 1, "two guests run: {}", found());
            let answered = guest::status_now().map(|status| status.writes);
            let runs_here = runnable(if place == self.from { &here } else { &there }) == 1;
            if runs_here && writes.is_some() && answered > writes {
                break;
            }
            ensure!(begun.elapsed() < LIMIT, "the guest does not run on {}: {}", place.letter, found());
            writes = writes.or(answered);
        }
        let check = guest::load()?.check()?;
        ensure!(check.errors == 0, "{} of {} pages of the guest are wrong", check.errors, check.pages);
        println!("one guest runs, on {}; {} pages checked", place.letter, check.pages);
        Ok(())
    }

    /// Migrates the guest undisturbed: nothing is left of what was before that is in the way.
    pub fn crosses(&mut self) -> Result<()> {
        let mut attempt = self.attempt()?;
        attempt.reach(Moment::Complete)?;
        let ended = attempt.ended()?;
        ensure!(ended.status == 0, "xl migrate exits with {}", ended.status);
        self.runs_only_on(self.to)?;
        // The next test begins with it.
        self.fixture.set_resident(self.to);
        Ok(())
    }

    /// The same from the host to which the guest has gone.
    pub fn returns(&mut self) -> Result<()> {
        std::mem::swap(&mut self.from, &mut self.to);
        self.crosses()
    }

    /// Fails unless `tsmc status` on `place` has this migration in this state, with these words.
    pub fn says(&self, place: &Place, attempt: &Attempt, state: &str, words: &[&str]) -> Result<()> {
        let (source, target) = attempt.names();
        let name = if place == self.from { source } else { target };
        let name = name.with_context(|| format!("the agent on {} knows no session", place.letter))?;
        let output = self.dom0(place)?.run(&["tsmc", "status"])?;
        ensure!(output.success(), "tsmc status: {}", String::from_utf8_lossy(&output.stderr));
        let text = output.text();
        let row = text.lines().find(|line| line.starts_with(&name)).unwrap_or_default();
        println!("tsmc status on {}: {row}", place.letter);
        ensure!(row.contains(&format!(" {state} ")), "tsmc status does not say {state}:\n{text}");
        ensure!(words.iter().all(|word| row.contains(word)), "tsmc status says nothing of {words:?}: {row}");
        Ok(())
    }

    /// Ends the agent of a host, as a crash would.
    pub fn kill_agent(&self, place: &Place) -> Result<()> {
        let output = self.dom0(place)?.run(&["xl", "destroy", AGENT_NAME])?;
        ensure!(output.success(), "xl destroy of the agent: {}", String::from_utf8_lossy(&output.stderr));
        println!("the agent on {} is dead", place.letter);
        Ok(())
    }

    /// What an operator does on a host when a migration has not ended by itself.
    pub fn recover(&self, place: &Place) -> Result<()> {
        let output = self.dom0(place)?.run_within(&["tsmc", "recover"], LIMIT)?;
        let said = String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
        println!("tsmc recover on {}: {said}", place.letter);
        ensure!(output.status == 0, "tsmc recover on {} fails: {said}", place.letter);
        Ok(())
    }
}

/// A domain that is neither dom0 nor an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name; that of one that has left is `(null)`.
    pub name: String,
    /// Its number.
    pub number: u32,
    /// The memory that it has, MiB.
    pub memory_mib: u32,
    state: String,
}

impl Domain {
    /// Whether it has crashed.
    pub fn has_crashed(&self) -> bool {
        self.state.contains('c')
    }

    /// Whether somebody holds it by a pause count.
    pub fn is_paused(&self) -> bool {
        self.state.contains('p')
    }

    /// Whether its processors may run: it is not paused, suspended, crashed or dying.
    pub fn is_runnable(&self) -> bool {
        !self.state.contains(['p', 's', 'c', 'd'])
    }
}

/// The guests of a host, by `xl list`.
pub fn domains(dom0: &Dom0) -> Result<Vec<Domain>> {
    let list = dom0.run(&["xl", "list"])?.text();
    let mut domains = Vec::new();
    for line in list.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, number, memory, _, state, _] = words[..] else { bail!("xl list prints: {line}") };
        if name != "Domain-0" && name != AGENT_NAME {
            let [number, memory_mib] = [number, memory].map(str::parse);
            let (number, memory_mib) =
                number.and_then(|number| Ok((number, memory_mib?))).context("xl list prints numbers")?;
            domains.push(Domain { name: name.to_owned(), number, memory_mib, state: state.to_owned() });
        }
    }
    Ok(domains)
}

/// The save helper of the sending side, as its command line begins.
pub const SAVE_HELPER: &str = "/usr/lib/tsmc/tsmc-save-helper --save-domain";
/// The process that follows a migration, and lends the guest where that has to be.
pub const FOLLOWER: &str = "/usr/lib/tsmc/tsmc-save-helper --follow out";
/// The save helper of the receiving side.
pub const RESTORE_HELPER: &str = "/usr/lib/tsmc/tsmc-save-helper --restore-domain";
/// `xl` of the sending side.
pub const SENDER: &str = "xl migrate ";
/// `xl` of the receiving side.
pub const RECEIVER: &str = "xl migrate-receive";

/// The name of a guest that is still arriving.
pub const INCOMING: &str = "guest--incoming";

/// Sends a signal to the process in dom0 whose command line begins like this. There must be one.
pub fn signal(dom0: &Dom0, signal: &str, command: &str) -> Result<()> {
    signal_group(dom0, signal, command, "")
}

/// The same to its whole group, as a terminal does when somebody types Ctrl-C.
pub fn interrupt(dom0: &Dom0, command: &str) -> Result<()> {
    signal_group(dom0, "INT", command, "-")
}

fn signal_group(dom0: &Dom0, signal: &str, command: &str, sign: &str) -> Result<()> {
    let line = format!(
        "ps -o pid,args | {{ while read -r pid args; do case \"$args\" in '{command}'*) kill -{signal} {sign}$pid && found=1;; \
         esac; done; [ -n \"$found\" ]; }}"
    );
    let output = dom0.sh(&line)?;
    ensure!(
        output.success(),
        "no process '{command}' to send SIG{signal}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!("SIG{signal} to {command}");
    Ok(())
}
