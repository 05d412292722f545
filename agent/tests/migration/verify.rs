//! What verifying finds, and what it leaves alone.

use agent::secure::Security;
use common::control::State;

use crate::sim::guest::PINNED;
use crate::sim::link::Quality;
use crate::sim::{Scenario, World};
use crate::{completes, fails};

/// A guest that touches little: what differs, the test has changed.
fn quiet() -> Scenario {
    Scenario { step_ns: 10_000_000, ..Scenario::default() }
}

/// Frames that are RAM, not zero and seldom written to.
fn frames(world: &World) -> Vec<usize> {
    let guest = world.guest.borrow();
    let full = |gfn: &usize| guest.truth[*gfn].is_some_and(|value| value != 0);
    (guest.working_set as usize..guest.truth.len()).filter(full).step_by(100).collect()
}

/// A migration of which everything but the switch is over.
fn before_the_switch() -> World {
    let mut world = World::new(quiet());
    world.start();
    assert!(world.run_until(60_000, |world| world.state(0) == Some(&State::Suspend)), "{:?}", world.states);
    world
}

/// A migration whose guest runs at the target and misses these pages, for a while.
fn in_stage_3() -> (World, Vec<usize>) {
    let quality = Quality { bytes_per_second: 5_000_000, delay_ns: 100_000, lost_per_mille: 0, ..Quality::default() };
    let mut world = World::secured(Scenario { quality, ..Scenario::default() }, [Security::Plain, Security::Plain]);
    world.guest.borrow_mut().balloons_there = false;
    world.start();
    assert!(world.run_until(60_000, |world| world.guest.borrow().released), "{:?}", world.states);
    let absent = {
        let guest = world.guest.borrow();
        let full = |gfn: usize| guest.truth[gfn].is_some_and(|value| value != 0 && value & PINNED == 0);
        let absent = |gfn: &usize| guest.there[*gfn].is_some_and(|frame| frame.armed) && full(*gfn);
        (0..guest.truth.len()).filter(absent).collect::<Vec<_>>()
    };
    assert!(absent.len() > 20, "{absent:?}");
    (world, absent[absent.len() - 10..].to_vec())
}

#[test]
fn a_page_that_is_wrong_at_the_target_keeps_the_guest_where_it_is() {
    let world = before_the_switch();
    let gfn = frames(&world)[0];
    world.guest.borrow_mut().there[gfn].as_mut().expect("a frame").value ^= 1;
    let reasons = fails(world);
    assert!(
        reasons.contains(&format!("pages that differ between the hosts: 1, first guest frame {gfn:#x}")),
        "{reasons}"
    );
}

#[test]
fn writes_that_the_log_missed_keep_the_guest_where_it_is() {
    let world = before_the_switch();
    let gfns = frames(&world);
    for gfn in &gfns {
        let page = &mut world.guest.borrow_mut().truth[*gfn];
        *page = page.map(|value| value ^ 1);
    }
    let reasons = fails(world);
    let expected = format!("pages that differ between the hosts: {}, first guest frame {:#x}", gfns.len(), gfns[0]);
    assert!(reasons.contains(&expected), "{reasons}");
}

#[test]
fn without_verifying_nobody_looks() {
    let mut world = World::new(quiet());
    world.verify = false;
    world.start();
    assert!(world.run(60_000), "{:?}", world.states);
    world.guest.borrow().check_complete();
    assert_eq!([0, 1].map(|end| world.summary(end).verified), [0, 0]);
}

#[test]
fn pages_that_are_filled_in_with_something_else_are_counted() {
    let (mut world, absent) = in_stage_3();
    let marks: Vec<_> =
        absent.iter().filter_map(|gfn| world.guest.borrow().truth[*gfn]).map(u64::to_le_bytes).collect();
    world.cable.spoil(&marks);
    assert!(world.run(600_000), "{:?}", world.states);
    let spoilt = marks.len() - world.cable.unspoilt();
    let (source, target) = (world.summary(0), world.summary(1));
    assert!(spoilt > 0 && target.differing == spoilt as u64, "{spoilt}: {target}");
    assert_eq!(source.verified, target.verified + target.spared + target.differing, "{source}\n{target}");
}

#[test]
fn what_a_backend_writes_to_a_stopped_guest_is_spared() {
    let (mut world, absent) = in_stage_3();
    for gfn in &absent {
        let page = &mut world.guest.borrow_mut().truth[*gfn];
        *page = page.map(|value| value ^ 1);
    }
    assert!(world.run(600_000), "{:?}", world.states);
    world.guest.borrow().check_complete();
    let (source, target) = (world.summary(0), world.summary(1));
    assert!(source.spared > 0 && source.spared == target.spared && target.differing == 0, "{source}\n{target}");
}

/// A write that the log has, between the last look at it and the digest.
#[test]
fn what_a_backend_writes_to_a_page_that_is_there_already_is_spared() {
    let mut world = before_the_switch();
    // The last to be told about.
    let gfn = *frames(&world).last().expect("a page");
    assert!(world.run_until(60_000, |world| world.guest.borrow().paused_here), "{:?}", world.states);
    {
        let guest = &mut *world.guest.borrow_mut();
        guest.truth[gfn] = guest.truth[gfn].map(|value| value ^ 1);
        guest.log.insert(common::Gfn(gfn as u64));
    }
    assert!(world.run(600_000), "{:?}", world.states);
    assert_eq!(world.state(1), Some(&State::Complete), "{:?}", world.states);
    assert_eq!([0, 1].map(|end| world.summary(end).spared), [1, 1]);
}

#[test]
fn every_way_to_cross_is_verified() {
    for can_page in [true, false] {
        completes(Scenario { can_page, stubborn: true, ..Scenario::default() });
    }
}
