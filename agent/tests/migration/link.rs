//! Links that are cut, lose packets, become slow or drop large packets.

use common::control::State;

use crate::sim::link::Quality;
use crate::sim::{Scenario, World};
use crate::{completes, fails};

/// A network whose devices cut packets for a given MTU, as backends do, with a hop that silently drops longer ones.
fn across(mtu: usize, hop: usize) -> Scenario {
    let quality = Quality { mtu, hop, cuts: true, ..Quality::default() };
    Scenario { quality, ..Scenario::default() }
}

#[test]
fn a_cut_link_before_the_commit_fails_both_ends() {
    let mut world = World::new(Scenario::default());
    world.start();
    world.run_until(40, |_| false);
    world.cable.cut(true);
    let reasons = fails(world);
    assert!(reasons.contains("lost"), "{reasons}");
}

/// From `Ready` on the target bears ten seconds of silence, before it thirty: what it has borne before does not count. The guest
/// is idle and nothing is on its way when the cable is cut, so that bulk is sent again when it is no keep-alive's turn.
#[test]
fn an_outage_while_the_guest_suspends_is_borne_as_long_as_any_before_the_commit() {
    for suspend_s in 1..8 {
        for outage_ms in (10_250..20_000).step_by(500) {
            let suspend_ns = suspend_s * 1_000_000_000;
            let mut world = World::new(Scenario { suspend_ns, step_ns: 1 << 40, ..Scenario::default() });
            world.start();
            assert!(world.run_until(10_000, World::is_suspending), "{:?}", world.states);
            world.run_until(100, |_| false);
            world.cable.cut(true);
            world.run_until(outage_ms, |_| false);
            world.cable.cut(false);
            assert!(world.run(600_000), "{suspend_s} s, {outage_ms} ms: {:?}", world.states);
            assert_eq!(world.state(0), Some(&State::Complete), "{suspend_s} s, {outage_ms} ms: {:?}", world.states);
            world.guest.borrow().check_complete();
        }
    }
}

/// smoltcp forgets a lost packet for ever when its receiver runs out of room (see `net::IN_FLIGHT_BULK`), and waits up to
/// a minute when packets are lost again and again (see `session::BULK_WAIT`).
#[test]
fn a_lossy_link_stalls_nobody() {
    let quality =
        Quality { bytes_per_second: 5_395_073, delay_ns: 3_362_116, lost_per_mille: 18, ..Quality::default() };
    completes(Scenario { seed: 598_897_862, frames: 1315, vcpus: 3, working_set: 788, quality, ..Scenario::default() });
    let quality =
        Quality { bytes_per_second: 7_258_286, delay_ns: 2_700_871, lost_per_mille: 19, ..Quality::default() };
    let guest = Scenario { seed: 3_953_788_256, frames: 1236, vcpus: 3, working_set: 233, ..Scenario::default() };
    completes(Scenario { step_ns: 141_402, quality, suspend_ns: 0, can_page: false, ..guest });
    for seed in 0..8 {
        completes(Scenario { seed, quality, ..Scenario::default() });
    }
}

#[test]
fn a_link_that_comes_back_in_stage_3_loses_nothing() {
    let mut world = World::new(Scenario::default());
    world.start();
    assert!(world.run_until(10_000, |world| world.guest.borrow().released));
    world.cable.cut(true);
    world.run_until(60_000, |_| false);
    world.cable.cut(false);
    assert!(world.run(600_000), "{:?}", world.states);
    assert_eq!(world.state(1), Some(&State::Complete), "{:?}", world.states);
    world.guest.borrow().check_complete();
}

#[test]
fn a_hop_that_drops_large_packets_without_a_word_costs_only_time() {
    for (mtu, hop, limit_ms) in [(1500, 1400, 8_000), (1500, 1300, 15_000), (1500, 600, 30_000), (9000, 1500, 8_000)] {
        let mut world = World::new(across(mtu, hop));
        world.start();
        assert!(world.run(limit_ms), "{mtu} {hop}: {:?}", world.states);
        assert_eq!(world.state(0), Some(&State::Complete), "{mtu} {hop}: {:?}", world.states);
        world.guest.borrow().check_complete();
    }
}

#[test]
fn packets_that_are_lost_by_chance_are_not_taken_for_too_large() {
    for seed in 1..=4 {
        let mut scenario = Scenario { seed, frames: 500, ..across(1500, 1500) };
        scenario.quality.lost_per_mille = 3;
        let mut world = World::new(scenario);
        world.start();
        assert!(world.run_until(600_000, |world| world.guest.borrow().released), "{:?}", world.states);
        world.cable.forget_longest(0);
        assert!(world.run(600_000), "{:?}", world.states);
        assert!((1500 - HOLE..=1500).contains(&world.cable.longest(0)), "seed {seed}");
    }
}

#[test]
fn a_link_that_becomes_slow_is_not_taken_for_one_that_drops_large_packets() {
    let mut world = World::new(Scenario { frames: 2000, ..across(1500, 1500) });
    world.start();
    assert!(world.run_until(600_000, |world| world.cable.sent(0) > 100), "{:?}", world.states);
    world.cable.crawl(0, 100);
    world.run_until(15_000, |_| false);
    world.cable.hurry(0, 50_000_000);
    world.cable.forget_longest(0);
    assert!(world.run(600_000), "{:?}", world.states);
    assert_eq!(world.state(0), Some(&State::Complete), "{:?}", world.states);
    assert_eq!(world.cable.longest(0), 1500);
}

#[test]
fn packets_are_as_large_as_the_interface_carries() {
    for (mtu, cuts) in [(1500, true), (9000, true), (1500, false), (9000, false)] {
        let quality = Quality { mtu, cuts, ..Quality::default() };
        let (world, ..) = completes(Scenario { quality, ..Scenario::default() });
        assert_eq!(world.cable.longest(0), if cuts { mtu - HOLE } else { mtu });
    }
}

/// Bytes of the option that tells of a hole: where the device cuts packets, room is left for it.
const HOLE: usize = 12;
