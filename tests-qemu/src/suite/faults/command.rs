//! `tsmc migrate`, as operators and their programs use it.

use anyhow::{Result, ensure};
use tests_qemu::exec::Request;

use super::super::fixture::Fixture;
use super::attempt::{Ended, Moment};
use super::scene::{Scene, interrupt};
use crate::scenario::guest;
use crate::scenario::testbed::SHELL;

/// What is in the way is said before anything begins. What is given up ends with the guest where it was, and with the status that says
/// so. What succeeds says that, and nothing of libxl's.
pub fn looks_ahead_and_tells_the_outcome(fixture: &mut Fixture) -> Result<()> {
    let scene = Scene::set(fixture)?;
    let far = scene.dom0(scene.to)?;
    scene.fixture.shared_guest().create_paused(&far, guest::NAME)?;
    let ended = scene.attempt_by(&request(&scene, &[]))?.ended()?;
    far.run(&["xl", "destroy", guest::NAME])?;
    ends(&ended, 1, "has the name guest already")?;
    ensure!(!ended.printed.contains("migration target"), "xl was started:\n{}", ended.printed);
    scene.runs_only_on(scene.from)?;

    let (mut attempt, slow) = scene.copying_by(&request(&scene, &[]))?;
    interrupt(&attempt.dom0, "tsmc migrate")?;
    attempt.reach(Moment::Failed)?;
    ends(&attempt.ended()?, 3, "guest runs on here: interrupted")?;
    scene.runs_only_on(scene.from)?;
    let mut attempt = scene.attempt_by(&request(&scene, &["--timeout", "25", "--json"]))?;
    attempt.reach(Moment::Failed)?;
    drop(slow);
    ends(&attempt.ended()?, 3, r#""outcome":"given-up""#)?;
    scene.runs_only_on(scene.from)?;

    let bounded = request(&scene, &["--mode", "precopy", "--max-downtime", "1"]);
    ends(&scene.attempt_by(&bounded)?.ended()?, 1, "1 ms are allowed")?;
    scene.runs_only_on(scene.from)?;

    let mut attempt = scene.attempt_by(&request(&scene, &[]))?;
    attempt.reach(Moment::Complete)?;
    let ended = attempt.ended()?;
    ends(&ended, 0, &format!("guest runs on {}", scene.to.dom0))?;
    // Guests here boot from files that are gone by then.
    ensure!(ended.printed.contains("guest cannot reboot without it"), "{}", ended.printed);
    ensure!(ended.printed.contains("stage 1: ") && !ended.printed.contains("libxl"), "{}", ended.printed);
    scene.runs_only_on(scene.to)?;
    scene.fixture.set_resident(scene.to);
    Ok(())
}

fn request(scene: &Scene, options: &[&str]) -> Request {
    let to = scene.to.dom0.to_string();
    Request::new(&[&["tsmc", "migrate", "-s", SHELL], options, &[guest::NAME, &to]].concat())
}

/// Fails unless it ended with this status, and printed these words.
fn ends(ended: &Ended, status: i32, words: &str) -> Result<()> {
    ensure!(ended.status == status, "tsmc migrate exits with {}:\n{}", ended.status, ended.printed);
    ensure!(ended.printed.contains(words), "tsmc migrate does not say '{words}':\n{}", ended.printed);
    Ok(())
}
