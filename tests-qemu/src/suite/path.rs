//! How large packets are on the way between the agents.

use anyhow::{Context, Result, ensure};

use super::crossings::assert_held;
use super::fixture::Fixture;
use crate::command::run_line;
use crate::mode::Mode;
use crate::network::{self, PLACES};
use crate::scenario::agents::{self, AGENT_NAME};
use crate::scenario::guest::{Guest, Label};
use crate::scenario::testbed::{A, B};
use crate::trouble::{Hop, Trouble};

/// Ethernet's, and an Ethernet header.
const ORDINARY: u32 = 1500;
const ETHERNET: u64 = 14;

/// A hop that drops what is larger, without a word: the agents find out, and nothing is told to them.
pub fn hop_of_1400_costs_only_time(fixture: &mut Fixture) -> Result<()> {
    // They must know nothing yet, and keep nothing for other tests.
    fixture.drop_agents()?;
    let crossed = cross(fixture, 1400);
    fixture.drop_agents()?;
    let (hop, size) = crossed?;
    ensure!(hop.dropped > 0, "the hop dropped nothing");
    ensure!(size > 600, "packets have {size} bytes on average");
    Ok(())
}

/// The bridges of both hosts, and all between them, carry 9000 bytes: so do the agents' packets, and nobody was told.
pub fn jumbo_frames_are_used(fixture: &mut Fixture) -> Result<()> {
    fixture.drop_agents()?;
    let crossed = set_mtu(fixture, 9000).and_then(|()| cross(fixture, 9000));
    fixture.drop_agents()?;
    set_mtu(fixture, ORDINARY)?;
    let (hop, size) = crossed?;
    ensure!(hop.dropped == 0, "{} packets were too large", hop.dropped);
    ensure!(size > 4000, "packets have {size} bytes on average");
    Ok(())
}

/// Migrates a guest from A to B over a hop that carries so many bytes; what passed there, and the average packet.
fn cross(fixture: &mut Fixture, bytes: u32) -> Result<(Hop, u64)> {
    let guest = Guest::demo(fixture.artifacts(), Label::Private);
    fixture.agents()?;
    fixture.start_guest(A, &guest)?;
    let namespace = fixture.hosts()?.run.namespace.clone();
    let narrow = Trouble::narrow(&namespace, bytes)?;
    let (_, report) = fixture.migrate(&guest, (A, B), Mode::TSMC, &|_, _| ())?;
    let hop = Hop::from(A)?;
    drop(narrow);
    assert_held(&report)?;
    let size = hop.bytes.checked_div(hop.packets).context("nothing passed the hop")?.saturating_sub(ETHERNET);
    let banner = format!("grep -o 'packets of up to.*' {}", agents::console_log(AGENT_NAME));
    for place in &PLACES {
        println!("the agent of {}: {}", place.letter, fixture.testbed()?.dom0(place).sh(&banner)?.text().trim());
    }
    println!("a hop of {bytes} bytes: {hop:?}, {size} bytes on average");
    Ok((hop, size))
}

/// Lets everything between the agents carry packets of so many bytes.
fn set_mtu(fixture: &mut Fixture, bytes: u32) -> Result<()> {
    let namespace = fixture.hosts()?.run.namespace.clone();
    for device in PLACES.iter().flat_map(network::Place::taps).chain(["br0".to_owned()]) {
        run_line(&format!("ip -n {namespace} link set {device} mtu {bytes}"))?;
    }
    for place in &PLACES {
        let command = format!("ip link set eth0 mtu {bytes} && ip link set xenbr0 mtu {bytes}");
        let set = fixture.testbed()?.dom0(place).run(&["sh", "-c", &command])?;
        ensure!(set.success(), "{}: {}", place.letter, String::from_utf8_lossy(&set.stderr));
    }
    Ok(())
}
