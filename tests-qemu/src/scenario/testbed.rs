//! Hosts that are up, and what scenarios ask of them.

use anyhow::Result;
use common::control::AgentStatus;
use tests_qemu::exec::Dom0;

use super::agents::{AGENT_NAME, Agent, AgentConfiguration, Agents, static_address};
use super::keys::{Channel, Keys};
use super::netdom;
use super::story::Story;
use crate::artifacts::Artifacts;
use crate::network::{self, PLACES, Place};
use crate::nic::{DRIVER_DOMAIN, Nic};
use crate::paths::Paths;
use crate::qemu::{HostSize, Lifetime};
use crate::run::Run;

/// Hosts that are up; the thread that booted them is in their network.
pub struct Testbed {
    /// What the hosts are made of.
    pub artifacts: Artifacts,
    /// The hosts.
    pub run: Run,
    /// What they are.
    pub size: HostSize,
    /// The limit of the link between the hosts.
    pub link_mbit: Option<u32>,
    /// The keys of the agents.
    pub keys: Keys,
    /// How the agents are started that are not told otherwise.
    pub channel: Channel,
    /// The agents' network interfaces.
    pub nic: Nic,
    /// Whose `migrate` moves guests: `xl`, or `tsmc`, whose words are the same.
    pub program: &'static str,
    /// What that reaches the other dom0 with (`-s`).
    pub shell: &'static str,
    /// Whether the agents compare all memory at the switch.
    pub verify: bool,
}

/// Host A.
pub const A: &Place = &PLACES[0];
/// Host B.
pub const B: &Place = &PLACES[1];

/// Commands for the other dom0 over TCP, in clear.
pub const SHELL: &str = "dom0d --ssh";

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
        let keys = Keys::make(run.logs(paths).join("keys"))?;
        let (nic, channel) = (Nic::default(), Channel::Sealed);
        Ok(Self {
            artifacts,
            run,
            size,
            link_mbit: None,
            verify: false,
            keys,
            channel,
            nic,
            program: "xl",
            shell: SHELL,
        })
    }

    /// The dom0 of a host.
    pub fn dom0(&self, place: &Place) -> Dom0 {
        self.run.dom0(place)
    }

    /// Limits the link between the hosts.
    pub fn limit_link(&mut self, mbit: u32) -> Result<()> {
        network::shape(&self.run.namespace, self.run.places(), mbit)?;
        self.link_mbit = Some(mbit);
        Ok(())
    }

    /// Starts an agent on each host, A's first.
    pub fn start_agents(&self, story: &Story) -> Result<Agents> {
        Ok((self.start_agent(A, story)?, self.start_agent(B, story)?))
    }

    /// Starts an agent on `place`.
    pub fn start_agent(&self, place: &Place, story: &Story) -> Result<Agent> {
        self.start_agent_as(place, self.channel, &PLACES, story)
    }

    /// Ends the agents, and the driver domains that serve them.
    pub fn end_agents(&self) -> Result<()> {
        for place in &PLACES {
            for name in [AGENT_NAME, DRIVER_DOMAIN] {
                self.dom0(place).run(&["xl", "destroy", name])?;
            }
        }
        Ok(())
    }

    /// Starts an agent on `place`, in this mode; if it is sealed, it trusts the agents of `peers`.
    pub fn start_agent_as(&self, place: &Place, channel: Channel, peers: &[Place], story: &Story) -> Result<Agent> {
        let (module, arguments) = match channel {
            Channel::Sealed => (Some(self.keys.module(place, peers)?), static_address(place.agent)),
            Channel::Plain => (None, format!("{} plain", static_address(place.agent))),
        };
        if self.nic == Nic::Netdom {
            netdom::ensure_started(&self.dom0(place), &self.artifacts)?;
        }
        let (image, nic, module) = (&*self.artifacts.image, self.nic, module.as_deref());
        let hypervisor = self.size.hypervisor(place);
        let configuration = AgentConfiguration { image, hypervisor, nic, arguments: &arguments, module };
        let agent = Agent::start(&self.dom0(place), &configuration)?;
        let AgentStatus { version, address, memory_kib, features, key, .. } = &agent.status;
        let channel = key.map_or("PLAIN".to_owned(), |key| format!("sealed, key {}", key.fingerprint()));
        story.say(&format!(
            "agent {version} on {} at {address}: domain {}, heap {memory_kib} KiB, can {features}; {channel}",
            place.letter, agent.domain
        ));
        Ok(agent)
    }
}
