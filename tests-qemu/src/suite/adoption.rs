//! What a restarted agent finds of a guest, without another host: the self-test plays both agents.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests_qemu::exec::Dom0;

use super::fixture::Fixture;
use crate::nic::Nic;
use crate::qemu::Hypervisor;
use crate::scenario::agents::{AGENT_NAME, AgentConfiguration, console, create, domain_id};
use crate::scenario::guest::{self, Guest, Label};
use crate::scenario::testbed::A;

/// How long a part of the self-test may take.
const LIMIT: Duration = Duration::from_secs(90);

/// Of a guest that writes to its memory no page is found absent. Most pages become absent and spoilt, the agent is destroyed,
/// and another finds exactly those pages, serves the guest's faults and gives every page back. The guest sees no wrong byte.
pub fn pages_are_found_and_served(fixture: &mut Fixture) -> Result<()> {
    fixture.drop_agents()?;
    let mut guest = Guest::demo(fixture.artifacts(), Label::Private);
    guest.vcpus = 2;
    fixture.start_guest(A, &guest)?;
    let image = fixture.artifacts().self_test_image.clone();
    let dom0 = fixture.hosts()?.dom0(A);
    let domain = domain_id(&dom0, guest::NAME)?.context("no guest")?;
    let play = |part: &str| play(&dom0, &image, part, domain);
    play("arm")?;
    let armed: u64 = said(&dom0, "ADOPTION armed ")?.parse()?;
    ensure!(armed > 20_000, "only {armed} pages were made absent");
    ensure!(guest::status_now().is_none(), "a guest that misses its pages answers");
    dom0.run(&["xl", "destroy", AGENT_NAME])?;
    play("adopt")?;
    let found = said(&dom0, "ADOPTION found ")?;
    println!("{armed} pages were absent; the new agent found {found}");
    let found: u64 = found.split(' ').next().unwrap_or_default().parse()?;
    ensure!(found == armed, "of {armed} absent pages it found {found}");
    let served = said(&dom0, "ADOPTION served ")?;
    println!("it served {served}");
    ensure!(!served.starts_with("0 "), "the guest touched no absent page");
    said(&dom0, "SELFTEST PASS")?;
    dom0.run(&["xl", "destroy", AGENT_NAME])?;
    let check = guest::load()?.check()?;
    ensure!(check.errors == 0, "{} pages are wrong", check.errors);
    fixture.end_guest()
}

/// A guest that its toolstack destroys can still be asked whether it ever ran, and goes away when the agent lets go.
pub fn destroyed_guest_says_whether_it_ran(fixture: &mut Fixture) -> Result<()> {
    fixture.drop_agents()?;
    let guest = Guest::demo(fixture.artifacts(), Label::Private);
    let image = fixture.artifacts().self_test_image.clone();
    for (ran, verdict) in [(false, "never ran"), (true, "ran")] {
        let dom0 = fixture.hosts()?.dom0(A);
        if ran {
            fixture.start_guest(A, &guest)?;
        } else {
            guest.create_paused(&dom0, guest::NAME)?;
        }
        let domain = domain_id(&dom0, guest::NAME)?.context("no guest")?;
        play(&dom0, &image, "hold", domain)?;
        said(&dom0, "ADOPTION holds")?;
        dom0.run(&["xl", "destroy", guest::NAME])?;
        let said = said(&dom0, "ADOPTION it is gone and ")?;
        ensure!(said == verdict, "it {verdict}, and is said to have: {said}");
        dom0.run(&["xl", "destroy", AGENT_NAME])?;
    }
    Ok(())
}

/// What an agent frees of a guest that has left holds nothing any more: the next domain that gets it could read it.
pub fn freed_memory_is_cleared(fixture: &mut Fixture) -> Result<()> {
    fixture.drop_agents()?;
    let guest = Guest::demo(fixture.artifacts(), Label::Private);
    fixture.start_guest(A, &guest)?;
    let image = fixture.artifacts().self_test_image.clone();
    let dom0 = fixture.hosts()?.dom0(A);
    let domain = domain_id(&dom0, guest::NAME)?.context("no guest")?;
    play(&dom0, &image, "leave", domain)?;
    said(&dom0, "ADOPTION cleared")?;
    fixture.end_guest()?;
    said(&dom0, "SELFTEST PASS")?;
    dom0.run(&["xl", "destroy", AGENT_NAME])?;
    Ok(())
}

/// Starts the self-test in this part, for the guest with this number.
fn play(dom0: &Dom0, image: &Path, part: &str, guest: u32) -> Result<()> {
    let arguments = format!("ip={}/24 {part}={guest}", A.agent);
    let nic = Nic::default();
    create(dom0, &AgentConfiguration { image, hypervisor: Hypervisor::Full, nic, arguments: &arguments, module: None })
}

/// What follows `words` on the self-test's console.
fn said(dom0: &Dom0, words: &str) -> Result<String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = console(dom0, AGENT_NAME)?;
        if let Some((_, rest)) = text.split_once(words) {
            return Ok(rest.lines().next().unwrap_or_default().trim().to_owned());
        }
        ensure!(!text.contains("SELFTEST FAIL"), "{text}");
        ensure!(Instant::now() < deadline, "no `{words}` in {LIMIT:?}:\n{text}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
