//! Tests of the agents' image on one host, and of what dom0 may not do.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::fixture::Fixture;
use crate::scenario::agents::{AGENT_NAME, AgentConfiguration, console, create};
use crate::scenario::guest::{Guest, Label};
use crate::scenario::privacy;
use crate::scenario::testbed::A;

/// How long the self-test may take; it transfers megabytes to dom0 and back.
const SELF_TEST_LIMIT: Duration = Duration::from_secs(60);

/// Event channels, grants, xenstore watches and a TCP transfer, as the image itself checks them.
pub fn passes_its_self_test(fixture: &mut Fixture) -> Result<()> {
    let image = fixture.artifacts().image.clone();
    let dom0 = fixture.hosts()?.dom0(A);
    let arguments = "selftest peer=10.77.0.2";
    create(&dom0, &AgentConfiguration { image: &image, address: A.agent, arguments })?;
    let deadline = Instant::now() + SELF_TEST_LIMIT;
    loop {
        let said = console(&dom0, AGENT_NAME)?;
        if said.contains("SELFTEST PASS") {
            println!("{said}");
            break;
        }
        ensure!(!said.contains("SELFTEST FAIL"), "{said}");
        ensure!(Instant::now() < deadline, "no verdict in {SELF_TEST_LIMIT:?}:\n{said}");
        std::thread::sleep(Duration::from_millis(300));
    }
    // It powers itself off; the name must be free for the agents of the next tests.
    dom0.run(&["xl", "destroy", AGENT_NAME])?;
    Ok(())
}

/// From the return of `xl create` to the agent's `ready` in xenstore.
pub fn serves_within_two_seconds(fixture: &mut Fixture) -> Result<()> {
    let (_, (agent_a, agent_b)) = fixture.agents()?;
    let times = [agent_a.ready_after, agent_b.ready_after];
    println!("ready after {:?} and {:?}", times[0], times[1]);
    for time in times {
        ensure!(time < Duration::from_secs(2), "an agent took {time:?} to get ready");
    }
    Ok(())
}

/// The attempts succeed on an ordinary guest, or they would prove nothing; on a private one all are refused.
pub fn dom0_reads_no_private_guest(fixture: &mut Fixture) -> Result<()> {
    for label in [Label::Ordinary, Label::Private] {
        let guest = Guest::demo(fixture.artifacts(), label);
        fixture.start_guest(A, &guest)?;
        let attempts = privacy::try_reading(&fixture.hosts()?.dom0(A))?;
        for attempt in attempts {
            println!("{label:?}: {}: {}", attempt.what, attempt.answer);
            if attempt.refused != (label == Label::Private) {
                bail!("dom0 tried to {} of a guest that is {label:?}: {}", attempt.what, attempt.answer);
            }
        }
        fixture.end_guest()?;
    }
    Ok(())
}
