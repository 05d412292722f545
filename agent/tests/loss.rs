//! Lost packets while the guest runs at the target: how long its virtual CPUs wait.

#[expect(dead_code, reason = "the simulator serves other tests as well")]
mod sim;

use common::Gfn;
use common::control::State;
use sim::link::Quality;
use sim::{Scenario, World};

/// Of the link, when nothing queues.
const ROUND_TRIP: u64 = 400_000;
/// The longest that one lost packet may make a virtual CPU wait.
const BOUND: u64 = 10 * ROUND_TRIP + 20_000_000;

/// A guest that faults all the time, and for a while.
fn scenario() -> Scenario {
    let quality =
        Quality { bytes_per_second: 50_000_000, delay_ns: ROUND_TRIP / 2, lost_per_mille: 0, ..Quality::default() };
    Scenario { frames: 700, working_set: 500, vcpus: 4, quality, ..Scenario::default() }
}

/// A world whose guest has just begun to run at the target.
fn in_stage_3(scenario: Scenario) -> World {
    let mut world = World::new(scenario);
    world.start();
    assert!(world.run_until(10_000, |world| world.guest.borrow().released), "{:?}", world.states);
    world
}

/// Runs to the end; the waits of all virtual CPUs, the shortest first.
fn waits(mut world: World) -> (World, Vec<u64>) {
    assert!(world.run(600_000), "{:?}", world.states);
    assert!(world.states[0].iter().all(|states| states.last() == Some(&State::Complete)), "{:?}", world.states);
    world.guest.borrow().check_complete();
    let mut waits = world.guest.borrow().waits.clone();
    waits.sort_unstable();
    assert!(!waits.is_empty());
    (world, waits)
}

/// Shows how waits are spread.
fn show(what: &str, waits: &[u64]) {
    let at = |per_mille: usize| waits[(waits.len() - 1) * per_mille / 1000] / 1000;
    let [p50, p90, p99, p999] = [500, 900, 990, 999].map(at);
    println!("{what}: {} waits, us: p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, longest {}", waits.len(), at(1000));
}

/// Loses each packet of stage 3 that a host sends in turn, together with the `others` behind it.
fn lose_each(host: usize, others: u64) -> (u64, u64) {
    let world = in_stage_3(scenario());
    let before = world.cable.sent(host);
    let (world, undisturbed) = waits(world);
    show("nothing lost", &undisturbed);
    let mut all = Vec::new();
    let (mut rescued, mut worst) = (0, (0, 0));
    for packet in (0..world.cable.sent(host) - before).step_by(1 + others as usize / 2) {
        let world = in_stage_3(scenario());
        world.cable.lose(host, packet..packet + 1 + others);
        let (world, waits) = waits(world);
        rescued += world.summary(1).rescued;
        worst = worst.max((waits[waits.len() - 1], packet));
        all.extend(waits);
    }
    all.sort_unstable();
    show("each in turn lost", &all);
    println!("{rescued} pages rescued; the longest wait was with packet {}", worst.1);
    (rescued, worst.0)
}

#[test]
fn no_lost_packet_of_the_source_stalls_a_vcpu() {
    // TCP makes up for one as soon as a datagram does.
    let (_, worst) = lose_each(0, 0);
    assert!(worst <= BOUND, "{worst}");
}

#[test]
fn no_lost_packet_of_the_target_stalls_a_vcpu() {
    // A lost demand may be repaired by a nudge as well.
    let (_, worst) = lose_each(1, 0);
    assert!(worst <= BOUND, "{worst}");
}

#[test]
fn bursts_of_twenty_lost_packets_stall_no_vcpu() {
    let [(rescued, source), (_, target)] = [0, 1].map(|host| lose_each(host, 19));
    assert!(rescued > 0);
    assert!(source.max(target) <= BOUND, "{source} {target}");
}

/// A link that is away for a moment costs that moment, and no timer's time on top.
#[test]
fn a_link_that_is_away_for_50_ms_costs_little_more() {
    let away = 50_000_000;
    let (mut all, mut rescued) = (Vec::new(), 0);
    for ms in 0..20 {
        let mut world = in_stage_3(scenario());
        world.run_until(ms, |_| false);
        world.cable.cut(true);
        world.run_until(away / 1_000_000, |_| false);
        world.cable.cut(false);
        let (world, waits) = waits(world);
        rescued += world.summary(1).rescued;
        all.extend(waits);
    }
    all.sort_unstable();
    show("away for 50 ms", &all);
    assert!(rescued > 0);
    assert!(all[all.len() - 1] <= away + BOUND);
}

/// TCP has learnt to be patient on a slow way, and then all that was on that way is lost.
#[test]
fn a_queue_that_gets_lost_is_made_up_for() {
    for ms in [2600, 2800, 3000, 3400, 3600, 4600, 5200, 9200] {
        let mut world = in_stage_3(Scenario { frames: 3000, working_set: 1500, ..scenario() });
        // From here on nothing but the push asks for pages.
        world.scenario.step_ns = 100_000_000;
        world.cable.crawl(0, 250_000);
        assert!(!world.run_until(ms, |world| world.state(0) == Some(&State::Complete)));
        world.cable.hurry(0, world.scenario.quality.bytes_per_second);
        let begun = world.clock.get();
        let (world, _) = waits(world);
        let took = (world.clock.get() - begun) / 1_000_000;
        println!("after {ms} ms on a slow way: {took} ms");
        // It learnt that an acknowledgement takes up to three seconds.
        assert!(took < 10_000);
    }
}

/// Where a firewall lets no datagram through, everything arrives, only later.
#[test]
fn without_datagrams_nothing_is_lost_but_time() {
    let mut all = Vec::new();
    for packet in (0..60).step_by(5) {
        let world = in_stage_3(scenario());
        world.cable.deny_datagrams();
        world.cable.lose(1, packet..packet + 1);
        let (world, waits) = waits(world);
        assert_eq!(world.summary(1).rescued, 0);
        all.extend(waits);
    }
    all.sort_unstable();
    show("no datagram, and one packet lost", &all);
}

/// A backend at the source writes to a page after it was sent and got lost: what comes by datagram is newer than what TCP sends again,
/// and neither is taken for wrong memory.
#[test]
fn what_a_backend_writes_to_a_page_on_its_way_is_spared() {
    let mut late = 0;
    for seed in 0..20 {
        let mut world = in_stage_3(Scenario { seed, vcpus: 1, ..scenario() });
        world.guest.borrow_mut().balloons_there = false;
        let waits_for = |world: &World| world.guest.borrow().vcpus[0];
        let waits = |world: &World| waits_for(world).map(|(_, since)| world.clock.get() - since);
        // Not the first, of which the source hears while it pushes as much as it may.
        let is_later = |world: &World| world.guest.borrow().waits.len() >= 3;
        assert!(world.run_until(10_000, |world| is_later(world) && waits(world).is_some_and(|ns| ns < ROUND_TRIP / 4)));
        world.cable.lose(0, 0..1000);
        assert!(world.run_until(10_000, |world| waits(world).is_some_and(|ns| ns > 2 * ROUND_TRIP)));
        let (Gfn(gfn), _) = waits_for(&world).expect("a page");
        let at = gfn as usize;
        let written = world.guest.borrow().truth[at].map(|value| value ^ 1 << 62);
        world.guest.borrow_mut().truth[at] = written;
        world.cable.lose(0, 0..0);
        world.cable.only_datagrams(0, true);
        let has_come = |world: &World| world.guest.borrow().there[at].is_some_and(|frame| !frame.armed);
        assert!(world.run_until(10_000, has_come), "{:?}", world.states);
        world.cable.only_datagrams(0, false);
        let seen = world.guest.borrow().there[at].map(|frame| frame.value);
        world.guest.borrow_mut().truth[at] = seen;
        let (world, _) = self::waits(world);
        let (source, target) = (world.summary(0), world.summary(1));
        assert_eq!(target.differing, 0, "{source}\n{target}");
        late += target.spared.saturating_sub(source.spared);
    }
    assert!(late > 0, "no page was written to after it had been sent");
}

#[test]
fn one_lost_packet_in_a_hundred_stalls_no_vcpu() {
    let mut all = Vec::new();
    for seed in 0..20 {
        let world = in_stage_3(Scenario { seed, ..scenario() });
        world.cable.set_loss(10);
        all.extend(waits(world).1);
    }
    all.sort_unstable();
    show("one lost in a hundred", &all);
    // Now and then one is lost, and what was to replace it as well.
    assert!(all[(all.len() - 1) * 999 / 1000] <= BOUND);
    assert!(all[all.len() - 1] <= 2 * BOUND);
}

/// How long the guest runs nowhere when each packet of the switch that a host sends is lost in turn.
#[test]
fn no_lost_packet_of_the_switch_stops_the_guest_for_long() {
    let suspended = || {
        let mut world = World::new(scenario());
        world.start();
        assert!(world.run_until(10_000, |world| world.state(0) == Some(&State::Suspend)), "{:?}", world.states);
        world
    };
    let stands = |mut world: World| {
        let begun = world.clock.get();
        assert!(world.run_until(60_000, |world| world.guest.borrow().released), "{:?}", world.states);
        (world.clock.get() - begun, world)
    };
    let world = suspended();
    let before = [0, 1].map(|host| world.cable.sent(host));
    let (undisturbed, world) = stands(world);
    println!("nothing lost: {} us", undisturbed / 1000);
    let mut all = Vec::new();
    for host in [0, 1] {
        for packet in 0..world.cable.sent(host) - before[host] {
            let world = suspended();
            world.cable.lose(host, packet..packet + 1);
            let (stood, _) = stands(world);
            all.push(stood.saturating_sub(undisturbed));
        }
    }
    all.sort_unstable();
    show("each packet of the switch in turn lost; longer by", &all);
    assert!(all[all.len() - 1] <= BOUND);
}
