//! TCP throughput between the hosts: of the agents' own network stack, in the self-test's image, and of dom0's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::stream;

use super::agents::{AGENT_NAME, AgentConfiguration, console, create};
use super::testbed::{A, B, Testbed};

/// How long the agents may take to measure.
const LIMIT: Duration = Duration::from_secs(90);

/// MB/s from host A to host B.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Throughput {
    /// From dom0 to dom0.
    pub dom0_mb_per_s: f64,
    /// From agent to agent.
    pub agent_mb_per_s: f64,
}

/// Measures both. The hosts must have no agents; they have none afterwards.
pub fn measure(testbed: &Testbed) -> Result<Throughput> {
    let port = stream::SINK_PORT.to_string();
    let output = testbed.dom0(A).run(&["dom0d", "--source", &B.dom0.to_string(), &port, "5"])?;
    // source: bytes=177209344 seconds=3.053 mb_per_s=58.0
    let line = output.text();
    let figure = line.split_whitespace().find_map(|word| word.strip_prefix("mb_per_s="));
    let dom0 = figure.and_then(|text| text.parse().ok()).with_context(|| format!("dom0d says: {line}"))?;

    let image = &testbed.artifacts.self_test_image;
    for (place, task) in [(B, "meter".to_owned()), (A, format!("peer={}", B.agent))] {
        let arguments = format!("ip={}/24 {task}", place.agent);
        let nic = testbed.nic;
        let configuration = AgentConfiguration {
            image,
            hypervisor: testbed.size.hypervisor(place),
            nic,
            arguments: &arguments,
            module: None,
        };
        create(&testbed.dom0(place), &configuration)?;
    }
    let said = wait_for_verdict(testbed)?;
    for place in [A, B] {
        // The one that measured has ended by itself.
        testbed.dom0(place).run(&["xl", "destroy", AGENT_NAME])?;
    }
    // tsmc-selftest: network: 128 MiB sent to 10.77.0.12 in 1581 ms, 84 MB/s
    let line =
        said.lines().find(|line| line.contains(" sent to ")).with_context(|| format!("no figure in:\n{said}"))?;
    let figure = line.rsplit(", ").next().and_then(|text| text.strip_suffix(" MB/s"));
    let agent = figure.and_then(|text| text.trim().parse().ok()).with_context(|| format!("no figure in: {line}"))?;
    Ok(Throughput { dom0_mb_per_s: dom0, agent_mb_per_s: agent })
}

fn wait_for_verdict(testbed: &Testbed) -> Result<String> {
    let begun = Instant::now();
    loop {
        let said = console(&testbed.dom0(A), AGENT_NAME)?;
        if said.contains("SELFTEST PASS") {
            return Ok(said);
        }
        ensure!(!said.contains("SELFTEST FAIL") && begun.elapsed() < LIMIT, "the agents did not measure:\n{said}");
        std::thread::sleep(Duration::from_millis(500));
    }
}
