//! Migrations on a network that drops what its switch cannot hold.

#[expect(dead_code, reason = "the simulator serves other tests as well")]
mod sim;

use common::control::State;
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
/// Another place, 50 ms there and back: twice as much as usual fills the way.
const FAR: Quality = Quality { delay_ns: 25_000_000, switch: Some(256 << 10), ..NEAR };

/// So many guests that leave their hosts in turn.
fn world(guests: usize, quality: Quality) -> World {
    let mut world = World::new(Scenario { frames: 20_000, step_ns: 1_000_000, quality, ..Scenario::default() });
    (1..guests).for_each(|_| world.add_guest());
    [0, 1].into_iter().for_each(|host| world.set_memory(host, 64 << 20));
    world.start();
    world
}

/// The share of what was sent from host 0 that had been sent before.
fn again(world: &World) -> f64 {
    let sums = |(again, sent), flow: &Flow| (again + flow.again, sent + flow.sent);
    let (again, sent) = world.cable.flows(0).iter().fold((0, 0), sums);
    again as f64 / sent as f64
}

#[test]
fn a_migration_fills_the_way_and_hardly_anything_is_sent_twice() {
    for quality in [NEAR, FAR] {
        let mut world = world(1, quality);
        assert!(world.run_until(600_000, |world| world.state(0) == Some(&State::Copying)), "{:?}", world.states);
        let begun = world.clock.get();
        assert!(world.run_until(600_000, World::is_suspending), "{:?}", world.states);
        let sent: u64 = world.cable.flows(0).iter().map(|flow| flow.sent).sum();
        let rate = sent as f64 * 1e9 / (world.clock.get() - begun) as f64;
        println!("{sent} bytes, {rate:.0} a second, {:.4} of them again", again(&world));
        assert!(again(&world) < 0.01);
        assert!(rate > 0.8 * quality.bytes_per_second as f64);
        assert!(world.run(600_000), "{:?}", world.states);
        assert!(world.states[0].iter().all(|states| states.last() == Some(&State::Complete)), "{:?}", world.states);
        world.guest.borrow().check_complete();
    }
}

/// Four in each direction: what one has on its way delays what is acknowledged of the others.
#[test]
fn four_migrations_share_the_way() {
    let mut world = world(8, NEAR);
    world.run_until(4_000, |_| false);
    world.cable.forget_flows(0);
    world.run_until(8_000, |_| false);
    let sent: Vec<f64> = world.cable.flows(0).iter().take(4).map(|flow| flow.sent as f64).collect();
    let all = sent.iter().sum::<f64>();
    let fair = all.powi(2) / (4.0 * sent.iter().map(|sent| sent * sent).sum::<f64>());
    println!("{sent:?} bytes: {fair:.3}; {:.4} of them again", again(&world));
    assert!(fair >= 0.9, "Jain's index");
    assert!(again(&world) < 0.01);
    assert!(all > 0.7 * 8.0 * NEAR.bytes_per_second as f64);
}
