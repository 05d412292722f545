//! Each permission of the agent's type is taken away, one by one: something breaks, or the permission should not be there.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tests_qemu::exec::Dom0;

use super::super::fixture::Fixture;
use super::super::policies::load_policy;
use super::attempt::{Attempt, LIMIT, Moment};
use super::scene::{Domain, Scene, domains};
use crate::command::{command, run};
use crate::network::Place;
use crate::paths::Paths;
use crate::scenario::guest;
use crate::scenario::testbed::{A, B};

/// The agent's type.
const AGENT: &str = "tsmc_agent_t";

/// What an undisturbed migration does not ask for, nor one that is given up, each with the path that does.
const OTHER_PATHS: [(&str, &[&str]); 4] = [
    ("a copy that never ran is revoked", &["tsmc_away_t:domain2 relabelfrom", "nomigrate_t:domain2 relabelto"]),
    (
        "an agent that was restarted takes up a guest that has left, or its peer calls again",
        &["tsmc_away_t:mmu stat", "tsmc_away_t:hvm getparam"],
    ),
    (
        "the memory of a guest that has left is freed bit by bit, if it is large or other guests are in hand",
        &["tsmc_away_t:mmu adjust", "tsmc_away_t:mmu map_write"],
    ),
    (
        "an agent that was restarted takes up a guest with absent pages",
        &[
            "nomigrate_t:hvm setparam",
            "nomigrate_t:mmu adjust",
            "nomigrate_t_inbound:domain resume",
            "nomigrate_t_inbound:hvm gethvmc",
            "nomigrate_t_inbound:hvm getparam",
            "nomigrate_t_inbound:hvm hvmctl",
            "nomigrate_t_inbound:mmu pageinfo",
            "nomigrate_t_inbound:shadow disable",
            "nomigrate_t_inbound:shadow logdirty",
        ],
    ),
];

/// One thing that the agent may do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Permission {
    target: String,
    class: String,
    name: String,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {}", self.target, self.class, self.name)
    }
}

impl Permission {
    /// Whether this line of Xen's console says that it was asked for and refused.
    fn is_denied_by(&self, line: &str) -> bool {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ends = |key: &str, value: &str| words.iter().any(|word| word.starts_with(key) && word.ends_with(value));
        words.contains(&"denied")
            && words.contains(&self.name.as_str())
            && ends("scontext=", &format!(":{AGENT}"))
            && ends("tcontext=", &format!(":{}", self.target))
            && ends("tclass=", &format!("={}", self.class))
    }
}

/// What a migration is like without a permission.
enum Without {
    /// Xen refused it, and something went wrong; what.
    Broken(String),
    /// Xen refused it, and the migration went on regardless.
    Degraded,
    /// Nobody asked for it.
    TheSame,
}

/// Without any one permission on guests that run, or are about to leave, a migration is not what it was.
pub fn on_running_guests(fixture: &mut Fixture) -> Result<()> {
    each_is_needed(fixture, &["nomigrate_t", "nomigrate_t_channel"])
}

/// The same for guests that arrive.
pub fn on_arriving_guests(fixture: &mut Fixture) -> Result<()> {
    each_is_needed(fixture, &["nomigrate_t_building", "nomigrate_t_inbound"])
}

/// The same for guests that have left.
pub fn on_guests_that_left(fixture: &mut Fixture) -> Result<()> {
    each_is_needed(fixture, &["tsmc_away_t"])
}

fn each_is_needed(fixture: &mut Fixture, targets: &[&str]) -> Result<()> {
    let paths = fixture.paths().clone();
    let full = fixture.artifacts().boot.policy.clone();
    let text = policy_text(&paths)?;
    let mut idle = Vec::new();
    for permission in permissions(&text).into_iter().filter(|permission| targets.contains(&&*permission.target)) {
        let name = permission.to_string();
        if let Some((path, _)) = OTHER_PATHS.iter().find(|(_, names)| names.contains(&&*name)) {
            println!("not without {name}: {path}");
            continue;
        }
        let lame = compile(&paths, &without(&text, &permission))?;
        match migrate_without(fixture, &permission, &lame, &full)? {
            Without::Broken(how) => println!("without {name}: {how}"),
            Without::Degraded => println!("without {name}: refused, and it goes on"),
            Without::TheSame => {
                println!("without {name}: the same");
                idle.push(name);
            }
        }
    }
    ensure!(idle.is_empty(), "nothing needs: {}", idle.join(", "));
    Ok(())
}

/// What is done without a permission; the last puts the whole policy in force again.
type Course = fn(&Scene, &Permission, &dyn Fn() -> Result<()>) -> Result<()>;

fn migrate_without(fixture: &mut Fixture, permission: &Permission, lame: &Path, full: &Path) -> Result<Without> {
    for course in [cross as Course, give_up] {
        let without = follow(fixture, permission, course, [lame, full])?;
        if !matches!(without, Without::TheSame) {
            return Ok(without);
        }
    }
    Ok(Without::TheSame)
}

fn follow(fixture: &mut Fixture, permission: &Permission, course: Course, policies: [&Path; 2]) -> Result<Without> {
    let [lame, full] = policies;
    let scene = Scene::set(fixture)?;
    let hosts = [scene.dom0(A)?, scene.dom0(B)?];
    for dom0 in &hosts {
        dom0.run(&["xl", "dmesg", "-c"])?;
        load_policy(dom0, lame)?;
    }
    let mend = || hosts.iter().try_for_each(|dom0| load_policy(dom0, full));
    let outcome = course(&scene, permission, &mend);
    mend()?;
    let mut denied = false;
    for dom0 in &hosts {
        denied |= is_denied(dom0, permission)?;
    }
    // Where the guest is as it was, it serves the next one.
    match whereabouts(&scene)? {
        Some(place) => fixture.set_resident(place),
        None => fixture.spoil(),
    }
    Ok(match outcome {
        Ok(()) if denied => Without::Degraded,
        Ok(()) => Without::TheSame,
        Err(error) if denied => Without::Broken(format!("{error:#}")),
        // A machine that is too slow, say.
        Err(error) => return Err(error.context(format!("nobody asked for {permission}, and yet"))),
    })
}

/// The one host on which the guest runs, whole.
fn whereabouts(scene: &Scene) -> Result<Option<&'static Place>> {
    for place in [scene.from, scene.to] {
        if domains(&scene.dom0(place)?)?.iter().any(Domain::is_runnable) && scene.runs_only_on(place).is_ok() {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// A migration that is given up after the guest has suspended: the guest goes on where it was.
fn give_up(scene: &Scene, _: &Permission, _: &dyn Fn() -> Result<()>) -> Result<()> {
    let (mut attempt, trouble) = scene.suspended().context("before the switch")?;
    let name = attempt.names().0.context("no session")?;
    attempt.dom0.run(&["tsmc", "cancel", &name])?;
    attempt.reach(Moment::Failed)?;
    drop(trouble);
    attempt.ended()?;
    scene.runs_only_on(scene.from).context("given up after the suspend")
}

/// A migration whose stage 3 goes on after the guest has got its last label.
fn cross(scene: &Scene, permission: &Permission, mend: &dyn Fn() -> Result<()>) -> Result<()> {
    let mut attempt = scene.attempt()?;
    let complete = cross_slowly(scene, &attempt);
    // An agent may try again for ever what it may not.
    mend()?;
    let ended = attempt.ended()?;
    if complete.is_err() {
        let words = [permission.class.as_str(), permission.name.as_str()];
        let line = ended.printed.lines().find(|line| words.iter().all(|word| line.contains(word)));
        return complete.context(line.unwrap_or("xl does not name the permission").to_owned());
    }
    scene.runs_only_on(scene.to)
}

fn cross_slowly(scene: &Scene, attempt: &Attempt) -> Result<()> {
    attempt.reach(Moment::Suspend)?;
    let slow = scene.crawl()?;
    attempt.reach(Moment::Running)?;
    let target = scene.dom0(scene.to)?;
    let begun = Instant::now();
    while !domains(&target)?.iter().any(|domain| domain.name == guest::NAME) {
        ensure!(begun.elapsed() < LIMIT, "the guest does not get its name");
    }
    drop(slow);
    attempt.reach(Moment::Complete)
}

fn is_denied(dom0: &Dom0, permission: &Permission) -> Result<bool> {
    Ok(dom0.run(&["xl", "dmesg"])?.text().lines().any(|line| permission.is_denied_by(line)))
}

/// The running policy's text, macros expanded.
fn policy_text(paths: &Paths) -> Result<String> {
    let output = folder(paths)?.join("xenpolicy");
    run(command("sh", [paths.workspace.join("toolstack/flask/build.sh")]).arg(paths.xen_source()).arg(&output))?;
    let text = folder(paths)?.join("xenpolicy.conf");
    fs::read_to_string(&text).with_context(|| text.display().to_string())
}

fn compile(paths: &Paths, text: &str) -> Result<PathBuf> {
    let (input, output) = (folder(paths)?.join("lame.conf"), folder(paths)?.join("lame"));
    fs::write(&input, text)?;
    run(command("checkpolicy", ["-t", "Xen", "-c", "30", "-o"]).arg(&output).arg(&input))?;
    Ok(output)
}

fn folder(paths: &Paths) -> Result<PathBuf> {
    let folder = paths.testbed.join("permissions");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// What the agent may do to others, in a policy's text. What every domain may do to itself is not ours.
fn permissions(text: &str) -> BTreeSet<Permission> {
    let mut all = BTreeSet::new();
    for (target, class, names) in text.lines().filter_map(rule) {
        if target.starts_with("nomigrate_t") || target.starts_with("tsmc_away_t") {
            all.extend(names.map(|name| Permission { target: target.into(), class: class.into(), name: name.into() }));
        }
    }
    all
}

/// `text` without one permission, wherever it is given to the agent.
fn without(text: &str, permission: &Permission) -> String {
    let mut result = String::with_capacity(text.len());
    for line in text.lines() {
        match rule(line) {
            Some((target, class, names)) if target == permission.target && class == permission.class => {
                let rest: Vec<&str> = names.filter(|name| *name != permission.name).collect();
                if !rest.is_empty() {
                    result.push_str(&format!("allow {AGENT} {target}:{class} {{ {} }};", rest.join(" ")));
                }
            }
            _ => result.push_str(line),
        }
        result.push('\n');
    }
    result
}

/// Target, class and permissions of a rule about the agent.
fn rule(line: &str) -> Option<(&str, &str, impl Iterator<Item = &str>)> {
    // allow tsmc_agent_t nomigrate_t:domain { pause unpause };
    let rest = line.trim().strip_prefix("allow ")?.strip_prefix(AGENT)?.strip_prefix(' ')?;
    let (target, rest) = rest.split_once(':')?;
    let (class, names) = rest.split_once(' ')?;
    Some((target, class, names.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|name| !name.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
allow tsmc_agent_t nomigrate_t:domain { pause unpause };
\tallow tsmc_agent_t nomigrate_t:domain pause;
allow tsmc_agent_t dom0_t:grant copy;
allow dom0_t nomigrate_t:domain { pause unpause };
";

    #[test]
    fn a_permission_is_taken_out_wherever_the_agent_has_it() {
        let all = permissions(TEXT);
        let names: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["nomigrate_t:domain pause", "nomigrate_t:domain unpause"]);
        let pause = all.first().expect("there are two");
        let lame = "allow tsmc_agent_t nomigrate_t:domain { unpause };\n\nallow tsmc_agent_t dom0_t:grant copy;\nallow \
                    dom0_t nomigrate_t:domain { pause unpause };\n";
        assert_eq!(without(TEXT, pause), lame);
    }

    #[test]
    fn a_denial_is_told_from_another() {
        let pause = permissions(TEXT).pop_first().expect("there are two");
        let line = |name: &str| {
            format!(
                "(XEN) avc:  denied  {{ {name} }} for domid=1 target=2 scontext=system_u:system_r:tsmc_agent_t \
                 tcontext=system_u:system_r:nomigrate_t tclass=domain"
            )
        };
        assert!(pause.is_denied_by(&line("pause")));
        assert!(!pause.is_denied_by(&line("unpause")));
    }
}
