//! The same guest, load and link in every mode, on the same hosts, in one run.

use anyhow::Result;
use serde::Serialize;
use tests_qemu::report::{Report, SideBySide};

use super::agents::AGENT_NAME;
use super::keys::Channel;
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
    /// Throughput of stage 1, encrypted, over the same in clear.
    sealed_to_plain: Option<f64>,
    migrations: Vec<Report>,
}

/// What is compared, in this order. Encrypted and plain take turns: the machine below is never twice the same.
const TURNS: [(Mode, Channel); 6] = [
    (Mode::Tsmc, Channel::Sealed),
    (Mode::Tsmc, Channel::Plain),
    (Mode::Tsmc, Channel::Sealed),
    (Mode::Tsmc, Channel::Plain),
    (Mode::Precopy, Channel::Sealed),
    (Mode::Xl, Channel::Plain),
];

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
    let mut migrations = Vec::new();
    for (mode, channel) in TURNS {
        testbed.channel = channel;
        let agents = testbed.start_agents(&story)?;
        let guest = guest_of(&testbed, mode, scenario);
        start_guest(&testbed, A, &guest, &story)?;
        let agents = Some(&agents).filter(|_| mode != Mode::Xl);
        let (_, report) = measure::migrate(&testbed, &guest, (A, B), mode, agents, &|_, _| (), &story)?;
        for place in [A, B] {
            // After a failure it is where it was.
            testbed.dom0(place).run(&["xl", "destroy", guest::NAME])?;
            testbed.dom0(place).run(&["xl", "destroy", AGENT_NAME])?;
        }
        println!("\n{report}");
        migrations.push(report);
    }
    println!("{}", SideBySide(&migrations));
    println!("  TCP between the hosts: dom0 {:.0} MB/s, agents {:.0} MB/s", tcp.dom0_mb_per_s, tcp.agent_mb_per_s);
    let sealed_to_plain = sealed_to_plain(&migrations);
    if let Some(ratio) = sealed_to_plain {
        println!("  stage 1, encrypted over plain: {ratio:.2} of the throughput");
    }
    let held = migrations.iter().all(Report::all_held);
    if let Some(file) = &scenario.report {
        write_json(file, &Comparison { tcp, sealed_to_plain, migrations })?;
    }
    Ok(u8::from(!held))
}

/// Throughput of stage 1 in all migrations that are encrypted, over that of those in clear.
fn sealed_to_plain(migrations: &[Report]) -> Option<f64> {
    let rate = |channel: &str| {
        let ours = migrations.iter().filter(|report| report.mode == Mode::Tsmc.to_string());
        let ours = ours.filter(|report| report.channel.as_deref() == Some(channel));
        let stages = ours.filter_map(|report| report.stages.iter().find(|stage| stage.stage == 1));
        let (bytes, ms) = stages.fold((0, 0), |(bytes, ms), stage| (bytes + stage.bytes, ms + stage.ms));
        (ms > 0).then(|| bytes as f64 / ms as f64)
    };
    Some(rate("sealed")? / rate("plain")?)
}
