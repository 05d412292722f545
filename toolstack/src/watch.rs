//! dom0's watchdog: keeps the agent's domain running, and logs why it ended.
//!
//! It starts the domain with `xl create`, sleeps until xenstore says that something happened to it, writes down why it
//! ended, and starts the next one. After each start `tsmc recover` tells the new agent what the old one had in hand. An agent that
//! refuses what it was configured with would refuse it again: the watchdog gives up, and says why. When the watchdog itself ends, the
//! agent lives on, and the next watchdog takes it over.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::DomId;
use common::control::{AGENT, REFUSED, ROOT};

use crate::agents::Agent;
use crate::card::{self, CARD_LABEL};
use crate::identity;
use crate::name::AGENT_NAME;
use crate::print;
use crate::recover;
use crate::refusal::Refusal;
use crate::status;
use crate::xenstore::{Xenstore, XenstoreError};

/// Where the agent's domain is described unless told otherwise.
pub const CONFIG_FILE: &str = "/etc/xen/tsmc-agent.cfg";
/// What xenstored says when any domain has shut down or is gone.
const RELEASED: &str = "@releaseDomain";
/// Where xenconsoled keeps what the agent said, if it is told to.
const CONSOLE: &str = "/var/log/xen/console/guest-tsmc-agent.log";
/// How far xenconsoled may be behind.
const CONSOLE_LAG: Duration = Duration::from_millis(500);
/// Lines of it that are shown.
const CONSOLE_LINES: usize = 12;
/// The first wait before a restart.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest: each is twice the one before it, until an agent has served for this long.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// When to say that an agent is not ready yet.
const SOON: Duration = Duration::from_secs(30);
/// How often to look whether `xl destroy` has ended, besides at each step of its PCI device.
const LOOK: Duration = Duration::from_millis(100);
/// How often to look after guests that no process follows.
const TIDY: Duration = Duration::from_secs(5);

/// What to start the agent with.
#[derive(Clone, Copy, Debug)]
pub struct Watch<'a> {
    /// The domain's `xl.cfg`.
    pub config: &'a Path,
    /// The network card that the configuration passes through: made ready for it before each start. `01:00.0`, or with a PCI segment
    /// before it.
    pub card: Option<&'a str>,
    /// Key, peers and module: a fresh module is composed before each start. Without them the configuration names a module, or
    /// says `plain`.
    pub files: Option<identity::Files<'a>>,
}

/// How an agent's domain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// It is not there any more.
    Gone,
    /// It crashed.
    Crashed,
    /// It ended by itself.
    Ended,
    /// It runs, and no longer says that it is ready.
    NotReady,
}

impl Watch<'_> {
    /// Keeps an agent running until that makes no sense any more.
    pub fn run(&self) -> Result<Infallible, Refusal> {
        let mut pause = FIRST_PAUSE;
        loop {
            // A connection for each life: its watches go with it.
            let mut store = Xenstore::connect()?;
            store.watch(RELEASED)?;
            let mut ended = Instant::now();
            let domain = match standing(&mut store)? {
                Some(domain) => {
                    print::out(format_args!("domain {domain} is the agent already"));
                    Some(domain)
                }
                None => self.start(&mut store)?,
            };
            if let Some(domain) = domain {
                let (end, served) = follow(&mut store, domain)?;
                ended = Instant::now();
                remove_ended(&mut store, domain, end)?;
                if served >= LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
            }
            print::out(format_args!("starting it again {} s after it ended", pause.as_secs()));
            std::thread::sleep(pause.saturating_sub(ended.elapsed()));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Starts the agent's domain; nothing if that failed in a way that may pass.
    fn start(&self, store: &mut Xenstore) -> Result<Option<DomId>, Refusal> {
        if let Some(files) = &self.files {
            files.write_module()?;
        }
        let ready = self.card.map_or(Ok(()), make_assignable);
        // Without a monitor (-e), which would remove what is left of a domain that ended: that says why.
        let output = Command::new("xl").args(["create", "-e"]).arg(self.config).output();
        if let Some(files) = &self.files {
            // The builder has read it.
            let _ = fs::remove_file(files.module);
        }
        let output = output?;
        if !output.status.success() {
            if let Err(reason) = ready {
                print::out(format_args!("{reason}"));
            }
            print::out(format_args!("xl create {}: {}", self.config.display(), message(&output)));
            return Ok(None);
        }
        let domain = find(store)?;
        match domain {
            Some(domain) => print::out(format_args!("started domain {domain}")),
            None => print::out(format_args!("{} makes no domain with the name {AGENT_NAME}", self.config.display())),
        }
        Ok(domain)
    }
}

/// Gives a PCI device the label that lets the agent have it, and to dom0's PCI backend. The label is gone after each boot and after
/// each load of a policy. Where the lockdown forbids another label, it is there already: an error counts only if the agent
/// cannot be started.
fn make_assignable(device: &str) -> Result<(), String> {
    let address = if device.matches(':').count() == 1 { format!("0000:{device}") } else { device.to_owned() };
    for command in [&["flask-label-pci", &address, CARD_LABEL][..], &["xl", "pci-assignable-add", device]] {
        let output = Command::new(command[0]).args(&command[1..]).output();
        match output {
            Ok(output) if output.status.success() => {}
            Ok(output) => return Err(format!("{}: {}", command.join(" "), message(&output))),
            Err(error) => return Err(format!("{}: {error}", command[0])),
        }
    }
    Ok(())
}

/// The agent's domain, whatever its condition.
fn find(store: &mut Xenstore) -> Result<Option<DomId>, Refusal> {
    match Agent::find(store) {
        Ok(Agent { domain, .. }) | Err(Refusal::AgentNotReady { domain } | Refusal::AgentRefuses { domain, .. }) => {
            Ok(Some(domain))
        }
        Err(Refusal::NoAgent) => Ok(None),
        Err(other) => Err(other),
    }
}

/// An agent that runs already. What is left of one that ended is removed.
fn standing(store: &mut Xenstore) -> Result<Option<DomId>, Refusal> {
    let Some(domain) = find(store)? else { return Ok(None) };
    match end_of(domain)? {
        None => Ok(Some(domain)),
        Some(end) => remove_ended(store, domain, end).map(|()| None),
    }
}

/// Waits for the end of the agent in `domain`; how it ended, and how long it served.
fn follow(store: &mut Xenstore, domain: DomId) -> Result<(Exit, Duration), Refusal> {
    let node = format!("/local/domain/{domain}/{ROOT}/{AGENT}");
    store.watch(&node)?;
    let begun = Instant::now();
    let mut ready_since: Option<Instant> = None;
    let mut warned = false;
    loop {
        let status = store.read(&node)?;
        let end = end_of(domain)?;
        match (&status, ready_since) {
            _ if end.is_some() => {}
            (Some(status), None) => {
                print::out(format_args!("domain {domain} is {status}"));
                if let Ok(agent) = Agent::find(store) {
                    status::warnings(store, &agent)?.lines().for_each(print::out);
                }
                take_up();
                ready_since = Some(Instant::now());
            }
            (None, Some(since)) => return Ok((Exit::NotReady, since.elapsed())),
            _ => {}
        }
        if let Some(end) = end {
            return Ok((end, ready_since.map_or(Duration::ZERO, |since| since.elapsed())));
        }
        if ready_since.is_some() {
            // Guests whose followers were killed.
            if let Ok(agent) = Agent::find(store)
                && let Err(refusal) = recover::tidy(store, &agent)
            {
                print::out(refusal);
            }
            store.wait_for_change(Some(TIDY))?;
            continue;
        }
        let patience = (!warned).then(|| SOON.saturating_sub(begun.elapsed()));
        if !store.wait_for_change(patience)? {
            warned = true;
            print::out(format_args!("domain {domain} is not ready after {} s; its console says why", SOON.as_secs()));
        }
    }
}

/// Writes down why the agent ended, and removes what is left of its domain. A refusal of its configuration is ours too.
fn remove_ended(store: &mut Xenstore, domain: DomId, end: Exit) -> Result<(), Refusal> {
    let refused = store.read(&format!("/local/domain/{domain}/{ROOT}/{REFUSED}"))?;
    let how = match end {
        Exit::Gone => "is gone: somebody destroyed it",
        Exit::Crashed => "has crashed",
        Exit::Ended => "has ended by itself",
        Exit::NotReady => "runs, but no longer says that it is ready",
    };
    print::out(format_args!("domain {domain} {how}"));
    let seen = Instant::now();
    if end != Exit::Gone {
        destroy(store, domain)?;
    }
    std::thread::sleep(CONSOLE_LAG.saturating_sub(seen.elapsed()));
    if let Ok(console) = fs::read(CONSOLE) {
        tail(&String::from_utf8_lossy(&console)).for_each(|line| print::out(format_args!("    {line}")));
    }
    match refused {
        Some(reason) => Err(Refusal::AgentRefuses { domain, reason }),
        None => Ok(()),
    }
}

/// Destroys a domain that serves no more.
fn destroy(store: &mut Xenstore, domain: DomId) -> Result<(), Refusal> {
    let state = pci_state(domain);
    store.watch(&state)?;
    let mut xl = Command::new("xl");
    let mut running = xl.args(["destroy", &domain.to_string()]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    while running.try_wait()?.is_none() {
        let_go(store, &state)?;
        store.wait_for_change(Some(LOOK))?;
    }
    let output = running.wait_with_output()?;
    if !output.status.success() {
        print::out(format_args!("xl destroy {domain}: {}", message(&output)));
    }
    Ok(())
}

/// Where dom0's PCI backend says how far it is with the domain.
fn pci_state(domain: DomId) -> String {
    format!("{}/state", card::backend(domain))
}

/// libxl waits, ten seconds at a time, until a domain's driver has taken a PCI device over (3) or let go of it (7). The driver of a
/// domain that has ended does neither: the backend is told that it is connected, and libxl goes on.
fn let_go(store: &mut Xenstore, state: &str) -> Result<(), XenstoreError> {
    match store.read(state)?.as_deref() {
        Some("3" | "7") => store.write(state, "4"),
        _ => Ok(()),
    }
}

/// How the domain ended, if it has.
fn end_of(domain: DomId) -> Result<Option<Exit>, Refusal> {
    let output = Command::new("xl").args(["list", &domain.to_string()]).output()?;
    Ok(if output.status.success() { end_in(&String::from_utf8_lossy(&output.stdout)) } else { Some(Exit::Gone) })
}

/// The same from what `xl list` prints: a line of headings, then name, number, memory, processors, state and time. `xl` says a
/// domain's state in no other form.
fn end_in(list: &str) -> Option<Exit> {
    let state = list.lines().nth(1).and_then(|line| line.split_whitespace().rev().nth(1)).unwrap_or_default();
    [('c', Exit::Crashed), ('s', Exit::Ended), ('d', Exit::Gone)]
        .into_iter()
        .find(|(letter, _)| state.contains(*letter))
        .map(|(_, end)| end)
}

/// Tells the agent what an earlier one had in hand.
fn take_up() {
    let outcome = std::env::current_exe().and_then(|tsmc| Command::new(tsmc).arg("recover").output());
    match outcome {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).lines().for_each(print::out),
        Ok(output) => print::out(format_args!("tsmc recover: {}", message(&output))),
        Err(error) => print::out(format_args!("tsmc recover: {error}")),
    }
}

fn tail(text: &str) -> impl Iterator<Item = &str> {
    let count = text.lines().count();
    text.lines().skip(count.saturating_sub(CONSOLE_LINES))
}

/// What a command that failed said.
fn message(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeStore;

    const HEADINGS: &str = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n";

    #[test]
    fn the_end_of_a_domain_is_told_from_its_state() {
        let end = |state| end_in(&format!("{HEADINGS}tsmc-agent        1    32     1     {state}       0.3\n"));
        assert_eq!(end("-b----"), None);
        assert_eq!(end("r-----"), None);
        assert_eq!(end("---sc-"), Some(Exit::Crashed));
        assert_eq!(end("---s--"), Some(Exit::Ended));
        assert_eq!(end("--ps-d"), Some(Exit::Ended));
        assert_eq!(end("-----d"), Some(Exit::Gone));
        assert_eq!(end_in(""), None);
    }

    #[test]
    fn an_agent_is_found_whatever_its_condition() {
        let (fake, mut store) = FakeStore::start();
        assert_eq!(find(&mut store).expect("an answer"), None);
        fake.set("/local/domain/3/name", AGENT_NAME);
        assert_eq!(find(&mut store).expect("an answer"), Some(DomId(3)));
        fake.set("/local/domain/3/data/tsmc/refused", "no identity");
        assert_eq!(find(&mut store).expect("an answer"), Some(DomId(3)));
        let refusal = Agent::find(&mut store).expect_err("refused").to_string();
        assert_eq!(refusal, "the migration agent of this host (domain 3) refuses its configuration: no identity");
    }

    #[test]
    fn nobody_waits_for_a_dead_agent_to_let_go_of_its_network_card() {
        let (fake, mut store) = FakeStore::start();
        let state = pci_state(DomId(3));
        let mut after = |value: Option<&str>| {
            if let Some(value) = value {
                fake.set(&state, value);
            }
            let_go(&mut store, &state).expect("an answer");
            store.read(&state).expect("an answer")
        };
        assert_eq!(after(None), None, "an agent without a card gets no backend");
        assert_eq!(after(Some("3")).as_deref(), Some("4"), "it died before it took the card");
        assert_eq!(after(Some("7")).as_deref(), Some("4"), "it died while it had the card");
        assert_eq!(after(Some("5")).as_deref(), Some("5"), "the backend is going by itself");
    }

    #[test]
    fn a_wait_ends_with_a_change_or_in_time() {
        let (fake, mut store) = FakeStore::start();
        store.watch("/local/domain/3/data/tsmc/agent").expect("a watch");
        assert!(store.wait_for_change(None).expect("an answer"), "a new watch fires");
        assert!(!store.wait_for_change(Some(Duration::ZERO)).expect("an answer"));
        fake.set("/local/domain/3/data/tsmc/agent", "x");
        assert!(store.wait_for_change(None).expect("an answer"));
    }

    #[test]
    fn the_end_of_the_console_is_shown() {
        let text: String = (0..20).map(|line| format!("{line}\n")).collect();
        assert_eq!(tail(&text).next(), Some("8"));
        assert_eq!(tail("one\n").collect::<Vec<_>>(), ["one"]);
    }
}
