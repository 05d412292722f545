//! Migrations on a network that drops what its switch cannot hold.

#[expect(dead_code, reason = "the simulator serves other tests as well")]
mod sim;

use common::control::{Mode, State};
use sim::link::{Flow, Quality};
use sim::{Scenario, World};

/// 100 Mbit/s, 10 ms there and back, and a switch that holds less than a connection of these agents may have on its way.
const NEAR: Quality = Quality {
    bytes_per_second: 12_500_000,
    delay_ns: 5_000_000,
    lost_per_mille: 0,
    mtu: 1500,
    cuts: true,
    hop: 1500,
    switch: Some(128 << 10),
};
/// Another place, 50 ms there and back.
const FAR: Quality = Quality { delay_ns: 25_000_000, switch: Some(256 << 10), ..NEAR };
/// The same at 1 Gbit/s: twenty times as much as usual fills the way.
const WIDE: Quality = Quality { bytes_per_second: 125_000_000, switch: Some(512 << 10), ..FAR };

/// So many guests that leave their hosts in turn.
fn world(guests: usize, scenario: Scenario) -> World {
    let mut world = World::new(scenario);
    (1..guests).for_each(|_| world.add_guest());
    [0, 1].into_iter().for_each(|host| world.set_memory(host, 96 << 20));
    world.start();
    assert!(world.run_until(60_000, |world| world.state(0) == Some(&State::Copying)), "{:?}", world.states);
    world
}

/// A guest that is large enough for the way, and does little meanwhile.
fn large(frames: u64, quality: Quality) -> Scenario {
    Scenario { frames, step_ns: 1_000_000, quality, ..Scenario::default() }
}

/// The share of what was sent from host 0 that had been sent before.
fn again(world: &World) -> f64 {
    let sums = |(again, sent), flow: &Flow| (again + flow.again, sent + flow.sent);
    let (again, sent) = world.cable.flows(0).iter().fold((0, 0), sums);
    again as f64 / sent as f64
}

/// Bytes that host 0 has sent.
fn sent(world: &World) -> f64 {
    world.cable.flows(0).iter().map(|flow| flow.sent).sum::<u64>() as f64
}

#[test]
fn a_migration_fills_the_way_and_hardly_anything_is_sent_twice() {
    for (frames, quality) in [(40_000, NEAR), (40_000, FAR), (250_000, WIDE)] {
        let mut world = world(1, large(frames, quality));
        let (begun, second) = (world.clock.get(), quality.bytes_per_second as f64);
        // It has yet to find out how much the way holds.
        world.run_until(3_000, |_| false);
        let before = sent(&world);
        world.run_until(3_000, |_| false);
        assert_eq!(world.state(0), Some(&State::Copying));
        let full = (sent(&world) - before) / (3.0 * second);
        assert!(world.run_until(600_000, World::is_suspending), "{:?}", world.states);
        let all = sent(&world) * 1e9 / (world.clock.get() - begun) as f64 / second;
        println!("{all:.3} of {quality:?}, once it is full {full:.3}; {:.4} of it again", again(&world));
        assert!(again(&world) < 0.01 && full > 0.9);
        // To fill the widest takes a good part of the seconds that there is something to send.
        assert!(all > if quality.bytes_per_second > NEAR.bytes_per_second { 0.7 } else { 0.8 });
        assert!(world.run(600_000), "{:?}", world.states);
        assert!(world.states[0].iter().all(|states| states.last() == Some(&State::Complete)), "{:?}", world.states);
        world.guest.borrow().check_complete();
    }
}

/// Four in each direction: what one has on its way delays what is acknowledged of the others.
#[test]
fn four_migrations_share_the_way() {
    for (frames, quality) in [(30_000, NEAR), (30_000, FAR), (130_000, WIDE)] {
        let mut world = world(8, large(frames, quality));
        world.run_until(4_000, |_| false);
        world.cable.forget_flows(0);
        world.run_until(8_000, |_| false);
        assert_eq!(world.state(0), Some(&State::Copying));
        let sent: Vec<f64> = world.cable.flows(0).iter().take(4).map(|flow| flow.sent as f64).collect();
        let all = sent.iter().sum::<f64>();
        let fair = all.powi(2) / (4.0 * sent.iter().map(|sent| sent * sent).sum::<f64>());
        let share = all / (8.0 * quality.bytes_per_second as f64);
        println!("{share:.3} of {quality:?}, Jain's index {fair:.3}, {:.4} of it again", again(&world));
        assert!(fair >= 0.9 && share > 0.75 && again(&world) < 0.01);
    }
}

#[test]
fn whoever_waits_for_a_page_waits_for_no_queue() {
    for (frames, quality) in [(20_000, NEAR), (20_000, FAR), (100_000, WIDE)] {
        let scenario = Scenario {
            frames,
            working_set: frames,
            step_ns: 100_000,
            mode: Mode::Postcopy,
            quality,
            ..Scenario::default()
        };
        let mut world = world(1, scenario);
        assert!(world.run(600_000), "{:?}", world.states);
        let there = world.summary(1);
        let trips = there.fault_p50_us as f64 * 1e3 / (2 * quality.delay_ns) as f64;
        println!("{} faults, half of them within {trips:.2} round trips of {quality:?}", there.faults);
        assert!(there.faults > 100 && trips <= 3.0);
    }
}
