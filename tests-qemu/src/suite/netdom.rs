//! The agents' network through a driver domain of its own.

use anyhow::{Result, ensure};

use super::crossings::assert_held;
use super::fixture::Fixture;
use crate::mode::Mode;
use crate::network::{self, PLACES};
use crate::nic::{DRIVER_DOMAIN, Nic};
use crate::scenario::guest::{Guest, Label};
use crate::scenario::testbed::{A, B};

/// Most of what a migration moves passes the cards that the driver domains own, and Xen refuses them nothing.
pub fn guest_crosses(fixture: &mut Fixture) -> Result<()> {
    fixture.set_nic(Some(Nic::Netdom))?;
    let guest = Guest::demo(fixture.artifacts(), Label::Private);
    fixture.agents()?;
    fixture.start_guest(A, &guest)?;
    let before = network::received_by_cards(B)?;
    let (_, report) = fixture.migrate(&guest, (A, B), Mode::Tsmc, &|_, _| ())?;
    let after = network::received_by_cards(B)?;
    assert_held(&report)?;
    fixture.assert_private(B)?;
    let [dom0, own] = [0, 1].map(|card| after[card] - before[card]);
    println!("B received {dom0} bytes by dom0's card, {own} by the driver domain's");
    ensure!(own > 10 * dom0, "B received {dom0} bytes by dom0's card, and only {own} by the driver domain's");
    for place in &PLACES {
        let messages = fixture.testbed()?.dom0(place).run(&["xl", "dmesg"])?.text();
        println!("{}: {} DMA faults", place.letter, messages.matches("DMA Write").count());
        let denied = messages.lines().find(|line| line.contains("denied") && line.contains("netdom_t"));
        ensure!(denied.is_none(), "{} refused something to {DRIVER_DOMAIN}: {denied:?}", place.letter);
    }
    fixture.set_nic(None)
}
