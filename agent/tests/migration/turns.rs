//! More migrations than fit at once: each gets its turn.

use common::control::{Size, State};
use common::cost::{BESIDE, memory_for};

use crate::sim::link::Quality;
use crate::sim::{Scenario, World};

/// The heap that is enough for so many guests at a time, each way.
fn heap(frames: u64, at_once: usize) -> usize {
    // Digests of all of it may have to be kept.
    let size = Size { frames, digests: frames };
    (memory_for(&size, at_once) << 20) as usize - BESIDE
}

/// A world with so many guests, whose agents have so much heap.
fn world(scenario: Scenario, guests: usize, heap: [usize; 2]) -> World {
    let mut world = World::new(scenario);
    (1..guests).for_each(|_| world.add_guest());
    [0, 1].into_iter().for_each(|host| world.set_memory(host, heap[host]));
    world
}

/// How many sessions of an end have waited.
fn waited(world: &World, end: usize) -> usize {
    let waits = |states: &[Vec<State>; 2]| states[end].iter().any(|state| matches!(state, State::Waiting { .. }));
    world.states.iter().filter(|states| waits(states)).count()
}

fn all_arrive(world: &mut World) {
    world.start();
    assert!(world.run(2_000_000), "{:?}", world.states);
    assert!(world.states.iter().flatten().all(|states| states.last() == Some(&State::Complete)), "{:?}", world.states);
    world.guests.borrow().iter().for_each(|guest| guest.borrow().check_complete());
}

/// Each host's agent has memory for one guest that leaves and one that arrives.
#[test]
fn more_guests_than_fit_cross_in_both_directions_and_all_arrive() {
    for to_itself in [false, true] {
        let scenario = Scenario { frames: 1000, to_itself, ..Scenario::default() };
        let mut world = world(scenario, 8, [heap(1000, 1); 2]);
        all_arrive(&mut world);
        assert!(waited(&world, 0) >= 6, "{:?}", world.states);
    }
}

#[test]
fn as_many_guests_as_memory_is_given_for_cross_at_once() {
    for at_once in [1, 2, 4] {
        let mut world = world(Scenario { frames: 1000, ..Scenario::default() }, 8, [heap(1000, at_once); 2]);
        world.start();
        world.run_until(1, |_| false);
        // Four leave each host.
        assert_eq!(waited(&world, 0), 2 * (4 - at_once), "{at_once}: {:?}", world.states);
    }
}

#[test]
fn more_guests_than_an_agent_serves_at_once_all_arrive() {
    let mut world = world(Scenario { frames: 200, ..Scenario::default() }, 20, [256 << 20; 2]);
    all_arrive(&mut world);
    assert!(waited(&world, 0) > 0 && waited(&world, 1) > 0, "{:?}", world.states);
}

/// For longer than a source waits for a call of which it knows nothing.
#[test]
fn a_source_waits_for_a_target_that_waits() {
    let quality = Quality { bytes_per_second: 1_000_000, ..Scenario::default().quality };
    let scenario = Scenario { frames: 10_000, step_ns: 2_000_000, working_set: 20, quality, ..Scenario::default() };
    let mut world = world(scenario, 5, [heap(10_000, 4), heap(10_000, 1)]);
    world.odd_guests_stay = true;
    world.start();
    let postponed = |world: &World| matches!(world.states[4][0].last(), Some(State::Waiting { .. }));
    assert!(world.run_until(20_000, postponed), "{:?}", world.states);
    world.run_until(30_000, |_| false);
    assert!(postponed(&world), "{:?}", world.states);
    assert!(world.run(2_000_000), "{:?}", world.states);
    for guest in [0, 2, 4] {
        assert_eq!(world.states[guest].each_ref().map(|states| states.last()), [Some(&State::Complete); 2]);
        world.guests.borrow()[guest].borrow().check_complete();
    }
}

#[test]
fn a_guest_that_never_fits_is_refused_at_once_and_the_memory_named_that_would_do() {
    let frames = 1000;
    for to_itself in [false, true] {
        let scenario = Scenario { frames, to_itself, ..Scenario::default() };
        let needed = memory_for(&Size { frames, digests: 0 }, 1);
        let mut world = world(scenario, 1, [((needed - 1) << 20) as usize - BESIDE; 2]);
        world.start();
        world.run_until(10, |_| false);
        let Some(State::Failed { reason, .. }) = world.state(0) else { panic!("{:?}", world.states) };
        assert!(reason.contains(&format!("memory = {needed} ")), "{reason}");
        world.set_memory(0, (needed << 20) as usize - BESIDE);
        world.set_memory(1, (needed << 20) as usize - BESIDE);
        world.verify = false;
        world.restart();
        assert!(world.run(600_000), "{:?}", world.states);
        world.guest.borrow().check_complete();
    }
}

/// Its turn comes long after it was asked for: what was true then may not be true any more.
#[test]
fn a_guest_that_was_paused_while_it_waited_is_refused_when_its_turn_comes() {
    let mut world = world(Scenario { frames: 1000, ..Scenario::default() }, 3, [heap(1000, 1); 2]);
    world.odd_guests_stay = true;
    world.start();
    assert!(world.run_until(10, |world| matches!(world.states[2][0].last(), Some(State::Waiting { .. }))));
    world.guests.borrow()[2].borrow_mut().paused_by_dom0 = true;
    assert!(
        world.run_until(600_000, |world| world.states[0][1].last() == Some(&State::Complete)),
        "{:?}",
        world.states
    );
    world.run_until(1000, |_| false);
    let Some(State::Failed { reason, .. }) = world.states[2][0].last() else { panic!("{:?}", world.states) };
    assert!(reason.starts_with("the guest is paused"), "{reason}");
    let guests = world.guests.borrow();
    guests[0].borrow().check_complete();
    assert!(world.states[2][1].is_empty() && !guests[2].borrow().logging, "{:?}", world.states);
}

#[test]
fn a_session_that_waits_can_be_cancelled_at_either_end() {
    // The last of three guests waits: at the source, or at the target.
    for (end, heaps) in [(0, [1, 1]), (1, [4, 1]), (0, [4, 1])] {
        let quality = Quality { bytes_per_second: 1_000_000, ..Scenario::default().quality };
        let scenario = Scenario { frames: 1000, step_ns: 1_000_000, quality, ..Scenario::default() };
        let mut world = world(scenario, 5, heaps.map(|at_once| heap(1000, at_once)));
        world.odd_guests_stay = true;
        world.start();
        let waits_at = usize::from(heaps[0] > 1);
        let waits = |world: &World| matches!(world.states[4][waits_at].last(), Some(State::Waiting { .. }));
        assert!(world.run_until(1000, waits), "{:?}", world.states);
        world.cancel_of(4, end);
        assert!(world.run_until(100, |world| matches!(world.states[4][end].last(), Some(State::Failed { .. }))));
        // Its toolstack gives up the other end, if that has begun.
        world.cancel_of(4, 1 - end);
        let over = |world: &World| world.states[4][0].last().is_some_and(State::is_end);
        let arrived =
            |world: &World| [0, 2].iter().all(|guest| world.states[*guest][1].last() == Some(&State::Complete));
        assert!(world.run_until(600_000, |world| over(world) && arrived(world)), "{:?}", world.states);
        world.run_until(1000, |_| false);
        let guests = world.guests.borrow();
        [0, 2].iter().for_each(|guest: &usize| guests[*guest].borrow().check_complete());
        let last = guests[4].borrow();
        assert!(last.runs_here() && !last.logging, "{:?}", world.states);
    }
}

/// The agent of one host dies while some sessions wait and others run.
#[test]
fn sessions_that_wait_are_in_nobody_s_way_when_an_agent_dies() {
    for ms in [5, 90] {
        let mut world = world(Scenario { frames: 1000, ..Scenario::default() }, 6, [heap(1000, 1); 2]);
        world.start();
        world.run_until(ms, |_| false);
        world.kill(1);
        world.run_until(500, |_| false);
        world.revive(1);
        let over = |states: &[Vec<State>; 2]| states[0].last().is_some_and(State::is_end);
        assert!(world.run_until(600_000, |world| world.states.iter().all(over)), "{ms}: {:?}", world.states);
        world.run_until(1000, |_| false);
        for (guest, states) in world.guests.borrow().iter().zip(&world.states) {
            match states[0].last() {
                Some(State::Complete) => guest.borrow().check_complete(),
                _ => assert!(guest.borrow().runs_here(), "{ms}: {states:?}"),
            }
        }
    }
}
