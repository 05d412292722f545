//! What the tests share: two hosts with agents, booted when first needed and again after a failure.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::artifacts::Artifacts;
use crate::bench;
use crate::bench::plan::{Experiment, Round, Series};
use crate::bench::record::Run;
use crate::mode::Mode;
use crate::network::{PLACES, Place};
use crate::nic::Nic;
use crate::paths::Paths;
use crate::qemu::{HostSize, Lifetime};
use crate::scenario::agents::{AGENT_NAME, Agent, Agents, is_service};
use crate::scenario::guest::{self, Guest, Label, Workload};
use crate::scenario::keys::Channel;
use crate::scenario::measure;
use crate::scenario::migration::{Crossing, OnLook};
use crate::scenario::story::Story;
use crate::scenario::testbed::{A, B, Testbed};
use crate::scenario::{dom0_cannot_read, start_guest};
use tests_qemu::exec::Dom0;
use tests_qemu::report::Report;

/// Prints what Xen has said since the last time.
pub const TAKE_MESSAGES: &[&str] = &["xl", "dmesg", "-c"];

/// What an IOMMU refused to a device, in Xen's messages.
pub fn dma_faults(messages: &str) -> impl Iterator<Item = &str> {
    messages.lines().filter(|line| line.contains("DMAR:["))
}

/// From one host to another.
pub type Way = (&'static Place, &'static Place);

/// The memory of the guest that most tests share, MiB.
pub const SHARED_MIB: u32 = 160;

/// How long what follows a migration may take to see to its end.
const KEPT: Duration = Duration::from_secs(60);

/// The domains of whose migrations a dom0 still keeps something.
pub fn kept(dom0: &Dom0) -> Result<String> {
    let names = dom0.sh("xenstore-list /tool/tsmc/out; xenstore-list /tool/tsmc/in")?.text();
    Ok(names.split_whitespace().collect::<Vec<_>>().join(", "))
}

/// The hosts of the tests.
pub struct Fixture {
    paths: Paths,
    artifacts: Artifacts,
    name: Option<String>,
    size: HostSize,
    nic: Nic,
    testbed: Option<Testbed>,
    agents: Option<Agents>,
    /// Where the shared guest runs, if the last test has left it for the next one.
    resident: Option<&'static Place>,
    spoiled: bool,
    story: Story,
}

impl Fixture {
    pub fn new(paths: &Paths, artifacts: Artifacts, name: Option<&str>, size: HostSize, nic: Nic) -> Self {
        Self {
            paths: paths.clone(),
            artifacts,
            name: name.map(str::to_owned),
            size,
            nic,
            testbed: None,
            agents: None,
            resident: None,
            spoiled: false,
            story: Story::new(),
        }
    }

    /// Where things are kept.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// What the hosts are made of.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// Two hosts, in whose network this thread is.
    pub fn hosts(&mut self) -> Result<&mut Testbed> {
        if self.testbed.is_none() {
            let artifacts = self.artifacts.clone();
            let name = self.name.as_deref();
            let mut testbed = Testbed::boot(&self.paths, artifacts, name, PLACES.len(), self.size, Lifetime::Runner)?;
            testbed.verify = true;
            testbed.nic = self.nic;
            self.testbed = Some(testbed);
        } else if self.spoiled {
            self.agents = None;
            self.resident = None;
            let testbed = self.testbed.as_mut().context("no hosts")?;
            testbed.link_mbit = None;
            testbed.size = self.size;
            testbed.nic = self.nic;
            testbed.run.reboot(&self.paths, &self.artifacts, self.size)?;
        }
        self.spoiled = false;
        self.testbed.as_mut().context("no hosts")
    }

    /// The hosts with an agent each, A's first.
    pub fn agents(&mut self) -> Result<(&Testbed, &Agents)> {
        self.hosts()?;
        let testbed = self.testbed.as_ref().context("no hosts")?;
        if self.agents.is_none() {
            self.agents = Some(testbed.start_agents(&self.story)?);
        }
        Ok((testbed, self.agents.as_ref().context("no agents")?))
    }

    /// The hosts, which must be up.
    pub fn testbed(&self) -> Result<&Testbed> {
        self.testbed.as_ref().context("no hosts")
    }

    /// The agent of `place`, which must have been started.
    pub fn agent(&self, place: &Place) -> Result<&Agent> {
        let (a, b) = self.agents.as_ref().context("no agents")?;
        Ok(if place == A { a } else { b })
    }

    /// Starts new agents on the source and the target, each in a mode of its own, and trusting these hosts' agents.
    pub fn start_agents_as(
        &mut self,
        (from, to): Way,
        source: (Channel, &[Place]),
        target: (Channel, &[Place]),
    ) -> Result<()> {
        self.drop_agents()?;
        let testbed = self.testbed()?;
        let start = |place, (channel, peers)| testbed.start_agent_as(place, channel, peers, &self.story);
        let (source, target) = (start(from, source)?, start(to, target)?);
        self.agents = Some(if from == A { (source, target) } else { (target, source) });
        Ok(())
    }

    /// Starts an agent on `place`, where the last one has died.
    pub fn restart_agent(&mut self, place: &Place) -> Result<()> {
        let agent = self.testbed()?.start_agent(place, &self.story)?;
        self.replace_agent(place, agent)
    }

    /// Somebody else has started another agent on `place`.
    pub fn replace_agent(&mut self, place: &Place, agent: Agent) -> Result<()> {
        let (a, b) = self.agents.as_mut().context("no agents")?;
        *(if place == A { a } else { b }) = agent;
        Ok(())
    }

    /// Boots the host of `place`, whose power was cut, and starts its agent.
    pub fn boot_again(&mut self, place: &Place) -> Result<()> {
        let testbed = self.testbed.as_mut().context("no hosts")?;
        testbed.run.boot_again(&self.paths, &self.artifacts, place, self.size)?;
        self.restart_agent(place)
    }

    /// Ends both agents; the next who needs them starts new ones.
    pub fn drop_agents(&mut self) -> Result<()> {
        self.agents = None;
        let testbed = self.hosts()?;
        for place in &PLACES {
            testbed.dom0(place).run(&["xl", "destroy", AGENT_NAME])?;
        }
        Ok(())
    }

    /// Gives the agents that are started from now on another network interface: this, or again the one of most tests.
    pub fn set_nic(&mut self, nic: Option<Nic>) -> Result<()> {
        self.agents = None;
        let nic = nic.unwrap_or(self.nic);
        let testbed = self.hosts()?;
        testbed.nic = nic;
        testbed.end_agents()
    }

    /// The guest that most tests share.
    pub fn shared_guest(&self) -> Guest {
        let mut guest = Guest::demo(&self.artifacts, Label::Private);
        guest.memory_mib = SHARED_MIB;
        // So much is dirty at the switch that stage 3 can be caught.
        guest.load = Workload::new(32, 4000);
        // dom0 may make it crash.
        guest.arguments = "sysrq_always_enabled".into();
        guest
    }

    /// The way of the shared guest from where the last test has left it to the other host; a new one is on A.
    pub fn way(&mut self) -> Result<Way> {
        // A failure may have spoilt the hosts.
        self.hosts()?;
        let from = match self.resident {
            Some(place) => place,
            None => {
                self.start_guest(A, &self.shared_guest())?;
                self.resident = Some(A);
                A
            }
        };
        Ok((from, if from == A { B } else { A }))
    }

    /// The shared guest, and its way. Nobody but the caller knows from now on where it is.
    pub fn take_guest(&mut self) -> Result<(Guest, Way)> {
        let way = self.way()?;
        self.resident = None;
        Ok((self.shared_guest(), way))
    }

    /// Creates a guest of the test's own on `place` and waits for its workload.
    pub fn start_guest(&mut self, place: &Place, guest: &Guest) -> Result<()> {
        if self.resident.is_some() {
            self.end_guest()?;
        }
        self.hosts()?;
        let testbed = self.testbed.as_ref().context("no hosts")?;
        start_guest(testbed, place, guest, &self.story)
    }

    /// Migrates the guest that runs on the first of the two places.
    pub fn migrate(
        &mut self,
        guest: &Guest,
        places: (&Place, &Place),
        mode: Mode,
        on_look: OnLook<'_>,
    ) -> Result<(Crossing, Report)> {
        if mode != Mode::Xl {
            self.agents()?;
        }
        let testbed = self.testbed.as_ref().context("no hosts")?;
        // Sessions are looked at from the source to the target, which is not always from A to B.
        let agents = match mode {
            Mode::Xl => None,
            _ => Some((self.agent(places.0)?.clone(), self.agent(places.1)?.clone())),
        };
        let (crossing, report) = measure::migrate(testbed, guest, places, mode, agents.as_ref(), on_look, &self.story)?;
        println!("{report}");
        let verified = mode == Mode::Xl || !crossing.is_success() || report.verified.is_some();
        ensure!(verified, "nobody compared the memory of both hosts");
        Ok((crossing, report))
    }

    /// Starts a guest on A, migrates it to B, and measures all that a bench does, whose the processors are included.
    pub fn measure(&mut self, experiment: &Experiment, series: Series) -> Result<Run> {
        if self.resident.is_some() {
            self.end_guest()?;
        }
        self.agents()?;
        let testbed = self.testbed.as_ref().context("no hosts")?;
        let run = bench::migrate(testbed, self.agents.as_ref(), experiment, (series, Round::Watched), &self.story);
        self.end_guest()?;
        run
    }

    /// Fails unless dom0 of `place` is refused whatever it tries on the guest.
    pub fn assert_private(&self, place: &Place) -> Result<()> {
        let testbed = self.testbed.as_ref().context("no hosts")?;
        let (what, held) = dom0_cannot_read(testbed, place, &self.story)?;
        ensure!(held, "not so: {what}");
        Ok(())
    }

    /// Leaves the shared guest, which runs on `place`, to the next test.
    pub fn set_resident(&mut self, place: &'static Place) {
        self.resident = Some(place);
    }

    /// Destroys the guest wherever it is.
    pub fn end_guest(&mut self) -> Result<()> {
        self.resident = None;
        let testbed = self.hosts()?;
        for place in [A, B] {
            // It is on one of them only.
            let _ = testbed.dom0(place).run(&["xl", "destroy", guest::NAME])?;
        }
        Ok(())
    }

    /// Fails when a host has a domain that no test owns any more, or keeps something of a migration that is over, or files that leave
    /// no room for a guest's, or has an IOMMU that had to refuse something to the agent's card.
    pub fn assert_clean(&mut self) -> Result<()> {
        if self.spoiled || self.testbed.is_none() {
            return Ok(());
        }
        let resident = if self.spoiled { None } else { self.resident };
        if resident.is_none() {
            self.end_guest()?;
        }
        let shared = self.shared_guest();
        let testbed = self.hosts()?;
        for place in [A, B] {
            let list = testbed.dom0(place).run(&["xl", "list"])?.text();
            let strange: Vec<&str> = list
                .lines()
                .skip(1)
                .filter(|line| !is_service(line))
                .filter(|line| resident != Some(place) || !line.starts_with(&format!("{} ", guest::NAME)))
                .collect();
            ensure!(strange.is_empty(), "left behind on {}:\n{}", place.letter, strange.join("\n"));
            let begun = Instant::now();
            while let kept = kept(&testbed.dom0(place))?
                && !kept.is_empty()
            {
                ensure!(begun.elapsed() < KEPT, "dom0 of {} keeps something of migrations of {kept}", place.letter);
            }
            shared.assert_room(&testbed.dom0(place)).with_context(|| format!("dom0 of {}", place.letter))?;
            let messages = testbed.dom0(place).run(TAKE_MESSAGES)?.text();
            let refused: Vec<&str> = dma_faults(&messages).collect();
            ensure!(refused.is_empty(), "the IOMMU of {} refused:\n{}", place.letter, refused.join("\n"));
        }
        Ok(())
    }

    /// Runs `test` on hosts that are booted for it, as `change` makes them. Those of the next test are as they were.
    pub fn on_other_hosts(
        &mut self,
        change: impl FnOnce(&mut HostSize),
        test: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let usual = self.size;
        change(&mut self.size);
        self.spoil();
        let result = test(self);
        self.size = usual;
        self.spoil();
        result
    }

    /// The hosts are not to be trusted any more.
    pub fn spoil(&mut self) {
        self.resident = None;
        self.spoiled = true;
    }

    /// What both hosts say about a failure, also written to a file.
    pub fn evidence(&self, test: &str) -> String {
        let Some(testbed) = &self.testbed else { return String::new() };
        let commands = "xl list -Z; echo; free -k; stat -f /; du -xak / | sort -n | tail -n 20; ps -o pid,ppid,args | grep xl; echo; \
                        tail -n 25 /var/log/xen/console/guest-*.log; echo; xl dmesg | tail -n 25; echo; \
                        cat /proc/net/dev; dmesg | tail -n 15; echo; tail -n 5 /var/log/xen/xl-*.log; xenstore-ls /tool/tsmc; ps -o pid,ppid,args | grep tsmc; \
                        D=$(xl domid tsmc-agent) && xenstore-ls /local/domain/$D/data";
        let mut text = String::new();
        for place in testbed.run.places() {
            let limit = Duration::from_secs(60);
            let output = testbed.dom0(place).run_within(&["sh", "-c", commands], limit);
            let said = match output {
                Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
                Err(error) => error.to_string(),
            };
            let _ = writeln!(text, "==== host {}\n{said}", place.letter);
        }
        let file = testbed.run.logs(&self.paths).join(format!("{test}.log"));
        let _ = fs::write(file, &text);
        text
    }
}
