//! Guests that change, stop or go away while they migrate.

use common::control::State;

use crate::completes;
use crate::sim::guest::Here;
use crate::sim::link::Quality;
use crate::sim::{Scenario, World};

/// Runs a migration whose guest becomes something else at some time before the switch; gives the reasons of both ends.
fn becomes(here: Here, ms: u64) -> Option<(World, String)> {
    let mut world = World::new(Scenario { suspend_ns: 20_000_000, ..Scenario::default() });
    world.start();
    world.run_until(ms, |_| false);
    if world.guest.borrow().here != Here::Running {
        return None;
    }
    world.guest.borrow_mut().here = here;
    assert!(world.run(300_000), "{:?}", world.states);
    let reasons = world.states[0].iter().map(|states| match states.last() {
        Some(State::Failed { reason, .. }) => reason.clone(),
        other => panic!("{other:?} is not a failure: {:?}", world.states),
    });
    let reasons = reasons.collect::<Vec<_>>().join(" / ");
    assert!(!world.guest.borrow().released && !world.guest.borrow().logging);
    Some((world, reasons))
}

#[test]
fn a_guest_that_stops_by_itself_is_left_to_its_toolstack() {
    let mut tried = 0;
    for ms in (0..120).step_by(10) {
        let Some((world, reasons)) = becomes(Here::Stopped, ms) else { continue };
        assert_eq!(world.guest.borrow().here, Here::Stopped, "it was made to run");
        let either =
            ["crashed, shut down or rebooted", "did not suspend"].iter().any(|reason| reasons.contains(reason));
        assert!(either, "{ms}: {reasons}");
        tried += 1;
    }
    assert!(tried > 3);
}

#[test]
fn a_guest_that_is_destroyed_before_the_switch_ends_the_migration() {
    let mut tried = 0;
    for ms in (0..120).step_by(10) {
        let Some((world, reasons)) = becomes(Here::Gone, ms) else { continue };
        assert_eq!(world.guest.borrow().here, Here::Gone);
        let each = reasons.split(" / ").all(|reason| {
            ["the guest is gone", "the guest did not suspend"].iter().any(|expected| reason.ends_with(expected))
        });
        assert!(each, "{ms}: {reasons}");
        tried += 1;
    }
    assert!(tried > 3);
}

#[test]
fn a_suspended_guest_that_is_destroyed_ends_the_migration() {
    let mut tried = 0;
    for turns in (0..400).step_by(8) {
        let mut world = World::new(Scenario::default());
        world.start();
        assert!(world.run_until(10_000, |world| world.guest.borrow().here == Here::Suspended));
        (0..turns).for_each(|_| world.turn());
        if world.guest.borrow().here != Here::Suspended {
            break;
        }
        world.guest.borrow_mut().here = Here::Gone;
        assert!(world.run(300_000), "{:?}", world.states);
        for end in 0..2 {
            let Some(State::Failed { reason, .. }) = world.state(end) else { panic!("{:?}", world.states) };
            assert!(reason.ends_with("the guest is gone"), "{turns}: {reason}");
        }
        assert!(!world.guest.borrow().released, "{turns}");
        tried += 1;
    }
    assert!(tried > 3);
}

/// Its toolstack may want to look into it.
#[test]
fn a_guest_that_crashes_in_stage_3_arrives_whole() {
    let quality = Quality { bytes_per_second: 4_000_000, delay_ns: 500_000, lost_per_mille: 0, ..Quality::default() };
    for ms in [1, 10, 100] {
        let mut world = World::new(Scenario { working_set: 2000, step_ns: 5_000, quality, ..Scenario::default() });
        world.start();
        assert!(world.run_until(60_000, |world| world.guest.borrow().ran_there));
        world.run_until(ms, |_| false);
        assert!(!world.guest.borrow().finished, "stage 3 was over after {ms} ms");
        // It touches nothing any more; whoever of it waited for a page waits no longer.
        world.guest.borrow_mut().started = false;
        assert!(world.run(300_000), "{:?}", world.states);
        assert_eq!(world.state(0), Some(&State::Complete));
        assert_eq!(world.state(1), Some(&State::Complete));
        world.guest.borrow().check_complete();
    }
}

/// The source hears of it when the link is back.
#[test]
fn a_guest_destroyed_behind_a_cut_link_frees_the_source() {
    let quality = Quality { bytes_per_second: 4_000_000, delay_ns: 500_000, lost_per_mille: 0, ..Quality::default() };
    for away_ms in [100, 60_000] {
        let mut world = World::new(Scenario { working_set: 2000, step_ns: 5_000, quality, ..Scenario::default() });
        world.start();
        assert!(world.run_until(60_000, |world| world.guest.borrow().ran_there));
        world.cable.cut(true);
        world.run_until(away_ms / 2, |_| false);
        world.guest.borrow_mut().created = false;
        world.run_until(away_ms / 2, |_| false);
        assert_eq!(world.guest.borrow().here, Here::Retained);
        world.cable.cut(false);
        assert!(world.run(300_000), "{:?}", world.states);
        assert_eq!(world.guest.borrow().here, Here::Destroyed);
        assert_eq!([0, 1].map(|end| world.state(end)), [Some(&State::Complete); 2]);
    }
}

/// Each moment of the suspend: its number of pages says nothing of what became of them.
#[test]
fn pages_that_are_swapped_while_the_guest_suspends_arrive() {
    for ms in 0..20 {
        let mut world = World::new(Scenario { suspend_ns: 20_000_000, ..Scenario::default() });
        world.guest.borrow_mut().balloons_here = false;
        world.start();
        assert!(world.run_until(10_000, World::is_suspending));
        world.run_until(ms, |_| false);
        world.guest.borrow_mut().swap_pages(3);
        assert!(world.run(300_000), "{:?}", world.states);
        assert_eq!(world.state(1), Some(&State::Complete), "{ms}");
        world.guest.borrow().check_complete();
    }
}

/// What comes while the log is on is not in it, whatever is written there.
#[test]
fn pages_that_come_in_stage_1_arrive_as_they_are_at_the_switch() {
    // The last of them are looked at long after the first.
    for ms in [0, 100] {
        let mut world = World::new(Scenario { frames: 34_000, working_set: 34_000, ..Scenario::default() });
        world.guest.borrow_mut().balloons_here = false;
        world.guest.borrow_mut().truth[33_000..].fill(None);
        world.start();
        assert!(world.run_until(10_000, |world| world.guest.borrow().logging));
        world.run_until(ms, |_| false);
        world.guest.borrow_mut().swap_pages(500);
        assert!(world.run(300_000), "{:?}", world.states);
        assert_eq!(world.state(1), Some(&State::Complete), "{ms}: {:?}", world.states);
        world.guest.borrow().check_complete();
    }
}

/// What it gives back is not waited for, and what it puts there instead is not overwritten.
#[test]
fn a_guest_that_balloons_in_stage_3_arrives_whole() {
    let quality = Quality { bytes_per_second: 4_000_000, delay_ns: 500_000, lost_per_mille: 0, ..Quality::default() };
    for seed in 0..4 {
        let guest = Scenario { seed, working_set: 2000, step_ns: 5_000, quality, ..Scenario::default() };
        let (_, source, target) = completes(guest);
        assert!(source.dirty_pages > 500 && target.verified > 0, "{source}");
    }
}
