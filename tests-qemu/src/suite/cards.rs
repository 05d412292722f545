//! Agents whose packets pass the hosts' second network cards: their own ones, or those of driver domains.

use std::sync::Once;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::control::InterfaceKind;
use tests_qemu::exec::Dom0;

use super::crossings::cross;
use super::fixture::{Fixture, TAKE_MESSAGES, dma_faults};
use crate::mode::Mode;
use crate::network::{self, Place};
use crate::nic::{DEVICE, DRIVER_DOMAIN, Nic};
use crate::qemu::Hypervisor;
use crate::scenario::agents::{self, AGENT_NAME, Agent};
use crate::scenario::testbed::{A, B};

/// There and back, over the cards that the agents own: dom0's carry nothing of it. That the IOMMU refuses nothing is held after each test.
pub fn there_and_back(fixture: &mut Fixture) -> Result<()> {
    cross_past_dom0(fixture, Nic::Pci, 2)?;
    fixture.set_nic(None)
}

/// Most of what a migration moves passes the cards that the driver domains own, and Xen refuses them nothing.
pub fn through_a_driver_domain(fixture: &mut Fixture) -> Result<()> {
    let place = cross_past_dom0(fixture, Nic::Netdom, 1)?;
    fixture.assert_private(place)?;
    for place in [A, B] {
        let messages = fixture.testbed()?.dom0(place).run(TAKE_MESSAGES)?.text();
        // Those of Linux's driver are known, and harmless (docs/platform.md).
        println!("{}: {} DMA faults", place.letter, dma_faults(&messages).count());
        let denied = messages.lines().find(|line| line.contains("denied") && line.contains("netdom_t"));
        ensure!(denied.is_none(), "{} refused something to {DRIVER_DOMAIN}: {denied:?}", place.letter);
    }
    fixture.set_nic(None)
}

/// An agent with a card and a vif takes the card. One that goes past the IOMMU it refuses by name: it takes the vif, or, without one,
/// does not serve.
pub fn choice(fixture: &mut Fixture) -> Result<()> {
    assert_takes(fixture, InterfaceKind::Pci, "the device is taken")?;
    fixture.on_other_hosts(
        |size| size.rogue_card = true,
        |fixture| {
            assert_takes(fixture, InterfaceKind::Vif, PAST_IOMMU)?;
            start(fixture, "")?;
            let (dom0, begun) = (fixture.hosts()?.dom0(A), Instant::now());
            while !said(&dom0)?.contains(&format!("cannot serve: network: PCI: {PAST_IOMMU}")) {
                ensure!(begun.elapsed() < LIMIT, "it does not refuse the card:\n{}", said(&dom0)?);
            }
            Ok(())
        },
    )
}

/// The agent's card is taken away while a guest crosses, and given back: nothing passes meanwhile, and then the guest goes on crossing.
pub fn away_and_back(fixture: &mut Fixture) -> Result<()> {
    fixture.set_nic(Some(Nic::Pci))?;
    let (_, to) = fixture.way()?;
    let dom0 = fixture.hosts()?.dom0(to);
    let done = Once::new();
    cross(fixture, Mode::TSMC, &|source, _| {
        if source.progress.is_some_and(|progress| progress.stage == 1 && progress.done > 0) {
            done.call_once(|| {
                for command in ["pci-detach", "pci-attach"] {
                    let output = dom0.run(&["xl", command, AGENT_NAME, DEVICE]);
                    println!("xl {command}: {:?}", output.map(|output| output.status));
                }
            });
        }
    })?;
    let console = said(&dom0)?;
    // It hears of the loss from xenstore, or sees first that the card has been reset: either way it says that the card is back.
    ensure!(
        console.contains("network: the device is back"),
        "the card was not taken away, or did not come back:\n{console}"
    );
    fixture.set_nic(None)
}

/// What the agent says of a card that the IOMMU does not bind.
const PAST_IOMMU: &str = "the device does not offer VIRTIO_F_ACCESS_PLATFORM";

/// How long it may take to say it.
const LIMIT: Duration = Duration::from_secs(30);

/// An agent with a card and a vif takes this, and gives this reason.
fn assert_takes(fixture: &mut Fixture, kind: InterfaceKind, reason: &str) -> Result<()> {
    start(fixture, &Nic::Vif.configuration())?;
    let dom0 = fixture.hosts()?.dom0(A);
    let nic = Agent::ready(&dom0)?.status.nic.context("the agent does not say by what its packets go")?;
    ensure!(nic.kind == kind, "it takes {nic}");
    ensure!(said(&dom0)?.contains(reason), "it does not say '{reason}':\n{}", said(&dom0)?);
    fixture.drop_agents()
}

/// Starts an agent with a card, and more.
fn start(fixture: &mut Fixture, more: &str) -> Result<()> {
    fixture.drop_agents()?;
    let dom0 = fixture.hosts()?.dom0(A);
    agents::make_assignable(&dom0, Hypervisor::Full)?;
    let image = agents::put_image(&dom0, &fixture.artifacts().image)?;
    let arguments = format!("{} plain", agents::static_address(A.agent));
    let text = agents::configuration_text(&image, Hypervisor::Full, Nic::Pci, &arguments, more);
    agents::create_as(&dom0, &text)
}

/// The agent's console.
fn said(dom0: &Dom0) -> Result<String> {
    agents::console(dom0, AGENT_NAME)
}

/// The shared guest crosses so many times, past dom0's cards. Where it is then.
fn cross_past_dom0(fixture: &mut Fixture, nic: Nic, times: u32) -> Result<&'static Place> {
    fixture.set_nic(Some(nic))?;
    // What the agents and the driver domains boot from passes dom0's cards.
    fixture.agents()?;
    let (mut from, mut to) = fixture.way()?;
    for _ in 0..times {
        let before = network::received_by_cards(to)?;
        cross(fixture, Mode::TSMC, &|_, _| ())?;
        let after = network::received_by_cards(to)?;
        let [dom0, second] = [0, 1].map(|card| after[card] - before[card]);
        let received = format!("{} received {dom0} bytes by dom0's card, {second} by the second one", to.letter);
        println!("{received}");
        ensure!(second > 10 * dom0, "{received}");
        std::mem::swap(&mut from, &mut to);
    }
    Ok(from)
}
