//! What an operator asks for at a bad time: while pages of the guest are still on the host that it has left.

use anyhow::{Context, Result, ensure};

use super::super::fixture::Fixture;
use super::attempt::{Attempt, Moment};
use super::scene::{Scene, domains};
use crate::mode::Mode;
use crate::scenario::guest;
use crate::scenario::migration;
use crate::scenario::testbed::SHELL;
use crate::trouble::Trouble;

/// The guest runs on B, `xl` has ended, and stage 3 goes on.
fn early_in_stage_3(scene: &Scene) -> Result<(Attempt, Trouble)> {
    let (mut attempt, slow) = scene.stage_3()?;
    ensure!(attempt.ended()?.status == 0, "xl migrate failed");
    scene.says(scene.from, &attempt, "committed", &[])?;
    Ok((attempt, slow))
}

/// Stage 3 ends as if nothing had been asked for, and the guest can go back.
fn ends_well(scene: &mut Scene, attempt: &Attempt, slow: Trouble) -> Result<()> {
    ensure!(!attempt.is_over(), "stage 3 was over before the test had looked");
    drop(slow);
    attempt.reach(Moment::Complete)?;
    scene.runs_only_on(scene.to)?;
    scene.returns()
}

pub fn second_migration_in_stage_3(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (attempt, slow) = early_in_stage_3(&scene)?;
    let output = scene.dom0(scene.to)?.run(&migration::request(guest::NAME, scene.from, SHELL, Mode::TSMC).argv)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}");
    ensure!(output.status != 0, "xl migrates a guest of which pages are missing");
    ensure!(said.contains("an earlier migration of the guest has not ended here"), "xl does not say why");
    ends_well(&mut scene, &attempt, slow)
}

pub fn stock_save_in_stage_3(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (attempt, slow) = early_in_stage_3(&scene)?;
    let output = scene.dom0(scene.to)?.run(&["xl", "save", guest::NAME, "/dev/null"])?;
    println!("{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status != 0, "xl saves a guest of which pages are missing");
    ends_well(&mut scene, &attempt, slow)
}

pub fn pause_in_stage_3(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (attempt, slow) = early_in_stage_3(&scene)?;
    let dom0 = scene.dom0(scene.to)?;
    ensure!(dom0.run(&["xl", "pause", guest::NAME])?.success(), "xl pause fails");
    ensure!(!domains(&dom0)?.iter().any(|domain| domain.is_runnable()), "the guest runs although it is paused");
    ensure!(dom0.run(&["xl", "unpause", guest::NAME])?.success(), "xl unpause fails");
    ends_well(&mut scene, &attempt, slow)
}

/// Too late: the guest belongs to the target.
pub fn cancel_in_stage_3(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (attempt, slow) = early_in_stage_3(&scene)?;
    let (source, target) = attempt.names();
    for (place, name) in [(scene.from, source), (scene.to, target)] {
        let name = name.context("a session has no name")?;
        scene.dom0(place)?.run(&["tsmc", "cancel", &name])?;
    }
    ends_well(&mut scene, &attempt, slow)
}

/// The guest ends, and nobody waits for the rest of its pages.
pub fn shutdown_in_stage_3(fixture: &mut Fixture) -> Result<()> {
    let scene = Scene::set(fixture)?;
    let (attempt, slow) = early_in_stage_3(&scene)?;
    let dom0 = scene.dom0(scene.to)?;
    ensure!(dom0.run(&["xl", "shutdown", guest::NAME])?.success(), "xl shutdown fails");
    ensure!(!attempt.is_over(), "stage 3 was over before the test had looked");
    drop(slow);
    attempt.reach(Moment::Complete)?;
    scene.wait_empty(scene.to)?;
    scene.wait_empty(scene.from)
}
