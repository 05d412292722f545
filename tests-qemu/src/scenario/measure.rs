//! Migrates a guest, measures everything around it, and returns the report.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use tests_qemu::probe::Prober;
use tests_qemu::report::{self, CpuSeconds, Report, Silence};

use super::agents::{AGENT_NAME, Agents, is_service};
use super::guest::{self, Guest};
use super::migration::{self, Crossing, OnLook};
use super::story::Story;
use super::testbed::Testbed;
use crate::mode::Mode;
use crate::network::{self, GUEST, Place};

/// Migrates `guest` and reports. The report is complete but for claims that the caller adds.
pub fn migrate(
    testbed: &Testbed,
    guest: &Guest,
    (from, to): (&Place, &Place),
    mode: Mode,
    agents: Option<&Agents>,
    on_look: OnLook<'_>,
    story: &Story,
) -> Result<(Crossing, Report)> {
    let mut report = Report {
        mode: mode.to_string(),
        channel: agents.map(|(agent, _)| if agent.status.key.is_some() { "sealed" } else { "plain" }.to_owned()),
        link_mbit: testbed.link_mbit,
        versions: versions(testbed, from, guest, agents)?,
        guest: described(guest),
        ..Report::default()
    };
    if guest.has_workload {
        report.guest_before = Some(guest::load()?.reset()?);
    }
    let cpu_before = (CpuTimes::read(testbed, from)?, CpuTimes::read(testbed, to)?);
    let wire_before = network::received_by(to)?;
    // A guest that the user brought need not have this address.
    let reachable = guest.has_workload || guest::answers_within(Duration::ZERO)?;
    let prober = if reachable { Some(Prober::start(GUEST).context("cannot probe the guest")?) } else { None };
    let crossing = migration::migrate(testbed, (from, to), mode, agents, on_look, story)?;
    let wire = network::received_by(to)?.saturating_sub(wire_before);
    // Answers that come late still count; and a guest that dies just after its arrival is to be seen.
    std::thread::sleep(Duration::from_secs(2));
    if let Some(prober) = prober {
        let begun = prober.begun();
        let seen = prober.stop();
        report.silence = crossing.started.and_then(|started| Silence::of(&seen, started.duration_since(begun)));
        report.set_probe(seen);
    }
    let cpu_after = (CpuTimes::read(testbed, from)?, CpuTimes::read(testbed, to)?);
    report.cpu_seconds = CpuSeconds {
        dom0_a: Some(cpu_after.0.dom0 - cpu_before.0.dom0),
        dom0_b: Some(cpu_after.1.dom0 - cpu_before.1.dom0),
        agent_a: difference(cpu_after.0.agent, cpu_before.0.agent),
        agent_b: difference(cpu_after.1.agent, cpu_before.1.agent),
    };
    report.total_ms = Some(crossing.total_time.as_millis() as u64);
    // `tsmc migrate` returns when all has arrived.
    report.xl_ms = (testbed.program == "xl").then_some(crossing.xl_time.as_millis() as u64);
    report.wire_bytes = Some(wire);
    if let Some((source, target)) = &crossing.sessions {
        report.set_figures(source.summary.unwrap_or_default(), target.summary.unwrap_or_default());
    }
    report.claim(format!("{} migrate succeeded and both agents are done", testbed.program), crossing.is_success());
    if crossing.is_success() {
        if guest.has_workload {
            let mut load = guest::load()?;
            report.guest_after = Some(load.status()?);
            report.guest_check = Some(load.check()?);
        }
        let list = testbed.dom0(from).run(&["xl", "list"])?.text();
        let left: Vec<&str> = list.lines().skip(1).filter(|line| !is_service(line)).collect();
        // Of a guest that migrated to its own host, one is there.
        let clean = match left[..] {
            [] => from != to,
            [line] => from == to && line.starts_with(&format!("{} ", guest.name)),
            _ => false,
        };
        report.claim(format!("nothing of the guest is left behind on {}", from.letter), clean);
    }
    report.claim_the_usual();
    Ok((crossing, report))
}

fn described(guest: &Guest) -> report::Guest {
    // What a guest of the user's own writes is not known.
    let load = Some(guest.load).filter(|_| guest.has_workload);
    report::Guest {
        memory_mb: guest.memory_mib.into(),
        vcpus: guest.vcpus,
        dirty_mb: load.map_or(0, |load| load.dirty_mb.into()),
        dirty_rate: load.map_or(0, |load| load.dirty_rate.into()),
    }
}

/// What took part.
fn versions(
    testbed: &Testbed,
    from: &Place,
    guest: &Guest,
    agents: Option<&Agents>,
) -> Result<BTreeMap<String, String>> {
    let info = testbed.dom0(from).run(&["xl", "info"])?.text();
    let of = |name: &str| {
        let line = info.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let kernel = guest.kernel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut versions = BTreeMap::from([
        ("xen".to_owned(), of("xen_version")),
        ("dom0_kernel".to_owned(), of("release")),
        ("guest_kernel".to_owned(), kernel),
    ]);
    if let Some((agent, _)) = agents {
        versions.insert("agent".to_owned(), agent.status.version.clone());
        versions.insert("agent_nic".to_owned(), testbed.nic.to_string());
    }
    Ok(versions)
}

/// Processor seconds used so far on one host.
struct CpuTimes {
    dom0: f64,
    agent: Option<f64>,
}

impl CpuTimes {
    fn read(testbed: &Testbed, place: &Place) -> Result<Self> {
        let list = testbed.dom0(place).run(&["xl", "list"])?.text();
        let seconds = |name: &str| {
            let line = list.lines().find(|line| line.split_whitespace().next() == Some(name))?;
            line.split_whitespace().last()?.parse().ok()
        };
        Ok(Self { dom0: seconds("Domain-0").context("xl list names Domain-0")?, agent: seconds(AGENT_NAME) })
    }
}

fn difference(after: Option<f64>, before: Option<f64>) -> Option<f64> {
    Some(after? - before?)
}
