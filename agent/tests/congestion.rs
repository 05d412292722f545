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

/// Bytes that the largest flows from host 0 send in so many milliseconds from now, and the share of them that had been sent before.
fn sent_in(world: &mut World, flows: usize, limit_ms: u64) -> (Vec<f64>, f64) {
    world.cable.forget_flows(0);
    world.run_until(limit_ms, |_| false);
    assert_eq!(world.state(0), Some(&State::Copying));
    let flows: Vec<Flow> = world.cable.flows(0).into_iter().take(flows).collect();
    let sum = |of: fn(&Flow) -> u64| flows.iter().map(of).sum::<u64>() as f64;
    (flows.iter().map(|flow| flow.sent as f64).collect(), sum(|flow| flow.again) / sum(|flow| flow.sent))
}

#[test]
fn a_migration_fills_the_way_and_hardly_anything_is_sent_twice() {
    for (frames, quality) in [(40_000, NEAR), (40_000, FAR), (250_000, WIDE)] {
        let mut world = world(1, large(frames, quality));
        // It has yet to find out how much the way holds.
        world.run_until(3_000, |_| false);
        let (sent, again) = sent_in(&mut world, 1, 3_000);
        let share = sent[0] / (3.0 * quality.bytes_per_second as f64);
        println!("{share:.3} of {quality:?}, {again:.4} of it again");
        assert!(again < 0.01 && share > 0.9);
        assert!(world.run(600_000), "{:?}", world.states);
        assert!(world.states[0].iter().all(|states| states.last() == Some(&State::Complete)), "{:?}", world.states);
        world.guest.borrow().check_complete();
    }
}

/// Four in each direction: what one has on its way delays what is acknowledged of the others.
#[test]
fn four_migrations_share_the_way() {
    for (frames, quality) in [(30_000, NEAR), (30_000, FAR), (100_000, WIDE)] {
        let mut world = world(8, large(frames, quality));
        world.run_until(4_000, |_| false);
        let (sent, again) = sent_in(&mut world, 4, 4_000);
        let all = sent.iter().sum::<f64>();
        let fair = all.powi(2) / (4.0 * sent.iter().map(|sent| sent * sent).sum::<f64>());
        let share = all / (4.0 * quality.bytes_per_second as f64);
        println!("{share:.3} of {quality:?}, Jain's index {fair:.3}, {again:.4} of it again");
        assert!(fair >= 0.9 && share > 0.75 && again < 0.01);
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
