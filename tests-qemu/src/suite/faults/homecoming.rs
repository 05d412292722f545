//! Whatever keeps a guest from running at B after the commit, it comes back to A, and nobody has to do anything for that: it can
//! migrate, shut down and reboot as ever. And what operators can do that would have a guest run twice, or nowhere.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::super::fixture::{Fixture, kept};
use super::attempt::{Attempt, LIMIT, Moment};
use super::guests::{forget_files, keep_files};
use super::scene::{Domain, INCOMING, RECEIVER, Scene, domains, signal};
use crate::network::Place;
use crate::scenario::guest::{self, Guest, Label};

/// The script that connects a guest's network interface, and where it waits while another one takes its place.
const SCRIPT: &str = "/etc/xen/scripts/vif-tsmc";
const KEPT: &str = "/root/vif-tsmc";

/// libxl destroys the copy at B, since it has no network. The guest that is back reboots and shuts down.
pub fn vif_script_fails(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let far = scene.dom0(scene.to)?;
    let fails = format!("mv {SCRIPT} {KEPT} && printf '#!/bin/sh\\nexit 1\\n' >{SCRIPT} && chmod 755 {SCRIPT}");
    ensure!(far.sh(&fails)?.success(), "the script cannot be replaced");
    let mut attempt = scene.attempt()?;
    let back = is_back(&mut scene, &mut attempt);
    ensure!(far.sh(&format!("mv {KEPT} {SCRIPT}"))?.success(), "the script cannot be put back");
    back?;

    let dom0 = scene.dom0(scene.from)?;
    keep_files(&scene, scene.from)?;
    let before: Vec<u32> = domains(&dom0)?.iter().map(|domain| domain.number).collect();
    ensure!(dom0.run(&["xl", "reboot", guest::NAME])?.success(), "xl reboot fails");
    let anew = |domain: &Domain| !before.contains(&domain.number);
    wait(|| Ok(domains(&dom0)?.iter().any(anew)), "xl does not start the guest anew")?;
    guest::wait_ready()?;
    forget_files(&scene, scene.from)?;
    scene.runs_only_on(scene.from)?;
    scene.crosses()?;
    // It ends here.
    scene.fixture.take_guest()?;
    ensure!(scene.dom0(scene.to)?.run(&["xl", "shutdown", guest::NAME])?.success(), "xl shutdown fails");
    scene.wait_empty(scene.to)
}

/// The receiving `xl` was told to go, and finds that a domain has the guest's name.
pub fn name_is_taken(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let mut other = Guest::demo(scene.fixture.artifacts(), Label::Ordinary);
    other.memory_mib = 128;
    let far = scene.dom0(scene.to)?;
    other.create_paused(&far, guest::NAME)?;
    let mut attempt = scene.attempt()?;
    ensure!(attempt.ended()?.status != 0, "xl migrate exits with 0");
    attempt.reach(Moment::Failed)?;
    ensure!(far.run(&["xl", "destroy", guest::NAME])?.success(), "xl destroy fails");
    goes_on(&scene)?;
    scene.crosses()
}

/// An operator destroys the copy before it has run.
pub fn copy_is_destroyed(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, far) = committed(&scene)?;
    ensure!(far.run(&["xl", "destroy", INCOMING])?.success(), "xl destroy {INCOMING} fails");
    signal(&far, "CONT", RECEIVER)?;
    comes_back(&mut scene, &mut attempt)
}

/// The receiving `xl` has died before it had finished, and an operator unpauses what it has left, as one does with Xen's own
/// migration. That it may not, since no guest runs there yet: it comes back.
pub fn copy_is_unpaused(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, far) = committed(&scene)?;
    let label = far.sh(&format!("xl list -Z | grep '^{INCOMING} '"))?.text();
    ensure!(label.contains("_inbound"), "xl had finished: {label}");
    let output = far.run(&["xl", "unpause", INCOMING])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("xl unpause {INCOMING}: {said}");
    let runs = domains(&far)?.iter().any(Domain::is_runnable);
    ensure!(!runs, "dom0 lets a domain run that is not a guest yet");
    signal(&far, "KILL", RECEIVER)?;
    comes_back(&mut scene, &mut attempt)
}

/// dom0 resumes and unpauses the guest between the taking of its state and the commit, for which the target's word is missing.
pub fn resumed_before_the_commit(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, cut) = scene.suspended()?;
    let dom0 = scene.dom0(scene.from)?;
    wait(|| Ok(domains(&dom0)?.iter().any(Domain::is_paused)), "the agent does not hold the guest")?;
    let said = dom0.sh(&format!("dom0-attack run $(xl domid {})", guest::NAME))?.text();
    ensure!(!said.contains("refused"), "dom0 cannot meddle: {said}");
    wait(|| Ok(domains(&dom0)?.iter().any(Domain::is_runnable)), "the guest does not run")?;
    drop(cut);
    attempt.reach(Moment::Failed)?;
    scene.says(scene.from, &attempt, "failed", &["the guest was resumed on this host"])?;
    ensure!(attempt.ended()?.status != 0, "xl migrate exits with 0");
    scene.runs_only_on(scene.from)?;
    scene.crosses()
}

/// At either end, and at the source when it was switched off in the middle.
pub fn not_enforced(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    for place in [scene.from, scene.to] {
        enforce(&scene, place, false)?;
        let refused = refused(&scene);
        enforce(&scene, place, true)?;
        let said = refused?;
        ensure!(said.contains("the security policy is not enforced"), "xl does not say why: {said}");
    }
    let (mut attempt, slow) = scene.copying()?;
    enforce(&scene, scene.from, false)?;
    drop(slow);
    let failed = attempt.reach(Moment::Failed);
    enforce(&scene, scene.from, true)?;
    failed?;
    ensure!(attempt.ended()?.status != 0, "xl migrate exits with 0");
    scene.runs_only_on(scene.from)?;
    scene.crosses()
}

/// One that an operator has paused, before or meanwhile.
pub fn paused(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let dom0 = scene.dom0(scene.from)?;
    ensure!(dom0.run(&["xl", "pause", guest::NAME])?.success(), "xl pause fails");
    let said = refused(&scene)?;
    ensure!(said.contains("the guest is paused"), "xl does not say why: {said}");
    ensure!(dom0.run(&["xl", "unpause", guest::NAME])?.success(), "xl unpause fails");
    let (mut attempt, slow) = scene.copying()?;
    ensure!(dom0.run(&["xl", "pause", guest::NAME])?.success(), "xl pause fails");
    attempt.reach(Moment::Failed)?;
    drop(slow);
    scene.says(scene.from, &attempt, "failed", &["the guest is paused"])?;
    ensure!(attempt.ended()?.status != 0, "xl migrate exits with 0");
    ensure!(domains(&dom0)?.iter().all(Domain::is_paused), "the guest does not stay paused");
    ensure!(dom0.run(&["xl", "unpause", guest::NAME])?.success(), "xl unpause fails");
    scene.runs_only_on(scene.from)?;
    scene.crosses()
}

/// What `xl migrate` says to a guest that is refused before anything moves. It runs on, or stays as it was.
fn refused(scene: &Scene) -> Result<String> {
    let mut attempt = scene.attempt()?;
    let ended = attempt.ended()?;
    ensure!(ended.status != 0, "xl migrate exits with 0");
    scene.wait_empty(scene.to)?;
    Ok(ended.printed)
}

fn enforce(scene: &Scene, place: &Place, enforces: bool) -> Result<()> {
    let output = scene.dom0(place)?.run(&["xl", "setenforce", if enforces { "1" } else { "0" }])?;
    ensure!(output.success(), "xl setenforce fails");
    Ok(())
}

/// The source has committed, and the receiving `xl` is stopped before it has finished the domain.
fn committed(scene: &Scene) -> Result<(Attempt, tests_qemu::exec::Dom0)> {
    let far = scene.dom0(scene.to)?;
    let (attempt, slow) = scene.copying()?;
    signal(&far, "STOP", RECEIVER)?;
    drop(slow);
    attempt.reach(Moment::Running)?;
    Ok((attempt, far))
}

/// The guest at B never ran. Nobody does anything, and it is back at A as it was.
pub fn comes_back(scene: &mut Scene, attempt: &mut Attempt) -> Result<()> {
    is_back(scene, attempt)?;
    scene.crosses()
}

fn is_back(scene: &mut Scene, attempt: &mut Attempt) -> Result<()> {
    ensure!(attempt.ended()?.status != 0, "xl migrate exits with 0");
    attempt.reach(Moment::Failed)?;
    goes_on(scene)
}

/// The guest runs at A, by its name, and A keeps nothing of its migration.
pub fn goes_on(scene: &Scene) -> Result<()> {
    scene.runs_only_on(scene.from)?;
    let dom0 = scene.dom0(scene.from)?;
    wait(|| Ok(domains(&dom0)?.iter().any(|domain| domain.name == guest::NAME)), "the guest has another name")?;
    wait(|| Ok(kept(&dom0)?.is_empty()), "A still keeps something")
}

fn wait(is_so: impl Fn() -> Result<bool>, otherwise: &str) -> Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < LIMIT, "{otherwise}");
    }
    Ok(())
}
