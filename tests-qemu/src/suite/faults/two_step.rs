//! `xl`'s own two-step after the commit: the receiver says *ready*, the sender says *go*, the receiver reports. Broken at
//! any of its places, it leaves one guest: at the target if that had been told to go.

use anyhow::{Result, ensure};
use tests_qemu::exec::Request;

use super::super::fixture::Fixture;
use super::attempt::Moment;
use super::scene::Scene;
use crate::cli::Mode;
use crate::scenario::guest;
use crate::scenario::migration;

pub fn report_lost(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let mut attempt = scene.attempt_by(&until(&scene, "report"))?;
    attempt.reach(Moment::Complete)?;
    ensure!(attempt.ended()?.status != 0, "xl migrate exits with 0");
    scene.runs_only_on(scene.to)?;
    scene.returns()
}

/// A migration whose transport breaks in front of a message of the two-step.
fn until(scene: &Scene, message: &str) -> Request {
    let mut request = migration::request(guest::NAME, scene.to, Mode::Tsmc);
    for word in &mut request.argv {
        if word == "dom0d --ssh" {
            *word = format!("dom0d --ssh-until {message}");
        }
    }
    request
}
