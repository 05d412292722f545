//! An agent dies, or its whole host.

use anyhow::{Result, ensure};
use common::control::State;

use super::super::fixture::Fixture;
use super::super::watchdog::{MODULE, Watchdog, WatchedHost};
use super::attempt::Moment;
use super::scene::{Scene, domains};
use crate::network::Place;
use crate::nic::Nic;
use crate::scenario::agents::{self, AGENT_NAME, Agent};

pub fn source_killed_while_copying(fixture: &mut Fixture) -> Result<()> {
    killed_while_copying(fixture, |scene| scene.from)
}

pub fn target_killed_while_copying(fixture: &mut Fixture) -> Result<()> {
    killed_while_copying(fixture, |scene| scene.to)
}

/// The guest never stops. With a new agent it crosses.
fn killed_while_copying(fixture: &mut Fixture, whose: fn(&Scene) -> &'static Place) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let place = whose(&scene);
    let (mut attempt, slow) = scene.copying()?;
    scene.kill_agent(place)?;
    scene.fixture.restart_agent(place)?;
    let ended = attempt.ended()?;
    ensure!(ended.status != 0, "xl migrate exits with 0");
    ensure!(ended.printed.contains("the migration agent of this host died"), "xl does not say that an agent died");
    drop(slow);
    scene.runs_only_on(scene.from)?;
    scene.crosses()
}

pub fn target_killed_while_suspended(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, cut) = scene.suspended()?;
    scene.kill_agent(scene.to)?;
    attempt.reach(Moment::Failed)?;
    ensure!(attempt.ended()?.status != 0, "xl migrate exits with 0");
    drop(cut);
    scene.runs_only_on(scene.from)?;
    scene.fixture.restart_agent(scene.to)?;
    scene.crosses()
}

/// The guest stands still at the source with nobody who could run it, until there is an agent again: the helper, which has
/// waited for one, hands it the guest.
pub fn source_killed_while_suspended(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, cut) = scene.suspended()?;
    scene.kill_agent(scene.from)?;
    scene.fixture.restart_agent(scene.from)?;
    ensure!(attempt.ended()?.status != 0, "xl migrate exits with 0");
    drop(cut);
    scene.runs_only_on(scene.from)?;
    scene.crosses()
}

pub fn source_killed_in_stage_3(fixture: &mut Fixture) -> Result<()> {
    killed_in_stage_3(fixture, |scene| scene.from)
}

pub fn target_killed_in_stage_3(fixture: &mut Fixture) -> Result<()> {
    killed_in_stage_3(fixture, |scene| scene.to)
}

/// The guest waits at the target for pages that nobody brings, until there is an agent again that takes up the session.
fn killed_in_stage_3(fixture: &mut Fixture, whose: fn(&Scene) -> &'static Place) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let place = whose(&scene);
    let (mut attempt, slow) = scene.stage_3()?;
    ensure!(attempt.ended()?.status == 0, "xl migrate failed");
    ensure!(!attempt.is_over(), "stage 3 was over before the agent could die");
    scene.kill_agent(place)?;
    drop(slow);
    scene.fixture.restart_agent(place)?;
    scene.recover(place)?;
    scene.runs_only_on(scene.to)?;
    scene.returns()
}

pub fn host_gone_while_copying(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, slow) = scene.copying()?;
    scene.fixture.testbed()?.run.cut_power(scene.to)?;
    attempt.reach(Moment::Failed)?;
    ensure!(attempt.ended()?.status != 0, "xl migrate exits with 0");
    drop(slow);
    scene.says(scene.from, &attempt, "failed", &[])?;
    scene.fixture.boot_again(scene.to)?;
    scene.runs_only_on(scene.from)?;
    scene.crosses()
}

/// What the guest did at B is lost with B. A says so as long as it is asked, keeps its pages, lets nobody run them, and frees
/// them when it is told that B is gone for good.
pub fn host_gone_in_stage_3(fixture: &mut Fixture) -> Result<()> {
    let scene = Scene::set(fixture)?;
    let (mut attempt, slow) = scene.stage_3()?;
    ensure!(attempt.ended()?.status == 0, "xl migrate failed");
    scene.fixture.testbed()?.run.cut_power(scene.to)?;
    drop(slow);
    attempt.wait("the source's agent knows", |source, _| matches!(source.state, Some(State::Interrupted { .. })))?;
    scene.says(scene.from, &attempt, "interrupted", &[])?;
    let dom0 = scene.dom0(scene.from)?;
    let kept = domains(&dom0)?;
    ensure!(
        kept.len() == 1 && !kept[0].is_runnable(),
        "the source does not keep the guest, and only keep it: {kept:?}"
    );
    let number = kept[0].number.to_string();
    for command in [["xl", "unpause", &number], ["xl", "destroy", &number]] {
        // Whatever `xl` thinks came of it.
        dom0.run(&command)?;
        ensure!(domains(&dom0)? == kept, "dom0 may {}", command.join(" "));
    }
    let output = dom0.run(&["tsmc", "discard", &number, "--other-host-is-gone"])?;
    ensure!(output.success(), "tsmc discard fails: {}", String::from_utf8_lossy(&output.stderr));
    scene.wait_empty(scene.from)?;
    scene.fixture.boot_again(scene.to)
}

/// Twenty agents crash in the middle of stage 1, the source's and the target's by turns, while their cards go on reading and writing
/// their memory. The watchdog replaces each. The guest runs on, no memory is lost, and then the guest crosses.
pub fn twenty_crash_in_mid_stream(fixture: &mut Fixture) -> Result<()> {
    fixture.set_nic(Some(Nic::Pci))?;
    let mut scene = Scene::set(fixture)?;
    let (from, to) = (scene.from, scene.to);
    let sites = [from, to].map(|place| WatchedHost::prepare(scene.fixture, place));
    let sites = sites.into_iter().collect::<Result<Vec<_>>>()?;
    let mut free = None;
    for crash in 0..CRASHES {
        let site = &sites[crash % 2];
        site.configure(&site.agent, &agents::static_address(site.place.agent), MODULE)?;
        let (mut attempt, slow) = scene.copying()?;
        let crashed = site.dom0.sh(&format!("dom0-attack crash $(xl domid {AGENT_NAME})"))?.text();
        ensure!(crashed.starts_with("done"), "the agent does not crash: {crashed}");
        let mut watch = Watchdog::start(&site.dom0)?;
        watch.wait_for("is ready")?;
        scene.fixture.replace_agent(site.place, Agent::ready(&site.dom0)?)?;
        drop(slow);
        ensure!(attempt.ended()?.status != 0, "xl migrate exits with 0");
        scene.runs_only_on(from)?;
        scene.wait_idle()?;
        if crash % 2 == 1 {
            let now = [scene.free_mib(from)?, scene.free_mib(to)?];
            println!("{} crashes: {now:?} MiB are free", crash + 1);
            let before = *free.get_or_insert(now);
            ensure!(now.iter().zip(before).all(|(now, before)| now + 1 >= before), "{before:?} MiB were free before");
        }
    }
    scene.crosses()?;
    fixture.end_guest()?;
    fixture.set_nic(None)
}

/// So many agents crash.
const CRASHES: usize = 20;
