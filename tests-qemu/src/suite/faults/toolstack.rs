//! The toolstack dies, is interrupted, or gives up.

use anyhow::{Context, Result, ensure};

use super::super::fixture::Fixture;
use super::attempt::{Attempt, Moment};
use super::scene::{FOLLOWER, RECEIVER, RESTORE_HELPER, SAVE_HELPER, SENDER, Scene, interrupt, signal};
use crate::scenario::sessions;
use crate::trouble::Trouble;

/// Where in a migration, before the commit, something happens.
type Phase = fn(&Scene) -> Result<(Attempt, Trouble)>;

/// What happens.
type Blow = fn(&Scene, &Attempt) -> Result<()>;

const COPYING: Phase = |scene| scene.copying();
const SUSPENDED: Phase = |scene| scene.suspended();

/// The source's agent waits for the target's, which cannot reach it.
fn listening(scene: &Scene) -> Result<(Attempt, Trouble)> {
    let cut = scene.cut()?;
    let attempt = scene.attempt()?;
    attempt.reach(Moment::Listening)?;
    Ok((attempt, cut))
}

/// Whatever happens before the commit, the guest stays on A, whole, nothing is left on B, and the next attempt succeeds.
fn stays(fixture: &mut Fixture, phase: Phase, blow: Blow, words: &[&str]) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, trouble) = phase(&scene)?;
    blow(&scene, &attempt)?;
    attempt.reach(Moment::Failed)?;
    drop(trouble);
    scene.says(scene.from, &attempt, "failed", words)?;
    let ended = attempt.ended()?;
    ensure!(ended.status != 0, "xl migrate exits with 0");
    scene.runs_only_on(scene.from)?;
    scene.crosses()
}

pub fn save_helper_killed_while_copying(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, COPYING, |_, attempt| signal(&attempt.dom0, "KILL", SAVE_HELPER), &[])
}

/// Where it lends the guest, the migration ends with it.
pub fn broker_killed_while_copying(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, COPYING, |_, attempt| signal(&attempt.dom0, "KILL", FOLLOWER), &["broker"])
}

pub fn save_helper_killed_while_suspended(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, SUSPENDED, |_, attempt| signal(&attempt.dom0, "KILL", SAVE_HELPER), &[])
}

pub fn restore_helper_killed_while_copying(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, COPYING, |scene, _| signal(&scene.dom0(scene.to)?, "KILL", RESTORE_HELPER), &[])
}

pub fn restore_helper_killed_while_suspended(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, SUSPENDED, |scene, _| signal(&scene.dom0(scene.to)?, "KILL", RESTORE_HELPER), &[])
}

pub fn sender_killed_while_copying(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, COPYING, |_, attempt| signal(&attempt.dom0, "KILL", SENDER), &[])
}

pub fn sender_killed_while_suspended(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, SUSPENDED, |_, attempt| signal(&attempt.dom0, "KILL", SENDER), &[])
}

pub fn receiver_killed_while_copying(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, COPYING, kill_receiver, &[])
}

pub fn receiver_killed_while_suspended(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, SUSPENDED, kill_receiver, &[])
}

pub fn ctrl_c_while_listening(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, listening, |_, attempt| interrupt(&attempt.dom0, SENDER), &[])
}

pub fn ctrl_c_while_copying(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, COPYING, |_, attempt| interrupt(&attempt.dom0, SENDER), &[])
}

pub fn ctrl_c_while_suspended(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, SUSPENDED, |_, attempt| interrupt(&attempt.dom0, SENDER), &[])
}

pub fn cancel_while_listening(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, listening, cancel, &["cancelled"])
}

pub fn cancel_while_copying(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, COPYING, cancel, &["cancelled"])
}

pub fn cancel_while_suspended(fixture: &mut Fixture) -> Result<()> {
    stays(fixture, SUSPENDED, cancel, &["cancelled"])
}

/// An `xl` that is killed outright leaves the domain that it was building, which our follower destroys.
fn kill_receiver(scene: &Scene, _: &Attempt) -> Result<()> {
    signal(&scene.dom0(scene.to)?, "KILL", RECEIVER)
}

/// As an operator does it: the session's name is read from `tsmc status`.
fn cancel(_: &Scene, attempt: &Attempt) -> Result<()> {
    let sessions = sessions::now(&attempt.dom0)?;
    let (session, _) = sessions
        .iter()
        .rfind(|(name, session)| name.starts_with("out-") && !session.is_over())
        .context("tsmc status shows no session that goes on")?;
    let output = attempt.dom0.run(&["tsmc", "cancel", session])?;
    ensure!(output.success(), "tsmc cancel: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
