//! Debian's own hypervisor, where dom0 lends the agents each guest.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::super::crossings::assert_held;
use super::super::fixture::{Fixture, SHARED_MIB};
use super::super::policies::{load_policy, policy_with};
use super::super::refusals::assert_refused_early;
use super::attempt::LIMIT;
use super::{agents, guests, toolstack, two_step};
use crate::mode::Mode;
use crate::network::Place;
use crate::qemu::Hypervisor;
use crate::scenario::agents::AGENT_NAME;
use crate::scenario::guest::{self, Guest, Label};
use crate::scenario::testbed::{A, B};

/// A guest with two virtual CPUs crosses, and goes back.
pub fn there_and_back(fixture: &mut Fixture) -> Result<()> {
    on_stock(fixture, crosses_there_and_back)
}

fn crosses_there_and_back(fixture: &mut Fixture) -> Result<()> {
    let mut guest = Guest::demo(fixture.artifacts(), Label::Ordinary);
    (guest.vcpus, guest.memory_mib) = (2, SHARED_MIB);
    fixture.start_guest(A, &guest)?;
    for (from, to) in [(A, B), (B, A)] {
        let (_, report) = fixture.migrate(&guest, (from, to), Mode::TSMC, &|_, _| ())?;
        assert_held(&report)?;
        nothing_is_lent(fixture, to)?;
    }
    Ok(())
}

/// A guest whose own grant table is in use crosses: one that takes and gives back 10,000 entries meanwhile; one that grows to where the
/// agent works, where there is little room; one with a short table; one that has no entry left for anything.
pub fn tables(fixture: &mut Fixture) -> Result<()> {
    let guests = [
        ("", ",--grants=10000"),
        ("max_grant_frames=24\n", ",--grants=11000"),
        ("max_grant_frames=2\n", ""),
        ("max_grant_frames=8\n", ",--grants=8000,--keep-grants"),
    ];
    on_stock(fixture, |fixture| {
        let mut guest = Guest::demo(fixture.artifacts(), Label::Ordinary);
        let mut way = (A, B);
        for (settings, more) in guests {
            (guest.settings, guest.load.more) = (settings, more);
            fixture.start_guest(way.0, &guest)?;
            if more.contains("keep") {
                fills_up(fixture, way.0)?;
            }
            let (_, report) = fixture.migrate(&guest, way, Mode::TSMC, &|_, _| ())?;
            assert_held(&report)?;
            nothing_is_lent(fixture, way.1)?;
            fixture.end_guest()?;
            way = (way.1, way.0);
        }
        Ok(())
    })
}

/// Waits until the guest on `place` can grant no more.
fn fills_up(fixture: &Fixture, place: &Place) -> Result<()> {
    let dom0 = fixture.testbed()?.dom0(place);
    let command = format!("grep 'can be granted' /var/log/xen/console/guest-{}.log", guest::NAME);
    let begun = Instant::now();
    while !dom0.sh(&command)?.success() {
        ensure!(begun.elapsed() < LIMIT, "the guest's table does not fill up");
    }
    Ok(())
}

/// From Debian 12 to Debian 13, as both come, a guest crosses, there it goes on, and back it does not: a newer hypervisor's records do
/// not load in an older one.
pub fn to_a_newer_xen(fixture: &mut Fixture) -> Result<()> {
    let mixed = |fixture: &mut Fixture| {
        let mut guest = Guest::demo(fixture.artifacts(), Label::Ordinary);
        guest.memory_mib = SHARED_MIB;
        fixture.start_guest(A, &guest)?;
        let (_, report) = fixture.migrate(&guest, (A, B), Mode::TSMC, &|_, _| ())?;
        assert_held(&report)?;
        nothing_is_lent(fixture, B)?;
        assert_refused_early(fixture, &guest, (B, A), &["Xen 4.17", "older than the source's Xen 4.20"])?;
        nothing_is_lent(fixture, B)
    };
    fixture.on_other_hosts(|size| size.hypervisors = [Hypervisor::Stock, Hypervisor::Stock13], mixed)
}

/// The same as [`there_and_back`] on Debian 13.
pub fn there_and_back_on_debian_13(fixture: &mut Fixture) -> Result<()> {
    fixture.on_other_hosts(|size| size.hypervisors = [Hypervisor::Stock13; 2], crosses_there_and_back)
}

/// A hypervisor that forbids grants between guests leaves the agent no way to any.
pub fn silo(fixture: &mut Fixture) -> Result<()> {
    let refused = |fixture: &mut Fixture| {
        let mut guest = Guest::demo(fixture.artifacts(), Label::Ordinary);
        guest.memory_mib = SHARED_MIB;
        fixture.start_guest(A, &guest)?;
        assert_refused_early(fixture, &guest, (A, B), &["xsm=silo"])?;
        nothing_is_lent(fixture, A)
    };
    fixture.on_other_hosts(|size| size.hypervisors = [Hypervisor::Silo; 2], refused)
}

/// Between a host with FLASK and one without a guest crosses, both ways, but no guest whose memory dom0 may not read.
pub fn between_kinds(fixture: &mut Fixture) -> Result<()> {
    let mixed = |fixture: &mut Fixture| {
        let mut guest = Guest::demo(fixture.artifacts(), Label::Ordinary);
        guest.memory_mib = SHARED_MIB;
        let policy = policy_with(fixture.paths(), "tsmc_guest(domU_t)\n")?;
        load_policy(&fixture.hosts()?.dom0(A), &policy)?;
        fixture.start_guest(A, &guest)?;
        let (_, report) = fixture.migrate(&guest, (A, B), Mode::TSMC, &|_, _| ())?;
        assert_held(&report)?;
        nothing_is_lent(fixture, B)?;
        let (_, report) = fixture.migrate(&guest, (B, A), Mode::TSMC, &|_, _| ())?;
        assert_held(&report)?;
        fixture.end_guest()?;
        guest.label = Label::Private;
        fixture.start_guest(A, &guest)?;
        assert_refused_early(fixture, &guest, (A, B), &["dom0 of the other host could read this guest"])
    };
    fixture.on_other_hosts(|size| size.hypervisors = [Hypervisor::Full, Hypervisor::Stock], mixed)
}

/// A helper, `xl`, an agent: whoever dies before the commit, the guest goes on, and the next attempt succeeds.
pub fn before_the_commit(fixture: &mut Fixture) -> Result<()> {
    each(
        fixture,
        &[
            toolstack::broker_killed_while_copying,
            toolstack::save_helper_killed_while_copying,
            toolstack::save_helper_killed_while_suspended,
            toolstack::ctrl_c_while_copying,
            agents::source_killed_while_copying,
            agents::target_killed_while_copying,
            guests::balloons_while_copying,
        ],
    )
}

/// `xl`'s two steps break after the commit: one guest runs, at B if that had been told to go, else at A.
pub fn two_step_broken(fixture: &mut Fixture) -> Result<()> {
    each(
        fixture,
        &[
            two_step::ready_lost,
            two_step::go_lost,
            two_step::report_lost,
            two_step::source_agent_killed_before_go,
            two_step::target_agent_killed_before_go,
            two_step::source_agent_and_sender_killed_before_go,
        ],
    )
}

/// Tests of other hosts on these. After each nothing of the guest is lent, and its dirty log is off.
fn each(fixture: &mut Fixture, tests: &[fn(&mut Fixture) -> Result<()>]) -> Result<()> {
    on_stock(fixture, |fixture| {
        for test in tests {
            test(fixture)?;
            let (_, (place, _)) = fixture.take_guest()?;
            nothing_is_lent(fixture, place)?;
            fixture.set_resident(place);
            fixture.assert_clean()?;
        }
        Ok(())
    })
}

fn on_stock(fixture: &mut Fixture, test: impl FnOnce(&mut Fixture) -> Result<()>) -> Result<()> {
    fixture.on_other_hosts(|size| size.hypervisors = [Hypervisor::Stock; 2], test)
}

/// Fails if the guest on `place` lets the agent use pages of it, or if something that must be undone is still written down there.
fn nothing_is_lent(fixture: &Fixture, place: &Place) -> Result<()> {
    let dom0 = fixture.testbed()?.dom0(place);
    let command = format!("lent-entries $(xl domid {}) $(xl domid {AGENT_NAME})", guest::NAME);
    let lent = dom0.sh(&command)?.text();
    let count: usize = lent.trim().parse().with_context(|| format!("lent-entries says {lent}"))?;
    ensure!(count == 0, "{count} pages of the guest on {} are still lent", place.letter);
    let held = dom0.sh("cat /run/tsmc-ring-*")?.text();
    ensure!(held.trim().is_empty(), "still written down on {}: {held}", place.letter);
    Ok(())
}
