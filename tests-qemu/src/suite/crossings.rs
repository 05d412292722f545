//! Migrations that succeed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use common::control::State;

use super::brake::Brake;
use super::fixture::Fixture;
use crate::mode::Mode;
use crate::scenario::agents::{self, AGENT_NAME};
use crate::scenario::guest::{self, Guest, Label, Workload};
use crate::scenario::keys::Channel;
use crate::scenario::migration::OnLook;
use crate::scenario::ssh;
use crate::scenario::testbed::{A, B, SHELL};
use tests_qemu::report::Report;

/// The demo's migration, with dom0 trying to read the guest before and after.
pub fn demo(fixture: &mut Fixture) -> Result<()> {
    let guest = Guest::demo(fixture.artifacts(), Label::Private);
    fixture.agents()?;
    fixture.start_guest(A, &guest)?;
    for place in [A, B] {
        if place == B {
            let (_, report) = fixture.migrate(&guest, (A, B), Mode::TSMC, &|_, _| ())?;
            assert_held(&report)?;
            let pages = report.pages.context("the agents counted no pages")?;
            ensure!(pages.total >= 256 * 256 / 2, "the guest has more than {} pages", pages.total);
            ensure!(pages.zero > 0, "a guest that has just booted has zero pages");
            ensure!(pages.most_sends <= 2, "a page was sent {} times", pages.most_sends);
        }
        fixture.assert_private(place)?;
    }
    Ok(())
}

/// A guest with two virtual processors, and a time-stamp counter that Xen emulates.
pub fn two_vcpus(fixture: &mut Fixture) -> Result<()> {
    let mut guest = Guest::demo(fixture.artifacts(), Label::Private);
    (guest.vcpus, guest.tsc_mode) = (2, "default");
    cross_as(fixture, &guest, Mode::TSMC)
}

/// So much is dirty at the switch that the guest runs on B, and faults, while pages are still on A.
pub fn hot_working_set(fixture: &mut Fixture) -> Result<()> {
    // What the workload said it had written: the last answer, and those after which pages were still on A.
    let answers = Mutex::new((None, Vec::new()));
    let brake = Brake::new(&fixture.hosts()?.run.namespace);
    let report = cross(fixture, Mode::TSMC, &|source, target| {
        let between = source.state == Some(State::Committed) && target.state == Some(State::Running);
        if source.state == Some(State::Suspend) || between {
            brake.pull();
        }
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (latest, writes) = &mut *answers;
        // A few answers prove it; asking costs the guest time.
        if between && writes.len() < 3 {
            writes.extend(latest.take());
            *latest = guest::status_now().map(|status| status.writes);
        } else if !writes.is_empty() {
            brake.release();
        }
    })?;
    let pages = report.pages.as_ref().context("the agents counted no pages")?;
    let faults = report.faults.as_ref().context("the agents counted no faults")?;
    ensure!(pages.dirty_at_switch >= 2000, "only {} pages were dirty at the switch", pages.dirty_at_switch);
    ensure!(faults.count > 0, "no fault was served");
    ensure!(pages.pushed > 0, "no page was pushed");
    let (_, writes) = answers.into_inner().unwrap_or_default();
    println!("the workload's writes, each time it was asked during stage 3: {writes:?}");
    ensure!(!writes.is_empty(), "the guest did not answer while pages were on A");
    Ok(())
}

/// Each of ten virtual processors, mostly idle, touches pages of its own as soon as it runs on B. The link is slow by then, so that
/// all of them wait at once, and the ring of faults has eight slots. One processor of each host is theirs: after the switch they spin
/// on it until the last of them has what it needs (`stop_machine`).
pub fn ten_vcpus(fixture: &mut Fixture) -> Result<()> {
    fixture.on_other_hosts(|size| size.cpus = 2, cross_with_ten_vcpus)
}

fn cross_with_ten_vcpus(fixture: &mut Fixture) -> Result<()> {
    /// For so many looks, some ten a second, the link stays slow once the guest runs on B.
    const LOOKS: u32 = 150;
    let mut guest = Guest::demo(fixture.artifacts(), Label::Private);
    (guest.vcpus, guest.cpus) = (10, "1");
    guest.load = Workload { tick_ms: 1000, ..Workload::new(32, 2000) };
    fixture.agents()?;
    fixture.start_guest(A, &guest)?;
    let brake = Brake::new(&fixture.hosts()?.run.namespace);
    let looks = AtomicU32::new(0);
    let (_, report) = fixture.migrate(&guest, (A, B), Mode::TSMC, &|source, target| {
        if source.state == Some(State::Suspend) {
            brake.pull();
        } else if target.state == Some(State::Running) && looks.fetch_add(1, Ordering::Relaxed) == LOOKS {
            brake.release();
        }
    })?;
    assert_held(&report)?;
    let log = agents::console_log(AGENT_NAME);
    let said = fixture.hosts()?.dom0(B).run(&["grep", "answered early", &log])?.text();
    println!("the agent of B: {}", said.trim());
    // That the ring is never full nobody can promise who may be the last to get a processor.
    ensure!(said.contains("answered early"), "never more waited at once than keep a slot");
    Ok(())
}

/// To the host that it is on, as Xen's manual recommends for a test: one agent is both ends, and is not in its own list of peers.
pub fn to_its_own_host(fixture: &mut Fixture) -> Result<()> {
    let (guest, (from, to)) = fixture.take_guest()?;
    fixture.start_agents_as((from, to), (Channel::Sealed, &[*to]), (Channel::Sealed, &[*from]))?;
    fixture.assert_private(from)?;
    for mode in [Mode::TSMC, Mode::POSTCOPY] {
        let (_, report) = fixture.migrate(&guest, (from, from), mode, &|_, _| ())?;
        assert_held(&report)?;
        fixture.assert_private(from)?;
    }
    // And from there to elsewhere.
    fixture.set_resident(from);
    cross(fixture, Mode::TSMC, &|_, _| ()).map(drop)
}

/// Iterate, then stop and copy: what a hypervisor without paging gets.
pub fn precopy(fixture: &mut Fixture) -> Result<()> {
    let report = cross(fixture, Mode::PRECOPY, &|_, _| ())?;
    let faults = report.faults.map_or(0, |faults| faults.count);
    ensure!(faults == 0, "{faults} faults in a pre-copy");
    Ok(())
}

/// With nothing between the hosts' toolstacks but OpenSSH, which is told of our helper as docs/install.md says.
pub fn over_ssh(fixture: &mut Fixture) -> Result<()> {
    let (from, to) = fixture.way()?;
    ssh::install(fixture.testbed()?, from, to)?;
    fixture.hosts()?.shell = ssh::SHELL;
    let crossed = cross(fixture, Mode::TSMC, &|_, _| ());
    fixture.hosts()?.shell = SHELL;
    crossed.map(drop)
}

/// Xen's own helper, on an ordinary guest: the baseline, and the proof that our helper is not in its way.
pub fn stock(fixture: &mut Fixture) -> Result<()> {
    let guest = Guest::demo(fixture.artifacts(), Label::Ordinary);
    cross_as(fixture, &guest, Mode::Xl)
}

/// A guest of the test's own goes from A to B.
fn cross_as(fixture: &mut Fixture, guest: &Guest, mode: Mode) -> Result<()> {
    if mode != Mode::Xl {
        fixture.agents()?;
    }
    fixture.start_guest(A, guest)?;
    let (_, report) = fixture.migrate(guest, (A, B), mode, &|_, _| ())?;
    assert_held(&report)
}

/// The shared guest goes to the other host. The next test begins with it.
pub fn cross(fixture: &mut Fixture, mode: Mode, on_look: OnLook<'_>) -> Result<Report> {
    fixture.agents()?;
    let (guest, (from, to)) = fixture.take_guest()?;
    let (_, report) = fixture.migrate(&guest, (from, to), mode, on_look)?;
    assert_held(&report)?;
    fixture.set_resident(to);
    Ok(report)
}

/// Fails with every claim of the report that did not hold.
pub fn assert_held(report: &Report) -> Result<()> {
    let broken: Vec<&str> = report.claims.iter().filter(|claim| !claim.held).map(|claim| claim.what.as_str()).collect();
    ensure!(broken.is_empty(), "did not hold: {}", broken.join("; "));
    ensure!(!report.claims.is_empty(), "nothing was claimed");
    Ok(())
}
