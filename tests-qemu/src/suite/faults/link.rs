//! The link between the hosts fails.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::fixture::Fixture;
use super::attempt::{Attempt, Moment};
use super::scene::Scene;
use crate::trouble::{Between, Trouble};

/// How long a link is away that comes back in time.
const AWAY: Duration = Duration::from_secs(5);

pub fn cut_while_copying(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (attempt, slow) = scene.copying()?;
    let cut = scene.cut()?;
    stays(&mut scene, attempt, (slow, cut))
}

/// The connection between the two `xl` goes down with the agents'.
pub fn cut_between_hosts_while_copying(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (attempt, slow) = scene.copying()?;
    let cut = Trouble::cut(scene.network()?, Between::Hosts)?;
    stays(&mut scene, attempt, (slow, cut))
}

pub fn cut_while_suspended(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (attempt, cut) = scene.suspended()?;
    stays(&mut scene, attempt, cut)
}

/// Next to nothing arrives, though the link is alive.
pub fn stalled_while_copying(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (attempt, slow) = scene.copying()?;
    drop(slow);
    let stalled = Trouble::slow(scene.network()?, scene.from, scene.to, 8)?;
    stays(&mut scene, attempt, stalled)
}

/// The agents give up by themselves while the link is as it is; the guest runs on at A, and crosses when it is mended.
fn stays<T>(scene: &mut Scene, mut attempt: Attempt, trouble: T) -> Result<()> {
    attempt.reach(Moment::Failed)?;
    scene.runs_on(scene.from)?;
    scene.says(scene.from, &attempt, "failed", &[])?;
    drop(trouble);
    ensure!(attempt.ended()?.status != 0, "xl migrate exits with 0");
    scene.runs_only_on(scene.from)?;
    scene.crosses()
}

pub fn back_in_time_while_copying(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (attempt, slow) = scene.copying()?;
    let cut = scene.cut()?;
    std::thread::sleep(AWAY);
    drop((slow, cut));
    arrives(&mut scene, attempt)
}

pub fn back_in_time_in_stage_3(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (attempt, slow) = scene.stage_3()?;
    let cut = scene.cut()?;
    scene.says(scene.from, &attempt, "committed", &[])?;
    scene.says(scene.to, &attempt, "running", &[])?;
    std::thread::sleep(AWAY);
    drop((slow, cut));
    arrives(&mut scene, attempt)
}

/// So late that the agents have given each other up: they say so, and meet again.
pub fn back_late_in_stage_3(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (attempt, slow) = scene.stage_3()?;
    let cut = scene.cut()?;
    attempt.reach(Moment::Interrupted)?;
    scene.says(scene.from, &attempt, "interrupted", &[])?;
    scene.says(scene.to, &attempt, "interrupted", &[])?;
    drop((slow, cut));
    arrives(&mut scene, attempt)
}

pub fn loses_one_percent(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let lossy = Trouble::lose(scene.network()?, Between::Agents, 10)?;
    let attempt = scene.attempt()?;
    attempt.reach(Moment::Complete)?;
    drop(lossy);
    arrives(&mut scene, attempt)
}

/// The migration succeeds, and the guest can go back.
pub(super) fn arrives(scene: &mut Scene, mut attempt: Attempt) -> Result<()> {
    attempt.reach(Moment::Complete)?;
    ensure!(attempt.ended()?.status == 0, "xl migrate failed");
    scene.runs_only_on(scene.to)?;
    scene.returns()
}
