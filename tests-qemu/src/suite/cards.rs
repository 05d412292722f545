//! Agents whose packets pass the hosts' second network cards: their own ones, or those of driver domains.

use anyhow::{Result, ensure};

use super::crossings::assert_held;
use super::fixture::Fixture;
use crate::mode::Mode;
use crate::network::{self, Place};
use crate::nic::{DRIVER_DOMAIN, Nic};
use crate::scenario::guest::{Guest, Label};
use crate::scenario::testbed::{A, B};

/// There and back, over the cards that the agents own: dom0's carry nothing of it, and the IOMMU refuses nothing.
pub fn there_and_back(fixture: &mut Fixture) -> Result<()> {
    cross(fixture, Nic::Pci, &[(A, B), (B, A)])?;
    for place in [A, B] {
        let refused = dma_faults(fixture, place)?;
        ensure!(refused.is_empty(), "the IOMMU of {} has something to say: {refused:?}", place.letter);
    }
    fixture.set_nic(None)
}

/// Most of what a migration moves passes the cards that the driver domains own, and Xen refuses them nothing.
pub fn through_a_driver_domain(fixture: &mut Fixture) -> Result<()> {
    cross(fixture, Nic::Netdom, &[(A, B)])?;
    fixture.assert_private(B)?;
    for place in [A, B] {
        println!("{}: {} DMA faults", place.letter, dma_faults(fixture, place)?.len());
        let messages = messages(fixture, place)?;
        let denied = messages.lines().find(|line| line.contains("denied") && line.contains("netdom_t"));
        ensure!(denied.is_none(), "{} refused something to {DRIVER_DOMAIN}: {denied:?}", place.letter);
    }
    fixture.set_nic(None)
}

/// A guest goes these ways one after the other, past dom0's cards.
fn cross(fixture: &mut Fixture, nic: Nic, ways: &[(&'static Place, &'static Place)]) -> Result<()> {
    fixture.set_nic(Some(nic))?;
    let guest = Guest::demo(fixture.artifacts(), Label::Private);
    fixture.agents()?;
    fixture.start_guest(ways[0].0, &guest)?;
    for &(from, to) in ways {
        let before = network::received_by_cards(to)?;
        let (_, report) = fixture.migrate(&guest, (from, to), Mode::Tsmc, &|_, _| ())?;
        let after = network::received_by_cards(to)?;
        assert_held(&report)?;
        let [dom0, second] = [0, 1].map(|card| after[card] - before[card]);
        let received = format!("{} received {dom0} bytes by dom0's card, {second} by the second one", to.letter);
        println!("{received}");
        ensure!(second > 10 * dom0, "{received}");
    }
    Ok(())
}

/// What the IOMMU of a host has refused to devices.
fn dma_faults(fixture: &Fixture, place: &Place) -> Result<Vec<String>> {
    Ok(messages(fixture, place)?.lines().filter(|line| line.contains("DMAR:[")).map(str::to_owned).collect())
}

/// Xen's messages.
fn messages(fixture: &Fixture, place: &Place) -> Result<String> {
    Ok(fixture.testbed()?.dom0(place).run(&["xl", "dmesg"])?.text())
}
