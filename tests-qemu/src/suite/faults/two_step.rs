//! `xl`'s own two-step after the commit: the receiver says *ready*, the sender says *go*, the receiver reports. Broken at
//! each of its places, it leaves one guest: at B if B had been told to go, else back at A.

use anyhow::{Result, ensure};
use tests_qemu::exec::Request;

use super::super::fixture::Fixture;
use super::attempt::Moment;
use super::homecoming::comes_back;
use super::scene::{RECEIVER, SENDER, Scene, signal};
use crate::mode::Mode;
use crate::scenario::guest;
use crate::scenario::migration;

pub fn ready_lost(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let mut attempt = scene.attempt_by(&until(&scene, "ready"))?;
    comes_back(&mut scene, &mut attempt)
}

pub fn go_lost(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let mut attempt = scene.attempt_by(&until(&scene, "go"))?;
    comes_back(&mut scene, &mut attempt)
}

pub fn report_lost(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let mut attempt = scene.attempt_by(&until(&scene, "report"))?;
    attempt.reach(Moment::Complete)?;
    ensure!(attempt.ended()?.status != 0, "xl migrate exits with 0");
    scene.runs_only_on(scene.to)?;
    scene.returns()
}

pub fn sender_killed_before_go(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, slow) = scene.stage_3()?;
    signal(&attempt.dom0, "KILL", SENDER)?;
    drop(slow);
    comes_back(&mut scene, &mut attempt)
}

/// The receiving `xl` leaves a whole guest at B that it never started, and of which the sender thinks that it is lost.
pub fn receiver_killed_before_go(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, slow) = scene.stage_3()?;
    signal(&scene.dom0(scene.to)?, "KILL", RECEIVER)?;
    drop(slow);
    comes_back(&mut scene, &mut attempt)
}

/// A migration whose transport breaks in front of a message of the two-step.
fn until(scene: &Scene, message: &str) -> Request {
    migration::request(guest::NAME, scene.to, &format!("dom0d --ssh-until {message}"), Mode::TSMC)
}
