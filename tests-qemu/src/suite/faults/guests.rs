//! The guest does something of its own, or its toolstack does something to it; and the target's memory goes elsewhere.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::super::fixture::{Fixture, SHARED_MIB};
use super::attempt::{Attempt, LIMIT, Moment};
use super::scene::{Domain, SAVE_HELPER, Scene, domains, signal};
use crate::network::Place;
use crate::scenario::guest::{self, Guest, Label};

/// What the guest keeps when it gives memory back, MiB.
const SMALL_MIB: u32 = SHARED_MIB - 24;
/// The guest that takes the target's memory away.
const FILLER: &str = "filler";
/// What it leaves, MiB: some is needed for what Xen must know of it.
const LEFT_MIB: u32 = 20;
/// How much less memory than expected is none lost, MiB: Xen and dom0 keep some at hand.
const SLACK_MIB: u32 = 2;

/// Down and up again: what it takes back is other memory than what it gave.
pub fn balloons_while_copying(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, slow) = scene.copying()?;
    unsuspended(&attempt, || {
        resize(&scene, scene.from, SMALL_MIB)?;
        resize(&scene, scene.from, SHARED_MIB)
    })?;
    drop(slow);
    arrives(&mut scene, &mut attempt)
}

/// What it gives back while it is copied, it does not own at the target either: there, too, `xl` sees it get as small and as large as
/// it is told to be.
pub fn shrinks_while_copying(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, slow) = scene.copying()?;
    unsuspended(&attempt, || resize(&scene, scene.from, SMALL_MIB))?;
    drop(slow);
    arrives(&mut scene, &mut attempt)?;
    for mib in [SMALL_MIB, SHARED_MIB, SMALL_MIB, SHARED_MIB] {
        resize(&scene, scene.to, mib)?;
    }
    scene.runs_only_on(scene.to)
}

/// The target's toolstack has made a domain for the guest as it was when it left: it stays, and crosses as it is now.
pub fn grows_while_copying(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    resize(&scene, scene.from, SMALL_MIB)?;
    let (mut attempt, slow) = scene.copying()?;
    resize(&scene, scene.from, SHARED_MIB)?;
    drop(slow);
    fails(&mut scene, &mut attempt, "the guest has grown")?;
    scene.runs_only_on(scene.from)?;
    scene.crosses()
}

/// Its toolstack starts it anew, as a new domain, which a later attempt moves.
pub fn reboots_while_copying(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    keep_files(&scene, scene.from)?;
    let (mut attempt, slow) = scene.copying()?;
    ensure!(attempt.dom0.run(&["xl", "reboot", guest::NAME])?.success(), "xl reboot fails");
    fails(&mut scene, &mut attempt, "the guest")?;
    drop(slow);
    guest::wait_ready()?;
    forget_files(&scene, scene.from)?;
    scene.runs_only_on(scene.from)?;
    scene.wait_idle()?;
    scene.crosses()
}

/// It stays as it crashed, for whoever wants to know why.
pub fn crashes_while_copying(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let free = Free::of(&scene)?;
    let (mut attempt, slow) = scene.copying()?;
    crash(&scene, scene.from)?;
    fails(&mut scene, &mut attempt, "crashed")?;
    drop(slow);
    scene.wait_empty(scene.to)?;
    ensure!(domains(&attempt.dom0)?.iter().all(Domain::has_crashed), "the guest was made to run");
    destroy(&scene, scene.from)?;
    free.another_crosses(scene)
}

pub fn destroyed_while_copying(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let free = Free::of(&scene)?;
    let (mut attempt, slow) = scene.copying()?;
    destroy(&scene, scene.from)?;
    // It is gone, or still paused: xl pauses it first, and may take its time before it ends it.
    fails(&mut scene, &mut attempt, "the guest is ")?;
    drop(slow);
    free.another_crosses(scene)
}

/// Nobody waits for the rest of its pages; it starts anew where it is.
pub fn reboots_in_stage_3(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, slow) = scene.stage_3()?;
    ensure!(attempt.ended()?.status == 0, "xl migrate failed");
    keep_files(&scene, scene.to)?;
    ensure!(scene.dom0(scene.to)?.run(&["xl", "reboot", guest::NAME])?.success(), "xl reboot fails");
    ensure!(!attempt.is_over(), "stage 3 was over too early");
    drop(slow);
    attempt.reach(Moment::Complete)?;
    guest::wait_ready()?;
    forget_files(&scene, scene.to)?;
    scene.runs_only_on(scene.to)?;
    scene.wait_idle()?;
    scene.returns()
}

/// The rest of its pages follows, so that its crash can be looked into.
pub fn crashes_in_stage_3(fixture: &mut Fixture) -> Result<()> {
    let scene = Scene::set(fixture)?;
    let free = Free::of(&scene)?;
    let (mut attempt, slow) = scene.stage_3()?;
    ensure!(attempt.ended()?.status == 0, "xl migrate failed");
    crash(&scene, scene.to)?;
    ensure!(!attempt.is_over(), "stage 3 was over too early");
    drop(slow);
    attempt.reach(Moment::Complete)?;
    scene.wait_empty(scene.from)?;
    destroy(&scene, scene.to)?;
    free.another_crosses(scene)
}

pub fn destroyed_in_stage_3(fixture: &mut Fixture) -> Result<()> {
    let scene = Scene::set(fixture)?;
    let free = Free::of(&scene)?;
    let (mut attempt, slow) = scene.stage_3()?;
    ensure!(attempt.ended()?.status == 0, "xl migrate failed");
    ensure!(!attempt.is_over(), "stage 3 was over too early");
    destroy(&scene, scene.to)?;
    attempt.reach(Moment::Complete)?;
    drop(slow);
    free.another_crosses(scene)
}

/// The agent claims what the guest has before it takes any of it: nobody else gets that memory.
pub fn memory_taken_while_copying(fixture: &mut Fixture) -> Result<()> {
    let mut scene = Scene::set(fixture)?;
    let (mut attempt, slow) = scene.copying()?;
    let mut filler = Guest::demo(scene.fixture.artifacts(), Label::Ordinary);
    filler.memory_mib = scene.free_mib(scene.to)? - LEFT_MIB;
    let far = scene.dom0(scene.to)?;
    filler.create_paused(&far, FILLER)?;
    let (left, claimed) = (scene.free_mib(scene.to)?, far.run(&["xl", "info", "outstanding_claims"])?.text());
    println!("{left} MiB are left on {}, and {claimed} MiB claimed", scene.to.letter);
    ensure!(attempt.sessions().0.progress.is_some_and(|progress| progress.stage == 1), "stage 1 was over too early");
    drop(slow);
    attempt.reach(Moment::Complete)?;
    ensure!(far.run(&["xl", "destroy", FILLER])?.success(), "xl destroy {FILLER} fails");
    arrives(&mut scene, &mut attempt)
}

/// The migration succeeds. The next test begins with the guest.
fn arrives(scene: &mut Scene, attempt: &mut Attempt) -> Result<()> {
    attempt.reach(Moment::Complete)?;
    ensure!(attempt.ended()?.status == 0, "xl migrate failed");
    scene.runs_only_on(scene.to)?;
    scene.fixture.set_resident(scene.to);
    Ok(())
}

/// `xl migrate` fails, and says why in a line with `word`.
fn fails(scene: &mut Scene, attempt: &mut Attempt, word: &str) -> Result<()> {
    attempt.reach(Moment::Failed)?;
    scene.says(scene.from, attempt, "failed", &[word])?;
    let ended = attempt.ended()?;
    ensure!(ended.status != 0, "xl migrate exits with 0");
    let reason = ended.printed.lines().find(|line| line.contains("cannot leave") && line.contains(word));
    ensure!(reason.is_some(), "xl does not say why (looked for: {word})");
    Ok(())
}

/// Does `work` while the guest is copied, however little time it gets beside that: it is not suspended as long as the helper is
/// stopped.
fn unsuspended(attempt: &Attempt, work: impl FnOnce() -> Result<()>) -> Result<()> {
    signal(&attempt.dom0, "STOP", SAVE_HELPER)?;
    let worked = work();
    let is_copied = attempt.sessions().0.progress.is_some_and(|progress| progress.stage == 1);
    signal(&attempt.dom0, "CONT", SAVE_HELPER)?;
    ensure!(is_copied, "stage 1 was over too early");
    worked
}

/// Asks the guest to have so much memory, and waits until it has.
fn resize(scene: &Scene, place: &Place, mib: u32) -> Result<()> {
    let dom0 = scene.dom0(place)?;
    let output = dom0.run(&["xl", "mem-set", guest::NAME, &mib.to_string()])?;
    ensure!(output.success(), "xl mem-set: {}", String::from_utf8_lossy(&output.stderr));
    let begun = Instant::now();
    while !domains(&dom0)?.iter().any(|domain| domain.name == guest::NAME && domain.memory_mib == mib) {
        ensure!(begun.elapsed() < LIMIT, "the guest does not get to {mib} MiB: {:?}", domains(&dom0)?);
    }
    println!("the guest has {mib} MiB after {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn crash(scene: &Scene, place: &Place) -> Result<()> {
    let dom0 = scene.dom0(place)?;
    ensure!(dom0.run(&["xl", "sysrq", guest::NAME, "c"])?.success(), "xl sysrq fails");
    let begun = Instant::now();
    while !domains(&dom0)?.iter().any(Domain::has_crashed) {
        ensure!(begun.elapsed() < LIMIT, "the guest does not crash: {:?}", domains(&dom0)?);
    }
    println!("the guest has crashed on {} after {:.1} s", place.letter, begun.elapsed().as_secs_f64());
    Ok(())
}

fn destroy(scene: &Scene, place: &Place) -> Result<()> {
    let output = scene.dom0(place)?.run(&["xl", "destroy", guest::NAME])?;
    ensure!(output.success(), "xl destroy: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What the guest boots from is there when it reboots.
pub fn keep_files(scene: &Scene, place: &Place) -> Result<()> {
    scene.fixture.shared_guest().put_files(&scene.dom0(place)?, guest::NAME)
}

/// They are in dom0's memory.
pub fn forget_files(scene: &Scene, place: &Place) -> Result<()> {
    ensure!(scene.dom0(place)?.sh("rm /root/guest-kernel /root/guest-initramfs")?.success(), "no files to remove");
    Ok(())
}

/// Memory that nobody has while the guest runs on the first of the two hosts, MiB.
struct Free {
    from: u32,
    to: u32,
}

impl Free {
    fn of(scene: &Scene) -> Result<Self> {
        Ok(Self { from: scene.free_mib(scene.from)?, to: scene.free_mib(scene.to)? })
    }

    /// The guest is gone: its memory is free on both hosts, no session is left, and another guest can be made and migrated.
    fn another_crosses(self, scene: Scene) -> Result<()> {
        for (place, expected) in [(scene.from, self.from + SHARED_MIB), (scene.to, self.to)] {
            scene.wait_empty(place)?;
            let free = scene.free_mib(place)?;
            println!("{free} MiB are free on {}, {expected} were expected", place.letter);
            ensure!(free + SLACK_MIB >= expected, "memory is lost on {}", place.letter);
        }
        scene.wait_idle()?;
        Scene::set(scene.fixture)?.crosses()
    }
}
