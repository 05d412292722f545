//! The watchdog, which keeps an agent running.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tests_qemu::exec::{Dom0, Event, Request, Running};

use super::fixture::Fixture;
use super::policies::load_policy;
use crate::network::{PLACES, Place};
use crate::nic::{DEVICE, Nic};
use crate::qemu::Hypervisor;
use crate::scenario::agents::{self, AGENT_NAME};
use crate::scenario::testbed::A;

/// How long the watchdog may take to say the next thing.
const SAID_LIMIT: Duration = Duration::from_secs(60);

/// The watchdog restarts an agent that was killed and one that panics, and shows why it ended; it gives up on one that refuses its
/// configuration.
pub fn keeps_an_agent(fixture: &mut Fixture) -> Result<()> {
    fixture.drop_agents()?;
    let site = WatchedHost::prepare(fixture, A)?;
    let dom0 = &site.dom0;
    let address = agents::static_address(A.agent);
    site.configure(&site.agent, &address, MODULE)?;
    let mut watch = Watchdog::start(dom0)?;
    watch.wait_for("is ready")?;
    let left = dom0.run(&["ls", "/run/tsmc"])?.text();
    ensure!(left.is_empty(), "the module is still there: {left}");
    dom0.run(&["xl", "destroy", AGENT_NAME])?;
    watch.wait_for("somebody destroyed it")?;
    let said = watch.wait_for("is ready")?;
    ensure!(said.contains("key="), "the agent is not sealed: {said}");

    site.configure(&site.self_test, &format!("ip={}/24 panic", A.agent), MODULE)?;
    dom0.run(&["xl", "destroy", AGENT_NAME])?;
    watch.wait_for("has crashed")?;
    watch.wait_for("panic at boot/src/bin/tsmc-selftest/main.rs:")?;

    site.configure(&site.agent, &address, "")?;
    watch.gives_up_on("no identity")?;
    site.configure(&site.agent, &format!("{address} prot=7078"), MODULE)?;
    Watchdog::start(dom0)?.gives_up_on("unknown word 'prot=7078'")?;
    let domain = agents::domain_id(dom0, AGENT_NAME)?;
    ensure!(domain.is_none(), "an agent that refuses to start is left as domain {domain:?}");
    Ok(())
}

/// An agent that dies with a network card of its own is replaced at once: nobody waits for its driver. It is replaced, too, when Xen
/// has forgotten whose card that is, as it does whenever a policy is loaded.
pub fn replaces_an_agent_with_a_card_at_once(fixture: &mut Fixture) -> Result<()> {
    fixture.set_nic(Some(Nic::Pci))?;
    let site = WatchedHost::prepare(fixture, A)?;
    site.configure(&site.self_test, &format!("ip={}/24 panic", A.agent), MODULE)?;
    let mut watch = Watchdog::start(&site.dom0)?;
    watch.wait_for("has crashed")?;
    let died = Instant::now();
    watch.wait_for("started domain")?;
    let took = died.elapsed();
    println!("another agent {:.1} s after one with a card died", took.as_secs_f64());
    ensure!(took < REPLACED, "another agent only after {took:?}");
    load_policy(&site.dom0, &fixture.artifacts().boot.policy)?;
    watch.wait_for("has crashed")?;
    watch.wait_for("started domain")?;
    site.configure(&site.agent, "prot=7078", MODULE)?;
    watch.gives_up_on("unknown word 'prot=7078'")?;
    fixture.set_nic(None)
}

/// How soon there is another agent after one has died.
const REPLACED: Duration = Duration::from_secs(5);

/// The line for the module that the watchdog composes.
pub const MODULE: &str = "ramdisk=\"/run/tsmc/module\"\n";

/// A host on which a watchdog can be started: dom0 has the images, and the agent's key.
pub struct WatchedHost {
    /// Which.
    pub place: &'static Place,
    /// Its dom0.
    pub dom0: Dom0,
    nic: Nic,
    /// The agent's image there.
    pub agent: String,
    self_test: String,
}

impl WatchedHost {
    /// Prepares a host.
    pub fn prepare(fixture: &mut Fixture, place: &'static Place) -> Result<Self> {
        let artifacts = fixture.artifacts().clone();
        let testbed = fixture.hosts()?;
        let (dom0, nic) = (testbed.dom0(place), testbed.nic);
        let agent = agents::put_image(&dom0, &artifacts.image)?;
        let self_test = agents::put_image(&dom0, &artifacts.self_test_image)?;
        dom0.put(&std::fs::read(testbed.keys.private_key(place))?, "/etc/tsmc/key", 0o600)?;
        dom0.put(testbed.keys.peers(&PLACES)?.as_bytes(), "/etc/tsmc/peers", 0o644)?;
        Ok(Self { place, dom0, nic, agent, self_test })
    }

    /// Writes the agent's `xl.cfg`.
    pub fn configure(&self, kernel: &str, arguments: &str, module: &str) -> Result<()> {
        let text = agents::configuration_text(kernel, Hypervisor::Full, self.nic, arguments, module);
        Ok(self.dom0.put(text.as_bytes(), "/etc/xen/tsmc-agent.cfg", 0o644)?)
    }
}

/// A running `tsmc watch`, and what it has said.
pub struct Watchdog {
    running: Running,
    said: String,
    read: usize,
    status: Option<i32>,
}

impl Watchdog {
    /// Starts it.
    pub fn start(dom0: &Dom0) -> Result<Self> {
        let command = ["tsmc", "watch", "--card", DEVICE, "--key", "/etc/tsmc/key", "--peers", "/etc/tsmc/peers"];
        Ok(Self { running: dom0.start(&Request::new(&command))?, said: String::new(), read: 0, status: None })
    }

    /// The next line that contains `words`.
    pub fn wait_for(&mut self, words: &str) -> Result<String> {
        let begun = Instant::now();
        loop {
            ensure!(begun.elapsed() < SAID_LIMIT, "the watchdog does not say '{words}'; it said:\n{}", self.said);
            while let Some(length) = self.said[self.read..].find('\n') {
                let line = self.said[self.read..self.read + length].to_owned();
                self.read += length + 1;
                println!("watch: {line}");
                if line.contains(words) {
                    return Ok(line);
                }
            }
            if let Some(status) = self.status {
                bail!("the watchdog ended with {status} instead of saying '{words}':\n{}", self.said);
            }
            self.hear().with_context(|| format!("the watchdog does not say '{words}'; it said:\n{}", self.said))?;
        }
    }

    /// The agent refuses its configuration for this reason, and the watchdog ends.
    fn gives_up_on(&mut self, reason: &str) -> Result<()> {
        self.wait_for(&format!("refuses its configuration: {reason}"))?;
        ensure!(self.status()? == 78, "the watchdog's exit status");
        Ok(())
    }

    fn status(&mut self) -> Result<i32> {
        loop {
            match self.status {
                Some(status) => return Ok(status),
                None => self.hear().context("the watchdog does not end")?,
            }
        }
    }

    /// Takes the next thing that it says, or its end.
    fn hear(&mut self) -> Result<()> {
        match self.running.next_event(Some(SAID_LIMIT))? {
            Event::Stdout(bytes) | Event::Stderr(bytes) => self.said.push_str(&String::from_utf8_lossy(&bytes)),
            Event::StdinClosed => {}
            Event::Exit(status) => self.status = Some(status),
        }
        Ok(())
    }
}
