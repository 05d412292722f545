//! Migrations that are refused: a clear line at the user's `xl`, the guest unharmed where it was, nothing left behind.

use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests_qemu::report::Report;

use super::crossings::cross;
use super::fixture::{Fixture, Way};
use super::policies::{load_policy, policy_without};
use crate::mode::Mode;
use crate::scenario::agents::{AGENT_NAME, domain_id};
use crate::scenario::guest::{self, Guest, Label};
use crate::scenario::migration::Crossing;

/// The guest that takes the target's memory away.
const FILLER: &str = "filler";

/// The target's host has no agent.
pub fn no_agent(fixture: &mut Fixture) -> Result<()> {
    fixture.agents()?;
    let (guest, (from, to)) = fixture.take_guest()?;
    fixture.hosts()?.dom0(to).run(&["xl", "destroy", AGENT_NAME])?;
    let result = assert_refused(fixture, &guest, (from, to), &["agent"]);
    fixture.drop_agents()?;
    result
}

/// The policy of the source lacks a permission that the agent needs.
pub fn no_permission(fixture: &mut Fixture) -> Result<()> {
    fixture.agents()?;
    let (guest, (from, to)) = fixture.take_guest()?;
    let lame = policy_without(fixture.paths(), "logdirty")?;
    let full = fixture.artifacts().boot.policy.clone();
    let dom0 = fixture.hosts()?.dom0(from);
    load_policy(&dom0, &lame)?;
    let result = assert_refused(fixture, &guest, (from, to), &["logdirty"]);
    load_policy(&dom0, &full)?;
    result?;
    // Nothing of the refused attempt is in the way of the next one: no dirty log, no session.
    cross(fixture, Mode::TSMC, &|_, _| ()).map(drop)
}

/// The target lets the guest have a shorter grant table than it has.
pub fn no_room_for_grants(fixture: &mut Fixture) -> Result<()> {
    fixture.agents()?;
    let (guest, (from, to)) = fixture.take_guest()?;
    let dom0 = fixture.hosts()?.dom0(from);
    let (shorter, address) = ("/root/shorter-cfg", to.dom0.to_string());
    let uuid = dom0.sh(&format!("xenstore-read /local/domain/$(xl domid {})/vm", guest::NAME))?.text();
    let uuid = uuid.trim().trim_start_matches("/vm/");
    let lines = format!("uuid=\"{uuid}\"\nmax_grant_frames=1");
    dom0.put(guest.configuration_with(&lines).as_bytes(), shorter, 0o644)?;
    let shell = fixture.testbed()?.shell;
    let output = dom0.run(&["xl", "migrate", "-C", shorter, "-s", shell, guest::NAME, &address])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.success() && said.contains("gnttab_max_frames"), "it is not refused:\n{said}");
    fixture.set_resident(from);
    // It is whole, and the same migration with another limit is no problem.
    cross(fixture, Mode::TSMC, &|_, _| ()).map(drop)
}

/// The target's host has less memory left than the guest has.
pub fn no_memory(fixture: &mut Fixture) -> Result<()> {
    fixture.agents()?;
    let (guest, (from, to)) = fixture.take_guest()?;
    let dom0 = fixture.hosts()?.dom0(to);
    let free = dom0.run(&["xl", "info", "free_memory"])?.text();
    let free: u32 = free.parse().context("xl info prints a number")?;
    let mut filler = Guest::demo(fixture.artifacts(), Label::Ordinary);
    filler.memory_mib = free - guest.memory_mib / 2;
    filler.create_paused(&dom0, FILLER)?;
    let result = assert_refused(fixture, &guest, (from, to), &["memory"]);
    dom0.run(&["xl", "destroy", FILLER])?;
    result
}

/// Tries to migrate the shared guest, in vain. The next attempt begins with it.
pub fn assert_refused(fixture: &mut Fixture, guest: &Guest, way: Way, words: &[&str]) -> Result<()> {
    let outcome = fixture.migrate(guest, way, Mode::TSMC, &|_, _| ())?;
    assert_stayed(fixture, way, &outcome, words)?;
    fixture.set_resident(way.0);
    Ok(())
}

/// Fails unless the guest stays, and is refused before its memory begins to move, in a line with these words.
pub fn assert_refused_early(fixture: &mut Fixture, guest: &Guest, way: Way, words: &[&str]) -> Result<()> {
    let moved = Once::new();
    let outcome = fixture.migrate(guest, way, Mode::TSMC, &|source, _| {
        if source.progress.is_some() {
            moved.call_once(|| ());
        }
    })?;
    ensure!(!moved.is_completed(), "its memory has begun to move");
    assert_stayed(fixture, way, &outcome, words)
}

/// After a migration that must have failed: `xl` has printed one line with all of `words`, and the guest goes on where it was.
pub fn assert_stayed(
    fixture: &mut Fixture,
    (from, to): Way,
    (crossing, report): &(Crossing, Report),
    words: &[&str],
) -> Result<()> {
    ensure!(crossing.status != 0, "xl migrate exits with 0");
    let Some(reason) = crossing.printed.lines().find(|line| words.iter().all(|word| line.contains(word))) else {
        bail!("xl says nowhere why (looked for {}):\n{}", words.join(", "), crossing.printed);
    };
    println!("the reason that xl shows: {reason}");
    let before = report.guest_before.as_ref().context("the guest was not asked before")?;
    let mut load = guest::load().context("the guest has stopped")?;
    let writes = load.status()?.writes;
    std::thread::sleep(Duration::from_secs(1));
    let after = load.status()?;
    ensure!(after.writes > writes && writes > before.writes, "the guest stands still on {}", from.letter);
    let check = load.check()?;
    ensure!(check.errors == 0, "{} pages of the guest are wrong", check.errors);
    let testbed = fixture.hosts()?;
    ensure!(domain_id(&testbed.dom0(from), guest::NAME)?.is_some(), "the guest is not on {}", from.letter);
    let list = testbed.dom0(to).run(&["xl", "list"])?.text();
    ensure!(!list.contains("guest") && !list.contains("(null)"), "half a domain is left on {}:\n{list}", to.letter);
    let status = testbed.dom0(from).run(&["tsmc", "status"])?.text();
    ensure!(!status.contains("copying") && !status.contains("listening"), "a session is left:\n{status}");
    Ok(())
}
