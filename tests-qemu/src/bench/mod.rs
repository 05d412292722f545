//! The benchmark: our migration and Xen's own with the same guests, loads and links, in one run in which the modes take turns.
//!
//! [`plan`] says what is measured, [`watch`] follows what happens meanwhile, [`record`] is what comes of it,
//! [`figures`], [`spread`], [`processor`], [`reach`] and [`tables`] make numbers of that, [`page`] and [`charts`] the report.

mod charts;
pub mod figures;
mod host_path;
mod link;
pub mod options;
mod page;
pub mod plan;
pub mod processor;
mod reach;
pub mod record;
mod spread;
mod tables;
mod watch;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::artifacts::Artifacts;
use crate::artifacts::programs::Build;
use crate::mode::Mode;
use crate::network::PLACES;
use crate::nic::Nic;
use crate::paths::Paths;
use crate::qemu::{HostSize, Hypervisor, Lifetime, Processor};
use crate::scenario::agents::{Agent, Agents};
use crate::scenario::guest::{self, Guest, Label};
use crate::scenario::keys::Channel;
use crate::scenario::story::Story;
use crate::scenario::testbed::{A, B, SHELL, Testbed};
use crate::scenario::{measure, ssh, start_guest, throughput, write_json};
use link::Shaped;
use options::Bench;
use plan::{Experiment, Round, Series};
use processor::Looks;
use record::{Record, Run, Seen, seconds_since};
use spread::Spread;
use watch::Watch;

/// Hosts that hold the largest guest.
const HOSTS: HostSize = HostSize {
    memory_mib: 1792,
    dom0_mib: 512,
    cpus: 1,
    hypervisors: [Hypervisor::Full; 2],
    processors: [Processor::Plain; 2],
    rogue_card: false,
};
/// How often the idle round trip is measured.
const ROUND_TRIPS: usize = 50;
/// What a migration is expected to take besides its guest's memory, before one was measured, and for each MB of that.
const EXPECTED_S: (f64, f64) = (25.0, 0.08);

/// Measures, writes the report and prints what was reached. Returns the exit status: whether all migrations were good.
pub fn run(paths: &Paths, build: Build, name: Option<&str>, options: &Bench) -> Result<u8> {
    let json = options.output.join("report.json");
    let record = if options.redraw { Record::read(&json)? } else { measure(paths, build, name, options)? };
    fs::create_dir_all(&options.output)?;
    write_json(&json, &record)?;
    let html = options.output.join("report.html");
    fs::write(&html, page::html(&record)?).with_context(|| format!("cannot write {}", html.display()))?;
    let tables =
        record.experiments().into_iter().map(|experiment| tables::of_experiment(&record, &experiment).markdown());
    let reached = tables::reached(&record).markdown();
    let text: String = tables
        .chain(record.watched.iter().map(|run| tables::processors(run).markdown()))
        .chain([tables::host_path(&record).markdown(), tables::machine(&record).markdown(), reached])
        .map(|table| table + "\n")
        .collect();
    fs::write(options.output.join("tables.md"), &text)?;
    println!("\n{text}");
    record.left_out.iter().for_each(|left| println!("left out: {left}"));
    println!("{} migrations in {:.0} minutes: {}", record.runs.len(), record.minutes, html.display());
    Ok(u8::from(!record.runs.iter().chain(&record.watched).all(|run| run.report.all_held())))
}

/// Boots the hosts and goes through the plan.
fn measure(paths: &Paths, build: Build, name: Option<&str>, options: &Bench) -> Result<Record> {
    let begun = Instant::now();
    let plan = plan::chosen(&options.only);
    ensure!(!plan.is_empty(), "no experiment has such a name");
    let story = Story::new();
    let artifacts = Artifacts::prepare(paths, build)?;
    artifacts.build_images(paths, build)?;
    story.say("booting two Xen hosts in QEMU");
    let mut testbed = Testbed::boot(paths, artifacts, name, PLACES.len(), HOSTS, Lifetime::Runner)?;
    let mut tcp = |nic| {
        testbed.nic = nic;
        (0..options.runs).map(|_| throughput::measure(&testbed)).collect::<Result<_>>()
    };
    let (tcp_by_vif, tcp) = (tcp(Nic::Vif)?, tcp(Nic::Pci)?);
    let mut bench = Bencher { paths, testbed, agents: None, has_ssh: false, story };
    let (a, b) = bench.agents(Channel::Sealed, Nic::Pci)?;
    let idle_round_trip_us = refused_us(a).and_then(|a| Some(a + refused_us(b)?));
    let mut record = Record {
        machine: record::machine(paths),
        tcp,
        tcp_by_vif,
        idle_round_trip_us,
        host_path: host_path::read(&paths.workspace),
        runs: Vec::new(),
        watched: Vec::new(),
        left_out: Vec::new(),
        minutes: 0.0,
    };
    let limit = options.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    // What a migration of each experiment took the last time.
    let mut took_s = HashMap::new();
    let mut left_out = HashSet::new();
    for (experiment, round) in plan::turns(&plan, options.runs) {
        let takes_part = |series: &Series| options.wants(series.mode) && round.has(series);
        let series: Vec<Series> = experiment.series().into_iter().filter(takes_part).collect();
        if series.is_empty() || left_out.contains(&experiment) {
            continue;
        }
        let migrations = series.len() as f64;
        let each_s = took_s.get(&experiment).copied().unwrap_or(expected_s(&experiment));
        let end = begun.elapsed() + Duration::from_secs_f64(each_s * migrations);
        if limit.is_some_and(|limit| end > limit) {
            record.left_out.push(format!("{experiment}: of {} rounds, {round} and later", options.runs));
            left_out.insert(experiment);
            continue;
        }
        let started = Instant::now();
        for series in series {
            bench.record(&experiment, series, round, &mut record)?;
        }
        took_s.insert(experiment, started.elapsed().as_secs_f64() / migrations);
        record.minutes = begun.elapsed().as_secs_f64() / 60.0;
        write_json(&options.output.join("report.json"), &record)?;
    }
    Ok(record)
}

/// What one migration of an experiment may take, with its guest's start and end.
fn expected_s(experiment: &Experiment) -> f64 {
    let memory = f64::from(experiment.memory_mb);
    let shaped = experiment.link_mbit.map_or(0.0, |mbit| memory * 8.0 / f64::from(mbit));
    EXPECTED_S.0 + memory * EXPECTED_S.1 + shaped
}

/// How long an agent takes to refuse a connection, which it does while nobody is expected.
fn refused_us(agent: &Agent) -> Option<f64> {
    let address = SocketAddr::from((agent.status.address, agent.status.port));
    let times = (0..ROUND_TRIPS).filter_map(|_| {
        let asked = Instant::now();
        let refused = TcpStream::connect_timeout(&address, Duration::from_secs(1)).err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then(|| asked.elapsed().as_secs_f64() * 1e6)
    });
    Spread::of(times).map(|spread| spread.median)
}

/// Hosts, and the agents on them.
struct Bencher<'a> {
    paths: &'a Paths,
    testbed: Testbed,
    /// The agents, and how they were started.
    agents: Option<((Channel, Nic), Agents)>,
    /// Whether one reaches the other by ssh.
    has_ssh: bool,
    story: Story,
}

impl Bencher<'_> {
    /// Agents that talk to each other like this, by these interfaces.
    fn agents(&mut self, channel: Channel, nic: Nic) -> Result<&Agents> {
        if self.agents.as_ref().is_none_or(|(now, _)| *now != (channel, nic)) {
            if self.agents.take().is_some() {
                self.testbed.end_agents()?;
            }
            (self.testbed.channel, self.testbed.nic) = (channel, nic);
            self.agents = Some(((channel, nic), self.testbed.start_agents(&self.story)?));
        }
        self.agents.as_ref().map(|(_, agents)| agents).context("no agents")
    }

    /// OpenSSH from A to B.
    fn ssh(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.has_ssh, true) {
            ssh::install(&self.testbed, A, B)?;
        }
        self.testbed.shell = ssh::SHELL;
        Ok(())
    }

    /// The hosts are not to be trusted any more.
    fn start_over(&mut self) -> Result<()> {
        (self.agents, self.has_ssh) = (None, false);
        self.testbed.run.reboot(self.paths, &self.testbed.artifacts, HOSTS)
    }

    /// Migrates a guest and records how that went; hosts and agents start over if it went wrong.
    fn record(&mut self, experiment: &Experiment, series: Series, round: Round, record: &mut Record) -> Result<()> {
        let name = format!("{experiment}: {}, {round}", series.name());
        self.story.say(&format!("---- {name}"));
        let good = match self.migrate(experiment, series, round) {
            Ok(run) => {
                println!("{}", run.report);
                let good = run.report.all_held();
                let runs = if round == Round::Watched { &mut record.watched } else { &mut record.runs };
                runs.push(run);
                good
            }
            Err(error) => {
                let left = format!("{name}: {error:#}");
                self.story.say(&left);
                record.left_out.push(left);
                false
            }
        };
        if good { Ok(()) } else { self.start_over() }
    }

    /// Starts a guest, migrates it as `series` says, and ends it.
    fn migrate(&mut self, experiment: &Experiment, series: Series, round: Round) -> Result<Run> {
        self.testbed.shell = SHELL;
        match (series.mode, series.channel) {
            (Mode::Xl, Channel::Plain) => {}
            (Mode::Xl, Channel::Sealed) => self.ssh()?,
            (_, channel) => _ = self.agents(channel, series.nic)?,
        }
        let agents = self.agents.as_ref().map(|(_, agents)| agents);
        let run = migrate(&self.testbed, agents, experiment, (series, round), &self.story);
        for place in [A, B] {
            // It is on one of them, if it is anywhere.
            self.testbed.dom0(place).run(&["xl", "destroy", guest::NAME])?;
        }
        run
    }
}

/// Starts a guest on A, migrates it to B and says what was seen.
pub fn migrate(
    testbed: &Testbed,
    agents: Option<&Agents>,
    experiment: &Experiment,
    (series, round): (Series, Round),
    story: &Story,
) -> Result<Run> {
    let label = if series.mode == Mode::Xl { Label::Ordinary } else { Label::Private };
    let mut guest = Guest::demo(&testbed.artifacts, label);
    experiment.prepare(&mut guest);
    start_guest(testbed, A, &guest, story)?;
    let _shaped = experiment.link_mbit.map(|mbit| Shaped::new(testbed, mbit)).transpose()?;

    let stream = if experiment.stream { Some(Watch::stream()?) } else { None };
    let (work, wire) = (Watch::work()?, Watch::wire(B));
    let watched = PLACES.iter().filter(|_| round == Round::Watched);
    let processors = watched.map(Watch::processor).collect::<Result<Vec<_>>>()?;
    // What the guest does when nothing disturbs it.
    std::thread::sleep(Duration::from_secs_f64(figures::AROUND_S));
    let states = Mutex::new(Vec::<(Instant, String)>::new());
    let faults = Mutex::new(watch::Counts::new());
    let agents = agents.filter(|_| series.mode != Mode::Xl);
    let (crossing, mut report) = measure::migrate(
        testbed,
        &guest,
        (A, B),
        series.mode,
        agents,
        &|source, target| {
            let now = Instant::now();
            let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
            for (side, session) in [("source", source), ("target", target)] {
                let Some(state) = &session.state else { continue };
                let state = state.to_string();
                let said = format!("{side} {}", state.split(' ').next().unwrap_or_default());
                if !states.iter().any(|(_, known)| *known == said) {
                    states.push((now, said));
                }
            }
            if let Some(progress) = target.progress {
                faults.lock().unwrap_or_else(PoisonError::into_inner).push((now, progress.faults));
            }
        },
        story,
    )?;
    report.link_mbit = experiment.link_mbit;
    let begun = crossing.begun;
    let since = |counts| record::Series::since(begun, counts);
    let states = states.into_inner().unwrap_or_default().into_iter();
    let seen = Seen {
        work: since(work.stop()),
        stream: since(stream.map(Watch::stop).unwrap_or_default()),
        wire: since(wire.stop()),
        faults: since(faults.into_inner().unwrap_or_default()),
        processors: processors.into_iter().map(|watch| Looks(seconds_since(begun, watch.stop()))).collect(),
        states: states.map(|(at, said)| (at.duration_since(begun).as_secs_f64(), said)).collect(),
    };
    Ok(Run { experiment: *experiment, series: series.name(), report, seen })
}
