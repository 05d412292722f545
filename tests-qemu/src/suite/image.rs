//! Tests of the agents' image on one host, and of what dom0 may not do.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tests_qemu::probe::Prober;

use super::fixture::Fixture;
use crate::nic::Nic;
use crate::qemu::Hypervisor;
use crate::scenario::agents::{AGENT_NAME, Agent, AgentConfiguration, console, create};
use crate::scenario::guest::{Guest, Label};
use crate::scenario::privacy;
use crate::scenario::testbed::A;

/// How long the self-test may take; it transfers megabytes to dom0 and back.
const SELF_TEST_LIMIT: Duration = Duration::from_secs(60);

/// The only address that the DHCP server of [`takes_its_address_from_dhcp`] has to give.
const LEASED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 31);

/// How it is told so.
const DHCP_SERVER: &str = "\
interface xenbr0
start 10.77.0.31
end 10.77.0.31
option subnet 255.255.255.0
option router 10.77.0.1
lease_file /run/udhcpd.leases
pidfile /run/udhcpd.pid
";

/// Event channels, grants, xenstore watches and a TCP transfer, as the self-test checks them.
pub fn passes_its_self_test(fixture: &mut Fixture) -> Result<()> {
    let image = fixture.artifacts().self_test_image.clone();
    let testbed = fixture.hosts()?;
    let (dom0, nic) = (testbed.dom0(A), testbed.nic);
    let arguments = format!("ip={}/24 peer={}", A.agent, A.dom0);
    create(
        &dom0,
        &AgentConfiguration { image: &image, hypervisor: Hypervisor::Full, nic, arguments: &arguments, module: None },
    )?;
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

/// An agent with `ip=dhcp`: it takes the address that a server in dom0 gives, announces it, and answers there.
pub fn takes_its_address_from_dhcp(fixture: &mut Fixture) -> Result<()> {
    fixture.drop_agents()?;
    let image = fixture.artifacts().image.clone();
    // On the bridge that dom0 serves.
    let (dom0, nic) = (fixture.hosts()?.dom0(A), Nic::Vif);
    dom0.put(DHCP_SERVER.as_bytes(), "/root/udhcpd.conf", 0o644)?;
    let served = dom0.run(&["sh", "-c", "touch /run/udhcpd.leases && udhcpd /root/udhcpd.conf"])?;
    ensure!(served.success(), "udhcpd: {}", String::from_utf8_lossy(&served.stderr));
    let arguments = "ip=dhcp plain";
    let configuration =
        AgentConfiguration { image: &image, hypervisor: Hypervisor::Full, nic, arguments, module: None };
    let agent = Agent::start(&dom0, &configuration)?;
    dom0.run(&["sh", "-c", "kill $(cat /run/udhcpd.pid)"])?;
    println!("it says: {}", agent.status);
    ensure!(agent.status.address == LEASED, "the server had {LEASED} to give");
    let prober = Prober::start(LEASED).context("cannot probe the agent")?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(prober.stop().answered > 0, "the agent does not answer at {LEASED}");
    fixture.drop_agents()
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
