//! Agents whose packets pass the hosts' second network cards: their own ones, or those of driver domains.

use anyhow::{Result, ensure};

use super::crossings::assert_held;
use super::fixture::{Fixture, TAKE_MESSAGES, dma_faults};
use crate::mode::Mode;
use crate::network::{self, Place};
use crate::nic::{DRIVER_DOMAIN, Nic};
use crate::scenario::guest::{Guest, Label};
use crate::scenario::testbed::{A, B};

/// There over the cards that the agents own, past dom0's; and back by dom0's network backends.
pub fn there_and_back(fixture: &mut Fixture) -> Result<()> {
    let guest = Guest::demo(fixture.artifacts(), Label::Private);
    fixture.set_nic(Some(Nic::Pci))?;
    fixture.start_guest(A, &guest)?;
    cross(fixture, &guest, (A, B), Card::Second)?;
    fixture.set_nic(Some(Nic::Vif))?;
    cross(fixture, &guest, (B, A), Card::Dom0)?;
    fixture.set_nic(None)
}

/// Most of what a migration moves passes the cards that the driver domains own, and Xen refuses them nothing.
pub fn through_a_driver_domain(fixture: &mut Fixture) -> Result<()> {
    let guest = Guest::demo(fixture.artifacts(), Label::Private);
    fixture.set_nic(Some(Nic::Netdom))?;
    // Their domains need the memory before the guest takes it.
    fixture.agents()?;
    fixture.start_guest(A, &guest)?;
    cross(fixture, &guest, (A, B), Card::Second)?;
    fixture.assert_private(B)?;
    for place in [A, B] {
        let messages = fixture.testbed()?.dom0(place).run(TAKE_MESSAGES)?.text();
        // Those of Linux's driver are known, and harmless (docs/platform.md).
        println!("{}: {} DMA faults", place.letter, dma_faults(&messages).count());
        let denied = messages.lines().find(|line| line.contains("denied") && line.contains("netdom_t"));
        ensure!(denied.is_none(), "{} refused something to {DRIVER_DOMAIN}: {denied:?}", place.letter);
    }
    fixture.set_nic(None)
}

/// A host's network cards.
#[derive(Clone, Copy)]
enum Card {
    Dom0,
    Second,
}

/// The guest crosses, and what is moved arrives by this card of the target.
fn cross(fixture: &mut Fixture, guest: &Guest, (from, to): (&Place, &Place), card: Card) -> Result<()> {
    let before = network::received_by_cards(to)?;
    let (_, report) = fixture.migrate(guest, (from, to), Mode::Tsmc, &|_, _| ())?;
    let after = network::received_by_cards(to)?;
    assert_held(&report)?;
    let [dom0, second] = [0, 1].map(|card| after[card] - before[card]);
    let received = format!("{} received {dom0} bytes by dom0's card, {second} by the second one", to.letter);
    println!("{received}");
    let (most, rest) = match card {
        Card::Dom0 => (dom0, second),
        Card::Second => (second, dom0),
    };
    ensure!(most > 10 * rest, "{received}");
    Ok(())
}
