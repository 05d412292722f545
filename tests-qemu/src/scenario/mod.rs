//! Scenarios: hosts, agents and guests put together, a migration, and what came of it.

pub mod agents;
pub mod guest;
pub mod migration;
pub mod privacy;
pub mod story;
pub mod testbed;

use std::time::Duration;

use anyhow::{Context, Result};
use tests_qemu::load;
use tests_qemu::probe::Prober;

use crate::artifacts::Artifacts;
use crate::artifacts::programs::Build;
use crate::cleanup;
use crate::cli::{Migrate, Mode};
use crate::network::{self, GUEST};
use crate::paths::Paths;
use crate::qemu::Lifetime;
use guest::{Guest, Label};
use story::Story;
use testbed::{A, B, Testbed};

/// How long a guest may take from its creation to its first writes.
const GUEST_LIMIT: Duration = Duration::from_secs(90);

/// Runs the scenario of `migrate` and returns the exit status.
pub fn migrate(paths: &Paths, build: Build, name: Option<&str>, options: &Migrate) -> Result<u8> {
    let story = Story::new();
    let artifacts = Artifacts::prepare(paths, build)?;
    let lifetime = if options.keep { Lifetime::Kept } else { Lifetime::Runner };
    let testbed = Testbed::boot(paths, artifacts, name, 2, options.size.into(), lifetime)?;
    story.say(&format!("two Xen hosts are up, logs in {}", testbed.run.logs(paths).display()));
    let outcome = cross(&testbed, options, &story);
    if options.keep {
        cleanup::keep_all();
        story.say(&format!("run {} stays up: host-exec A|B -- COMMAND, then down", testbed.run.name));
    }
    outcome.map(|good| if good { 0 } else { 1 })
}

/// Starts agents and guest, migrates, and says whether all is well.
fn cross(testbed: &Testbed, options: &Migrate, story: &Story) -> Result<bool> {
    let agents = match options.mode {
        Mode::Xl => None,
        Mode::Tsmc | Mode::Precopy => Some((testbed.start_agent(A, story)?, testbed.start_agent(B, story)?)),
    };
    let guest = guest_of(testbed, options);
    guest.create(&testbed.dom0(A))?;
    story.say(&format!("guest created on A: {} MiB, {} vCPU", guest.memory_mib, guest.vcpus));
    let has_workload = options.guest_initrd.is_none();
    if has_workload {
        let status = guest::wait_ready(GUEST_LIMIT)?;
        story.say(&format!("guest runs: writes {} pages/s and checks them", status.rate));
    }
    if guest.label == Label::Private {
        tell_privacy(testbed, A, story)?;
    }
    if let Some(mbit) = options.link_mbit {
        network::shape(&testbed.run.namespace, testbed.run.places(), mbit)?;
    }
    let prober = Prober::start(GUEST).context("cannot probe the guest")?;
    let crossing = migration::migrate(testbed, (A, B), options.mode, agents.as_ref(), story)?;
    std::thread::sleep(Duration::from_secs(1));
    let seen = prober.stop();
    story.say(&format!(
        "xl exit status {}, {:.1} s, {:.1} s until complete, downtime {:.0} ms",
        crossing.status,
        crossing.xl_time.as_secs_f64(),
        crossing.total_time.as_secs_f64(),
        seen.downtime_ms
    ));
    if !crossing.is_success() {
        return Ok(false);
    }
    if guest.label == Label::Private {
        tell_privacy(testbed, B, story)?;
    }
    if has_workload {
        let load::Check { pages, errors, ms } = guest::load()?.check()?;
        story.say(&format!("guest's check: {pages} pages read in {ms} ms, {errors} wrong"));
        return Ok(errors == 0);
    }
    Ok(true)
}

fn guest_of(testbed: &Testbed, options: &Migrate) -> Guest {
    let artifacts = &testbed.artifacts;
    Guest {
        memory_mib: options.memory,
        vcpus: options.vcpus,
        kernel: options.guest_kernel.clone().unwrap_or_else(|| artifacts.guest_kernel.clone()),
        initramfs: options.guest_initrd.clone().unwrap_or_else(|| artifacts.guest_initramfs.clone()),
        arguments: options.guest_args.clone(),
        load: format!("dirty-mb={},dirty-rate={}", options.dirty_mb, options.dirty_rate),
        label: if options.mode == Mode::Xl { Label::Ordinary } else { Label::Private },
    }
}

fn tell_privacy(testbed: &Testbed, place: &network::Place, story: &Story) -> Result<bool> {
    let attempts = privacy::try_reading(&testbed.dom0(place))?;
    for attempt in &attempts {
        let verdict = if attempt.refused { "refused" } else { "NOT REFUSED" };
        story.detail(&format!("dom0 of {} tries to {}: {verdict} ({})", place.letter, attempt.what, attempt.answer));
    }
    Ok(attempts.iter().all(|attempt| attempt.refused))
}
