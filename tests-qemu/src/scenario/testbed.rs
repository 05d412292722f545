//! Hosts that are up, and what scenarios ask of them.

use std::path::PathBuf;

use agent::control::AgentStatus;
use anyhow::{Context, Result};
use tests_qemu::exec::Dom0;

use super::agents::Agent;
use super::story::Story;
use crate::artifacts::Artifacts;
use crate::network::{PLACES, Place};
use crate::paths::Paths;
use crate::qemu::{HostSize, Lifetime};
use crate::run::Run;

/// Hosts that are up; the thread that booted them is in their network.
pub struct Testbed {
    /// Where things are kept.
    pub paths: Paths,
    /// What the hosts are made of.
    pub artifacts: Artifacts,
    /// The hosts.
    pub run: Run,
}

/// Host A.
pub const A: &Place = &PLACES[0];
/// Host B.
pub const B: &Place = &PLACES[1];

/// Processor time used so far, seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuSeconds {
    /// By dom0.
    pub dom0: f64,
    /// By the agent, if there is one.
    pub agent: f64,
}

impl Testbed {
    /// Boots `hosts` hosts.
    pub fn boot(
        paths: &Paths,
        artifacts: Artifacts,
        name: Option<&str>,
        hosts: usize,
        size: HostSize,
        lifetime: Lifetime,
    ) -> Result<Self> {
        let run = Run::start(paths, &artifacts, name, hosts, size, lifetime)?;
        Ok(Self { paths: paths.clone(), artifacts, run })
    }

    /// The dom0 of a host.
    pub fn dom0(&self, place: &Place) -> Dom0 {
        self.run.dom0(place)
    }

    /// The agents' image.
    pub fn image(&self) -> Result<PathBuf> {
        let image = self.paths.workspace.join("target/image/tsmc-agent.elf");
        image.exists().then_some(image).context("there is no target/image/tsmc-agent.elf: run `make image`")
    }

    /// Starts an agent on `place`.
    pub fn start_agent(&self, place: &Place, story: &Story) -> Result<Agent> {
        let agent = Agent::start(&self.dom0(place), place, &self.image()?)?;
        let AgentStatus { version, address, memory_kib, features, .. } = &agent.status;
        story.say(&format!(
            "agent {version} on {} at {address}: domain {}, heap {memory_kib} KiB, can {features}",
            place.letter, agent.domain
        ));
        Ok(agent)
    }

    /// Processor time that dom0 and agent of a host have used.
    pub fn cpu_seconds(&self, place: &Place) -> Result<CpuSeconds> {
        let list = self.dom0(place).run(&["xl", "list"])?.text();
        let seconds = |name: &str| {
            let line = list.lines().find(|line| line.split_whitespace().next() == Some(name))?;
            line.split_whitespace().last()?.parse().ok()
        };
        Ok(CpuSeconds {
            dom0: seconds("Domain-0").context("xl list names Domain-0")?,
            agent: seconds(super::agents::NAME).unwrap_or_default(),
        })
    }
}
