//! The same guest, load and link in every mode, on the same hosts, in one run.

use anyhow::Result;
use serde::Serialize;
use tests_qemu::report::{Report, SideBySide};

use super::story::Story;
use super::testbed::{A, B, Testbed};
use super::throughput::{self, Throughput};
use super::{guest, guest_of, measure, options, start_guest, write_json};
use crate::artifacts::Artifacts;
use crate::artifacts::programs::Build;
use crate::cli::{Mode, Scenario};
use crate::paths::Paths;
use crate::qemu::Lifetime;

/// What `compare` writes.
#[derive(Serialize)]
struct Comparison {
    tcp: Throughput,
    migrations: Vec<Report>,
}

/// Runs the comparison and returns the exit status.
pub fn run(paths: &Paths, build: Build, name: Option<&str>, scenario: &Scenario) -> Result<u8> {
    options::check(scenario)?;
    let story = Story::new();
    let artifacts = Artifacts::prepare(paths, build)?;
    artifacts.build_image(paths, build)?;
    story.say("booting two Xen hosts in QEMU");
    let mut testbed = Testbed::boot(paths, artifacts, name, 2, scenario.size.into(), Lifetime::Runner)?;
    story.say("both are up");
    if let Some(mbit) = scenario.link_mbit {
        testbed.limit_link(mbit)?;
    }
    let tcp = throughput::measure(&testbed)?;
    story.say(&format!(
        "TCP: dom0 to dom0 {:.0} MB/s, agent to agent {:.0} MB/s",
        tcp.dom0_mb_per_s, tcp.agent_mb_per_s
    ));
    let agents = testbed.start_agents(&story)?;
    let mut migrations = Vec::new();
    for mode in [Mode::Tsmc, Mode::Precopy, Mode::Xl] {
        let guest = guest_of(&testbed, mode, scenario);
        start_guest(&testbed, A, &guest, &story)?;
        let agents = Some(&agents).filter(|_| mode != Mode::Xl);
        let (_, report) = measure::migrate(&testbed, &guest, (A, B), mode, agents, &|_, _| (), &story)?;
        for place in [A, B] {
            // After a failure it is where it was.
            testbed.dom0(place).run(&["xl", "destroy", guest::NAME])?;
        }
        println!("\n{report}");
        migrations.push(report);
    }
    println!("{}", SideBySide(&migrations));
    println!("  TCP between the hosts: dom0 {:.0} MB/s, agents {:.0} MB/s", tcp.dom0_mb_per_s, tcp.agent_mb_per_s);
    let held = migrations.iter().all(Report::all_held);
    if let Some(file) = &scenario.report {
        write_json(file, &Comparison { tcp, migrations })?;
    }
    Ok(u8::from(!held))
}
