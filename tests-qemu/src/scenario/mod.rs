//! Scenarios: set up hosts, agents and a guest, migrate the guest, report.

pub mod agents;
pub mod guest;
pub mod keys;
mod linux;
pub mod measure;
pub mod migration;
pub mod netdom;
pub mod options;
pub mod privacy;
pub mod sessions;
pub mod ssh;
pub mod story;
pub mod testbed;
pub mod throughput;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use tests_qemu::report::Report;

use crate::artifacts::programs::Build;
use crate::artifacts::{Artifacts, debian_13};
use crate::cleanup;
use crate::mode::Mode;
use crate::network::{GUEST, Place};
use crate::paths::Paths;
use crate::qemu::{Hypervisor, Lifetime};
use guest::{Guest, Label, Workload};
use keys::Channel;
use options::{Migrate, Scenario};
use story::Story;
use testbed::{A, B, Testbed};

/// Runs the scenario of `migrate` and returns the exit status.
pub fn migrate(paths: &Paths, build: Build, name: Option<&str>, options: &Migrate) -> Result<u8> {
    let Migrate { mode, scenario, plain, nic, verify, keep } = options;
    options::check(scenario)?;
    let story = Story::new();
    let artifacts = Artifacts::prepare(paths, build)?;
    if *mode != Mode::Xl {
        artifacts.build_images(paths, build)?;
    }
    let lifetime = if *keep { Lifetime::Kept } else { Lifetime::Runner };
    let size = scenario.size.into();
    debian_13::prepare_for(paths, &size)?;
    story.say("booting two Xen hosts in QEMU");
    let mut testbed = Testbed::boot(paths, artifacts, name, 2, size, lifetime)?;
    if *plain {
        testbed.channel = Channel::Plain;
    }
    testbed.verify = *verify;
    testbed.nic = *nic;
    if *mode != Mode::Xl {
        testbed.program = "tsmc";
    }
    let [a, b] = testbed.size.hypervisors;
    let hypervisors = if a == b { a.to_string() } else { format!("{a}, and {b}") };
    story.say(&format!("both are up, {hypervisors}; logs in {}", testbed.run.logs(paths).display()));
    let outcome = cross(&mut testbed, *mode, scenario, &story);
    if *keep {
        cleanup::keep_all();
        story.say(&format!("run {} stays up: host-exec A|B -- COMMAND, then down", testbed.run.name));
    }
    let report = outcome?;
    println!("\n{report}");
    if let Some(file) = &scenario.report {
        write_json(file, &report)?;
        println!("the whole report: {}", file.display());
    }
    Ok(if report.all_held() { 0 } else { 1 })
}

/// Writes a file of JSON, and the folder that it is in.
pub fn write_json<T: Serialize>(file: &Path, value: &T) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let json = serde_json::to_string_pretty(value)? + "\n";
    fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))
}

/// Starts agents and guest, migrates, and reports.
fn cross(testbed: &mut Testbed, mode: Mode, scenario: &Scenario, story: &Story) -> Result<Report> {
    let agents = if mode == Mode::Xl { None } else { Some(testbed.start_agents(story)?) };
    let guest = guest_of(testbed, mode, scenario);
    start_guest(testbed, A, &guest, story)?;
    let mut claims = Vec::new();
    let private = guest.label == Label::Private;
    if private {
        claims.push(dom0_cannot_read(testbed, A, story)?);
    }
    if let Some(mbit) = scenario.link_mbit {
        testbed.limit_link(mbit)?;
    }
    let (crossing, mut report) = measure::migrate(testbed, &guest, (A, B), mode, agents.as_ref(), &|_, _| (), story)?;
    if private && crossing.is_success() {
        claims.push(dom0_cannot_read(testbed, B, story)?);
    }
    for (what, held) in claims {
        report.claim(what, held);
    }
    Ok(report)
}

/// Creates a guest and waits until its workload runs.
pub fn start_guest(testbed: &Testbed, place: &Place, guest: &Guest, story: &Story) -> Result<()> {
    guest.create(&testbed.dom0(place))?;
    story.say(&format!("guest created on {}: {} MiB, {} vCPU", place.letter, guest.memory_mib, guest.vcpus));
    if guest.has_workload {
        let status = guest::wait_ready()?;
        let (rate, pages) = (status.rate, status.dirty_pages);
        story.say(&format!("guest runs: writes {rate} pages/s over {pages} pages, checks them all"));
    } else if guest::answers_within(guest::BOOT_LIMIT)? {
        story.say(&format!("guest answers at {GUEST}"));
    } else {
        story.say(&format!("guest does not answer at {GUEST}: its downtime will not be known"));
    }
    Ok(())
}

fn guest_of(testbed: &Testbed, mode: Mode, scenario: &Scenario) -> Guest {
    let private = mode != Mode::Xl && testbed.size.hypervisors == [Hypervisor::Full; 2];
    let label = if private { Label::Private } else { Label::Ordinary };
    let mut guest = Guest::demo(&testbed.artifacts, label);
    guest.memory_mib = scenario.memory;
    guest.vcpus = scenario.vcpus;
    guest.arguments.clone_from(&scenario.guest_args);
    guest.load = Workload::new(scenario.dirty_mb, scenario.dirty_rate);
    if let Some(kernel) = &scenario.guest_kernel {
        guest.kernel.clone_from(kernel);
    }
    if let Some(initramfs) = &scenario.guest_initrd {
        guest.initramfs.clone_from(initramfs);
        guest.has_workload = false;
    }
    guest
}

/// Tries to read the guest from dom0; the claim, and whether it held.
pub fn dom0_cannot_read(testbed: &Testbed, place: &Place, story: &Story) -> Result<(String, bool)> {
    let attempts = privacy::try_reading(&testbed.dom0(place))?;
    for attempt in &attempts {
        let verdict = if attempt.refused { "refused" } else { "NOT REFUSED" };
        story.detail(&format!("dom0 of {} tries to {}: {verdict} ({})", place.letter, attempt.what, attempt.answer));
    }
    let held = attempts.iter().all(|attempt| attempt.refused);
    Ok((format!("dom0 of {} cannot read the guest: {} ways tried", place.letter, attempts.len()), held))
}
