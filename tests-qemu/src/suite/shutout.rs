//! dom0 as an attacker: at every stage of a migration, at both ends, on the guest, on the agents and on the host itself.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use common::control::State;
use tests_qemu::exec::Dom0;

use super::brake::Brake;
use super::crossings::assert_held;
use super::fixture::Fixture;
use crate::mode::Mode;
use crate::scenario::agents::{AGENT_NAME, domain_id};
use crate::scenario::guest::{self, Guest, Label, Workload};
use crate::scenario::testbed::{A, B};

/// An ordinary guest, on which the same attacks succeed.
const ORDINARY: &str = "ordinary";

/// The name that `xl migrate-receive` gives the arriving domain.
const INCOMING: &str = "guest--incoming";

/// How the hypervisor answers when a domain is gone.
const NO_SUCH_DOMAIN: &str = "(os error 3)";

/// What dom0 may do to an ordinary guest, so that the refusals elsewhere mean something.
const WORKS_ON_ORDINARY: [&str; 10] = [
    "map a page",
    "map its grant table",
    "grant itself a page",
    "read its registers",
    "set its registers",
    "read its machine state",
    "find its RAM",
    "read its dirty log",
    "put its grant table where it can be mapped",
    "read a parameter",
];

/// The stages in which each end must have been attacked.
const STAGES: [&str; 7] = ["A running", "A copying", "A committed", "A agent", "B inbound", "B running", "B agent"];

/// Every attack is refused at every stage, also while the guest arrives on a host that builds no guests itself.
pub fn whole_way(fixture: &mut Fixture) -> Result<()> {
    let mut guest = Guest::demo(fixture.artifacts(), Label::Private);
    guest.memory_mib = 160;
    // So much is dirty at the switch that there is time in stage 3.
    guest.load = Workload::new(48, 6000);
    fixture.agents()?;
    let (dom0_a, dom0_b) = (fixture.hosts()?.dom0(A), fixture.hosts()?.dom0(B));
    on_ordinary(fixture, &dom0_a)?;

    fixture.start_guest(A, &guest)?;
    lock_down(&dom0_a, &["--seal-agent"])?;
    lock_down(&dom0_b, &["--seal-agent", "--arrivals-only"])?;
    for (dom0, letter) in [(&dom0_a, A.letter), (&dom0_b, B.letter)] {
        all_refused(&format!("{letter} host"), &attack(dom0, &["host"])?)?;
        let again = dom0.run(&["flask-set-bool", "tsmc_locked", "0"])?;
        ensure!(!again.success(), "the lockdown of {letter} can be undone");
    }
    let leaving = domain_id(&dom0_a, guest::NAME)?.context("the guest is not on A")?;

    let seen = Seen::default();
    seen.attack("A running", &dom0_a, leaving, &[]);
    let brake = Brake::new(&fixture.hosts()?.run.namespace);
    let last = Mutex::new(None);
    let (_, report) = fixture.migrate(&guest, (A, B), Mode::TSMC, &|source, target| {
        if source.state == Some(State::Suspend) {
            brake.pull();
        }
        let now = Some((source.state.as_ref().map(name), target.state.as_ref().map(name)));
        if std::mem::replace(&mut *last.lock().unwrap_or_else(PoisonError::into_inner), now) != now {
            match now.and_then(|(source, _)| source) {
                Some("committed") => seen.attack("A committed", &dom0_a, leaving, &["away"]),
                Some("suspend") => seen.attack("A suspend", &dom0_a, leaving, &[]),
                Some("copying") => {
                    seen.attack("A copying", &dom0_a, leaving, &[]);
                    seen.attack_named("A agent", &dom0_a, AGENT_NAME);
                    seen.attack_named("B agent", &dom0_b, AGENT_NAME);
                }
                _ => {}
            }
        }
        match target.state.as_ref().map(name) {
            Some("built" | "ready") if !seen.has("B inbound") => seen.attack_named("B inbound", &dom0_b, INCOMING),
            // The name comes a moment after the state.
            Some("running") if !seen.has("B running") => seen.attack_named("B running", &dom0_b, guest::NAME),
            Some("running") => brake.release(),
            _ => {}
        }
    })?;
    assert_held(&report)?;
    seen.attack_named("B complete", &dom0_b, guest::NAME);
    seen.verdict()?;
    // A locked host is of no use to other tests.
    fixture.spoil();
    Ok(())
}

/// The same attacks where they must succeed: a test that cannot fail proves nothing.
fn on_ordinary(fixture: &Fixture, dom0: &Dom0) -> Result<()> {
    let mut ordinary = Guest::demo(fixture.artifacts(), Label::Ordinary);
    ordinary.memory_mib = 160;
    ordinary.create_paused(dom0, ORDINARY)?;
    let domain = domain_id(dom0, ORDINARY)?.context("no ordinary guest")?.to_string();
    let attempts = attack(dom0, &["domain", &domain])?;
    let host = attack(dom0, &["host"])?;
    dom0.run(&["xl", "destroy", ORDINARY])?;
    for what in WORKS_ON_ORDINARY {
        let attempt = attempts.iter().find(|attempt| attempt.what == what);
        ensure!(attempt.is_some_and(|attempt| !attempt.refused), "'{what}' is refused on an ordinary guest too");
    }
    // A domain with the agent's final label can never be made.
    if let Some(attempt) = host.iter().find(|attempt| attempt.refused && attempt.what != "make an agent") {
        bail!("before the lockdown dom0 is refused: {}", attempt.line);
    }
    println!("on an ordinary guest, and on the host before the lockdown, the attacks work");
    Ok(())
}

pub(super) fn lock_down(dom0: &Dom0, options: &[&str]) -> Result<String> {
    let output = dom0.run(&[&["tsmc", "lockdown"], options].concat())?;
    ensure!(output.success(), "tsmc lockdown: {}", String::from_utf8_lossy(&output.stderr));
    println!("{}", output.text());
    Ok(output.text())
}

/// One thing that dom0 tried.
pub(super) struct Attempt {
    what: String,
    pub(super) refused: bool,
    pub(super) line: String,
}

/// Runs the attack program; of a domain that ended meanwhile there are the attempts before its end.
pub(super) fn attack(dom0: &Dom0, arguments: &[&str]) -> Result<Vec<Attempt>> {
    let output = dom0.run(&[&["dom0-attack"], arguments].concat())?;
    ensure!(output.success(), "dom0-attack: {}", String::from_utf8_lossy(&output.stderr));
    let text = output.text();
    let is_gone = text.lines().last() == Some("gone");
    let too_late = |line: &str| is_gone && (line == "gone" || line.ends_with(NO_SUCH_DOMAIN));
    let attempts = text.lines().filter(|line| !too_late(line)).map(|line| Attempt {
        what: line.split('\t').nth(1).unwrap_or_default().to_owned(),
        refused: line.starts_with("refused\t"),
        line: line.replace('\t', " "),
    });
    Ok(attempts.collect())
}

pub(super) fn all_refused(stage: &str, attempts: &[Attempt]) -> Result<()> {
    let open: Vec<&str> =
        attempts.iter().filter(|attempt| !attempt.refused).map(|attempt| attempt.line.as_str()).collect();
    ensure!(open.is_empty(), "{stage}: not refused: {}", open.join("; "));
    println!("{stage}: {} attacks, all refused", attempts.len());
    Ok(())
}

/// The stages that were attacked, and what went wrong.
#[derive(Default)]
struct Seen(Mutex<(BTreeSet<String>, Vec<String>)>);

impl Seen {
    fn attack(&self, stage: &str, dom0: &Dom0, domain: u32, more: &[&str]) {
        let domain = domain.to_string();
        let outcome = attack(dom0, &[&["domain", &domain], more].concat()).and_then(|attempts| {
            all_refused(stage, &attempts)?;
            Ok(!attempts.is_empty())
        });
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(true) => drop(seen.0.insert(stage.to_owned())),
            // It ended meanwhile.
            Ok(false) => {}
            Err(error) => seen.1.push(format!("{error:#}")),
        }
    }

    fn has(&self, stage: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.contains(stage)
    }

    /// Does nothing if no domain has this name now.
    fn attack_named(&self, stage: &str, dom0: &Dom0, name: &str) {
        if let Ok(Some(domain)) = domain_id(dom0, name) {
            self.attack(stage, dom0, domain, &[]);
        }
    }

    fn verdict(self) -> Result<()> {
        let (stages, open) = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        ensure!(open.is_empty(), "{}", open.join("\n"));
        println!("attacked at: {}", stages.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
        let missed: Vec<&str> = STAGES.into_iter().filter(|stage| !stages.contains(*stage)).collect();
        ensure!(missed.is_empty(), "never attacked at: {}", missed.join(", "));
        Ok(())
    }
}

/// The first word of a state.
fn name(state: &State) -> &'static str {
    match state {
        State::Copying => "copying",
        State::Suspend => "suspend",
        State::Committed => "committed",
        State::Built { .. } => "built",
        State::Ready => "ready",
        State::Running => "running",
        _ => "another",
    }
}
