//! What dom0 and its operators may do to a guest that moves, at the worst moment: there is one guest, and it runs.

#[expect(dead_code, reason = "the simulator serves other tests as well")]
mod sim;

use agent::error::Refusal;
use common::control::{FailureCause, State};
use sim::guest::Here;
use sim::machine::{NOT_ENFORCED, RESUMED};
use sim::{Scenario, World};

/// Longer than anybody waits for anybody, in milliseconds.
const FOR_EVER: u64 = 400_000;

/// A small guest, of which much is dirty at the switch.
fn small() -> Scenario {
    Scenario { frames: 300, working_set: 200, step_ns: 50_000, ..Scenario::default() }
}

fn failed(world: &World, end: usize) -> String {
    match world.state(end) {
        Some(State::Failed { reason, .. }) => reason.clone(),
        other => panic!("{other:?}: {:?}", world.states),
    }
}

/// The guest is at the source as it was, and the next attempt succeeds.
fn runs_on_and_crosses(world: &mut World) {
    let writes = world.guest.borrow().writes;
    world.run_until(100, |_| false);
    {
        let guest = world.guest.borrow();
        assert!(guest.runs_here() && !guest.logging && !guest.ran_there && guest.writes > writes);
    }
    world.restart();
    assert!(world.run(FOR_EVER), "{:?}", world.states);
    assert_eq!(world.state(0), Some(&State::Complete), "{:?}", world.states);
    world.guest.borrow().check_complete();
}

#[test]
fn no_guest_moves_where_the_policy_is_not_enforced() {
    for host in [0, 1] {
        let mut world = World::new(small());
        world.enforce(host, false);
        world.start();
        assert!(world.run_until(FOR_EVER, |world| world.state(host).is_some_and(State::is_end)));
        assert_eq!(failed(&world, host), NOT_ENFORCED);
        // Its helper tells the other end's.
        world.cancel(1 - host);
        assert!(world.run_until(FOR_EVER, |world| world.state(0).is_some_and(State::is_end)));
        world.enforce(host, true);
        runs_on_and_crosses(&mut world);
    }
}

#[test]
fn a_guest_stays_when_the_policy_is_switched_off_while_it_is_copied() {
    let mut world = World::new(small());
    world.start();
    assert!(world.run_until(FOR_EVER, |world| world.state(0) == Some(&State::Suspend)));
    world.enforce(0, false);
    assert!(world.run(FOR_EVER), "{:?}", world.states);
    assert_eq!(failed(&world, 0), NOT_ENFORCED);
    assert_eq!(failed(&world, 1), format!("the other host's agent gave up: {NOT_ENFORCED}"));
    world.enforce(0, true);
    runs_on_and_crosses(&mut world);
}

#[test]
fn a_guest_that_dom0_resumes_before_the_commit_runs_once() {
    let mut world = World::new(small());
    world.confirms = true;
    world.start();
    let taken = |world: &World| world.guest.borrow().paused_here;
    assert!(world.run_until(FOR_EVER, taken), "{:?}", world.states);
    assert_ne!(world.state(0), Some(&State::Committed), "the test comes too late");
    {
        let guest = &mut *world.guest.borrow_mut();
        (guest.here, guest.paused_here) = (Here::Running, false);
    }
    assert!(world.run(FOR_EVER), "{:?}", world.states);
    assert_eq!(failed(&world, 0), RESUMED);
    runs_on_and_crosses(&mut world);
}

#[test]
fn a_paused_guest_is_refused_at_once_and_stays_paused() {
    for state in [None, Some(State::Copying)] {
        let mut world = World::new(Scenario { frames: 20_000, ..small() });
        let pause = |world: &World| world.guest.borrow_mut().paused_by_dom0 = true;
        if let Some(state) = &state {
            world.start();
            assert!(world.run_until(FOR_EVER, |world| world.state(0) == Some(state)));
            pause(&world);
        } else {
            pause(&world);
            world.start();
        }
        let begun = world.clock.get();
        assert!(world.run_until(FOR_EVER, |world| world.state(0).is_some_and(State::is_end)));
        assert!(world.clock.get() - begun < 2_500_000_000, "it took {} ms", (world.clock.get() - begun) / 1_000_000);
        assert_eq!(
            failed(&world, 0),
            "the guest is paused, and cannot suspend: 'xl unpause' it first, unless it is being destroyed"
        );
        {
            let guest = &mut *world.guest.borrow_mut();
            assert!(guest.paused_by_dom0 && guest.here == Here::Running && !guest.logging);
            guest.paused_by_dom0 = false;
        }
        runs_on_and_crosses(&mut world);
    }
}

#[test]
fn a_guest_that_is_paused_for_a_moment_crosses() {
    let mut world = World::new(Scenario { frames: 20_000, ..small() });
    world.start();
    assert!(world.run_until(FOR_EVER, |world| world.state(0) == Some(&State::Copying)));
    world.guest.borrow_mut().paused_by_dom0 = true;
    let begun = world.clock.get();
    world.run_until(FOR_EVER, |world| world.clock.get() - begun > 300_000_000);
    world.guest.borrow_mut().paused_by_dom0 = false;
    assert!(world.run(FOR_EVER), "{:?}", world.states);
    assert_eq!(world.state(0), Some(&State::Complete), "{:?}", world.states);
}

#[test]
fn a_guest_whose_ready_note_is_handed_over_again_is_not_started_anew() {
    let mut world = World::new(Scenario { quality: slow(), ..small() });
    world.start();
    assert!(world.run_until(FOR_EVER, |world| world.state(1) == Some(&State::Ready)));
    world.run_until(0, |_| false);
    let note = world.note(1).expect("a note");
    assert!(world.run_until(FOR_EVER, |world| world.guest.borrow().ran_there));
    world.kill(1);
    // dom0 keeps the note of before, and destroys the domain.
    world.replace_note(1, note);
    world.revive(1);
    world.run_until(50, |_| false);
    world.guest.borrow_mut().created = false;
    assert!(world.run(FOR_EVER), "{:?}", world.states);
    assert_eq!(world.state(0), Some(&State::Complete), "{:?}", world.states);
    assert_eq!(world.guest.borrow().here, Here::Destroyed, "the guest starts anew from the switch");
}

#[test]
fn a_source_whose_guest_was_destroyed_after_the_commit_says_so_and_nobody_goes_on_calling() {
    let mut world = World::new(Scenario { quality: slow(), ..small() });
    world.start();
    assert!(world.run_until(FOR_EVER, |world| world.state(1) == Some(&State::Running)));
    world.guest.borrow_mut().here = Here::Gone;
    assert!(world.run_until(5_000, |world| world.state(0).is_some_and(State::is_end)), "{:?}", world.states);
    let lost = Refusal::Lost.to_string();
    assert_eq!(world.state(0), Some(&State::Failed { cause: FailureCause::Gone, reason: lost.clone() }));
    let told = State::Interrupted { reason: format!("the other host's agent gave up: {lost}") };
    assert!(world.run_until(5_000, |world| world.state(1) == Some(&told)), "{:?}", world.states);
    world.run_until(5_000, |_| false);
    let sent = [0, 1].map(|host| world.cable.sent(host));
    world.run_until(60_000, |_| false);
    assert_eq!([0, 1].map(|host| world.cable.sent(host)), sent, "somebody goes on calling");
}

#[test]
fn only_a_guest_that_never_ran_may_be_withdrawn() {
    let mut world = World::new(small());
    world.start_ns = 500_000_000;
    world.start();
    assert!(world.run_until(FOR_EVER, |world| world.state(1) == Some(&State::Running)));
    let withdraw = |world: &mut World, id: &str| {
        world.ask(1, id, "withdraw domain=0");
        world.run_until(5_000, |world| world.answer(1, id).is_some());
        world.answer(1, id).expect("an answer")
    };
    assert_eq!(withdraw(&mut world, "early"), State::Complete);
    assert!(world.run(FOR_EVER), "{:?}", world.states);
    let has_run = State::Failed { cause: FailureCause::Other, reason: Refusal::HasRun.to_string() };
    assert_eq!(withdraw(&mut world, "late"), has_run);
}

/// A link over which the push takes long.
fn slow() -> sim::link::Quality {
    sim::link::Quality { bytes_per_second: 500_000, ..Scenario::default().quality }
}
