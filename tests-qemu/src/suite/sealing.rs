//! dom0 as an attacker of the network cards that the agents have for themselves, before and after these are sealed.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::crossings::assert_held;
use super::fixture::Fixture;
use super::shutout::{all_refused, attack, lock_down};
use crate::mode::Mode;
use crate::nic::{DEVICE, Nic};
use crate::qemu::Hypervisor;
use crate::scenario::agents::{AGENT_NAME, make_assignable};
use crate::scenario::guest::{Guest, Label};
use crate::scenario::testbed::{A, B};

/// So many ways lead to a card at least: two regions, each in three ways, both configurations, and giving it away.
const WAYS: usize = 11;

/// Before, everything leads to the card's registers; afterwards nothing does, and a guest crosses over both cards.
pub fn card_is_out_of_reach(fixture: &mut Fixture) -> Result<()> {
    fixture.set_nic(Some(Nic::Pci))?;
    let guest = Guest::demo(fixture.artifacts(), Label::Private);
    let testbed = fixture.testbed()?;
    let hosts = [A, B].map(|place| (place.letter, testbed.dom0(place)));
    for (_, dom0) in &hosts {
        // Given away, and once more.
        make_assignable(dom0, Hypervisor::Full)?;
        make_assignable(dom0, Hypervisor::Full)?;
    }
    fixture.agents()?;
    fixture.start_guest(A, &guest)?;
    let card = format!("0000:{DEVICE}");
    for (letter, dom0) in &hosts {
        let attempts = attack(dom0, &["card", &card])?;
        attempts.iter().for_each(|attempt| println!("{letter}, not sealed: {}", attempt.line));
        ensure!(attempts.len() >= WAYS, "{letter}: {} attacks only", attempts.len());
        let refused = attempts.iter().find(|attempt| attempt.refused);
        ensure!(refused.is_none(), "{letter}: refused before the lockdown: {:?}", refused.map(|attempt| &attempt.line));
    }
    for (letter, dom0) in &hosts {
        let said = lock_down(dom0, &["--seal-agent"])?;
        ensure!(said.contains(&card), "{letter}: the lockdown does not name the card: {said}");
        ensure!(lock_down(dom0, &["--seal-agent"])? == said, "{letter}: a second lockdown says something else");
        all_refused(&format!("{letter} sealed"), &attack(dom0, &["card", &card])?)?;
    }
    let (_, report) = fixture.migrate(&guest, (A, B), Mode::TSMC, &|_, _| ())?;
    assert_held(&report)?;
    let begun = Instant::now();
    let dom0 = &hosts[0].1;
    let output = dom0.run(&["xl", "destroy", AGENT_NAME])?;
    println!("xl destroy took {:.1} s: {}", begun.elapsed().as_secs_f64(), String::from_utf8_lossy(&output.stderr));
    all_refused("A, agent gone", &attack(dom0, &["card", &card])?)?;
    let again = dom0.run(&["xl", "pci-assignable-add", DEVICE])?;
    println!("again: {} {}", again.success(), String::from_utf8_lossy(&again.stderr));
    ensure!(!again.success(), "the card can be given away again");
    // A locked host is of no use to other tests.
    fixture.spoil();
    Ok(())
}
