//! What fails or is given up before the commit leaves the guest at its source.

use common::control::{FailureCause, State};

use crate::sim::guest::Here;
use crate::sim::machine::{BEFORE_COMMIT, Op};
use crate::sim::{Scenario, World};
use crate::{fails, stays};

#[test]
fn whatever_fails_before_the_commit_leaves_the_guest_at_the_source() {
    for op in BEFORE_COMMIT {
        for after in [0, 1, 7] {
            let mut world = World::new(Scenario::default());
            world.start();
            world.fail(op, after);
            let ended = world.run(300_000);
            let untouched = world.trouble.borrow().is_some();
            if untouched {
                assert!(ended && world.state(0) == Some(&State::Complete), "{op:?} {after}: {:?}", world.states);
                continue;
            }
            match (world.state(0), world.state(1)) {
                (Some(State::Failed { reason, .. }), _) => assert!(!reason.is_empty()),
                states => panic!("{op:?} {after}: {states:?}"),
            }
            stays(&mut world);
        }
    }
}

#[test]
fn an_agent_that_dies_before_the_commit_leaves_the_guest_at_the_source() {
    for ms in [0, 1, 5, 20, 60, 100] {
        let mut world = World::new(Scenario::default());
        world.start();
        world.run_until(ms, |_| false);
        if world.guest.borrow().here != Here::Running {
            continue;
        }
        world.kill(1);
        assert!(world.run_until(200_000, |world| world.state(0).is_some_and(State::is_end)), "{:?}", world.states);
        assert!(matches!(world.state(0), Some(State::Failed { .. })), "{:?}", world.states);
        stays(&mut world);
    }
}

#[test]
fn a_failed_attempt_does_not_spoil_the_next() {
    let mut world = World::new(Scenario::default());
    world.start();
    world.fail(Op::LoadState, 0);
    assert!(world.run(100_000));
    stays(&mut world);
    world.restart();
    assert!(world.run(100_000), "{:?}", world.states);
    assert_eq!(world.state(0), Some(&State::Complete), "{:?}", world.states);
    world.guest.borrow().check_complete();
}

#[test]
fn an_absent_agent_is_named() {
    let mut world = World::new(Scenario::default());
    world.kill(1);
    world.start();
    assert!(world.run_until(60_000, |world| world.state(0).is_some_and(State::is_end)));
    let reason = "the other host's agent did not connect in time".to_string();
    assert_eq!(world.state(0), Some(&State::Failed { cause: FailureCause::Other, reason }));
    stays(&mut world);
}

#[test]
fn a_guest_that_does_not_suspend_runs_on() {
    let mut world = World::new(Scenario::default());
    world.suspends = false;
    world.start();
    let reasons = fails(world);
    assert!(reasons.contains("did not suspend"), "{reasons}");
}

#[test]
fn a_guest_that_the_toolstack_takes_for_running_runs_on() {
    let mut world = World::new(Scenario::default());
    world.confirms = false;
    world.start();
    let reasons = fails(world);
    assert!(reasons.contains("did not suspend"), "{reasons}");
}

#[test]
fn a_guest_that_cannot_be_given_back_is_not_said_to_run() {
    let mut world = World::new(Scenario::default());
    world.suspends = false;
    world.fail(Op::GiveBack, 0);
    world.start();
    assert!(world.run(300_000), "{:?}", world.states);
    let Some(State::Failed { reason, .. }) = world.state(0) else { panic!("{:?}", world.states) };
    assert!(reason.starts_with("the guest did not suspend; and the guest could not be given back"), "{reason}");
}

/// Its helper, which gave it up, would say no more than that.
#[test]
fn a_cancelled_guest_that_cannot_be_given_back_counts_as_more_than_cancelled() {
    let mut world = World::new(Scenario::default());
    world.start();
    assert!(world.run_until(10_000, |world| world.state(0) == Some(&State::Copying)));
    world.fail(Op::GiveBack, 0);
    world.cancel(0);
    assert!(world.run(300_000), "{:?}", world.states);
    let Some(State::Failed { cause: FailureCause::Other, reason }) = world.state(0) else {
        panic!("{:?}", world.states)
    };
    assert!(reason.starts_with("cancelled by the toolstack; and the guest could not be given back"), "{reason}");
}

#[test]
fn both_toolstacks_can_cancel_before_the_commit() {
    for side in [0, 1] {
        for ms in [5, 30, 80, 95] {
            let mut world = World::new(Scenario { suspend_ns: 50_000_000, ..Scenario::default() });
            world.start();
            world.run_until(ms, |_| false);
            if world.state(1) == Some(&State::Ready) || world.guest.borrow().released {
                continue;
            }
            world.cancel(side);
            assert!(world.run(300_000), "{side} {ms}: {:?}", world.states);
            stays(&mut world);
            let cancelled =
                |end| matches!(world.state(end), Some(State::Failed { cause: FailureCause::Cancelled, .. }));
            assert!(cancelled(side) && !cancelled(1 - side), "{side} {ms}: {:?}", world.states);
        }
    }
}

#[test]
fn a_guest_destroyed_before_it_ran_is_back_at_the_source() {
    let mut world = World::new(Scenario::default());
    world.start();
    assert!(world.run_until(10_000, |world| world.guest.borrow().here == Here::Retained));
    world.guest.borrow_mut().created = false;
    assert!(world.run(300_000), "{:?}", world.states);
    stays(&mut world);
    let reason = "the guest never ran on the other host; it is back".to_string();
    assert_eq!(world.state(0), Some(&State::Failed { cause: FailureCause::Back, reason }));
    assert!(matches!(world.state(1), Some(State::Failed { cause: FailureCause::Gone, .. })), "{:?}", world.states);
}
