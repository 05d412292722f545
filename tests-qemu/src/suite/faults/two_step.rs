//! `xl`'s own two-step after the commit: the receiver says *ready*, the sender says *go*, the receiver reports. Broken at
//! each of its places, it leaves one guest: at B if B had been told to go, else back at A.

use anyhow::{Result, ensure};
use tests_qemu::exec::Request;

use super::super::fixture::Fixture;
use super::attempt::Moment;
use super::homecoming::{comes_back, goes_on};
use super::scene::{RECEIVER, SENDER, Scene, signal};
use crate::mode::Mode;
use crate::network::Place;
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

pub fn source_agent_killed_before_go(fixture: &mut Fixture) -> Result<()> {
    agent_killed_before_go(fixture, |scene| scene.from)
}

pub fn target_agent_killed_before_go(fixture: &mut Fixture) -> Result<()> {
    agent_killed_before_go(fixture, |scene| scene.to)
}

/// The guest has left, and starts at B only when there is an agent again.
fn agent_killed_before_go(fixture: &mut Fixture, whose: fn(&Scene) -> &'static Place) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let place = whose(&scene);
    let (mut attempt, slow) = scene.stage_3()?;
    signal(&attempt.dom0, "STOP", SENDER)?;
    scene.kill_agent(place)?;
    drop(slow);
    scene.fixture.restart_agent(place)?;
    signal(&attempt.dom0, "CONT", SENDER)?;
    ensure!(attempt.ended()?.status == 0, "xl migrate fails");
    scene.runs_only_on(scene.to)?;
    scene.wait_idle()?;
    scene.returns()
}

/// Both that could give the guest back are gone, and it is the next agent that does.
pub fn source_agent_and_sender_killed_before_go(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, slow) = scene.stage_3()?;
    signal(&attempt.dom0, "KILL", SENDER)?;
    scene.kill_agent(scene.from)?;
    drop(slow);
    scene.fixture.restart_agent(scene.from)?;
    ensure!(attempt.ended()?.status != 0, "xl migrate exits with 0");
    goes_on(&scene)?;
    scene.crosses()
}

/// A migration whose transport breaks in front of a message of the two-step.
fn until(scene: &Scene, message: &str) -> Request {
    migration::request(guest::NAME, scene.to, &format!("dom0d --ssh-until {message}"), Mode::TSMC)
}
