//! Both ends of the agent against each other: real agents, real TCP, virtual time.

#[path = "migration/any.rs"]
mod any;
#[path = "migration/before_commit.rs"]
mod before_commit;
#[path = "migration/guests.rs"]
mod guests;
#[path = "migration/itself.rs"]
mod itself;
#[path = "migration/link.rs"]
mod link;
#[expect(dead_code, reason = "the simulator serves other tests as well")]
mod sim;
#[path = "migration/turns.rs"]
mod turns;
#[path = "migration/verify.rs"]
mod verify;

use std::time::Duration;

use common::control::{FailureCause, Mode, State, Summary};
use sim::guest::{Guest, Here};
use sim::link::Quality;
use sim::machine::Op;
use sim::{Scenario, World};

/// Runs a migration to its end and checks what every successful one must show.
fn completes(scenario: Scenario) -> (World, Summary, Summary) {
    let mut world = World::new(scenario);
    world.start();
    assert!(world.run(600_000), "the migration does not end: {:?}", world.states);
    assert_eq!(world.state(0), Some(&State::Complete), "{:?}", world.states);
    assert_eq!(world.state(1), Some(&State::Complete), "{:?}", world.states);
    world.guest.borrow().check_complete();
    let (source, target) = (world.summary(0), world.summary(1));
    if scenario.mode != Mode::Precopy && scenario.can_page && scenario.labels[0] {
        assert!(source.most_sends <= 2, "{source}");
    }
    assert_eq!(source.stage1_pages, target.stage1_pages, "{source}\n{target}");
    // What a datagram brought first, or nobody needed any more, may still have been on its way by TCP.
    let unheard = source.stage3_pages - target.stage3_pages;
    assert!(unheard <= target.rescued + world.guest.borrow().gave_back, "{source}\n{target}");
    assert!(source.verified > 0 && target.differing == 0, "{source}\n{target}");
    // What the guest gave back in stage 3 was compared with nothing.
    assert!(source.verified >= target.verified + target.spared, "{source}\n{target}");
    (world, source, target)
}

/// Runs a migration that must fail and checks that the guest runs on as if nothing had been.
fn fails(mut world: World) -> String {
    assert!(world.run(300_000), "the migration does not end: {:?}", world.states);
    stays(&mut world);
    let reasons = world.states[0].iter().map(|states| match states.last() {
        Some(State::Failed { reason, .. }) => reason.clone(),
        other => panic!("{other:?} is not a failure: {:?}", world.states),
    });
    reasons.collect::<Vec<_>>().join(" / ")
}

/// The guest runs at the source, unlogged, and never ran elsewhere.
fn stays(world: &mut World) {
    world.run_until(2_000, |_| false);
    let writes = world.guest.borrow().writes;
    world.run_until(100, |_| false);
    let guest = world.guest.borrow();
    assert!(guest.runs_here() && guest.writes > writes, "the guest does not run: {:?}", world.states);
    assert!(!guest.logging && !guest.ran_there);
}

#[test]
fn a_guest_crosses_in_three_stages() {
    let slow = Quality { bytes_per_second: 20_000_000, delay_ns: 100_000, lost_per_mille: 0, ..Quality::default() };
    let (world, source, target) = completes(Scenario { quality: slow, ..Scenario::default() });
    println!("{source}\n{target}");
    assert!(source.stage1_pages > 0 && source.stage3_pages > 0 && source.zero_pages > 0);
    assert!(source.hints > 0 && source.deferred > 0);
    assert!(target.faults > 0 && target.armed_early > 0);
    assert!(world.gave_way > target.faults, "a fault waits for three: the demand, the answer, the guest");
    assert!(world.guest.borrow().met_faults >= target.faults);
    assert!(world.stages.contains_key(&1) && world.stages.contains_key(&3));
    assert_eq!((source.sealed, target.sealed), (1, 1));
    assert_eq!(world.guest.borrow().freed, 0, "nobody else is served: the copy can go all at once");
}

#[test]
fn without_paging_everything_arrives_before_the_guest_runs() {
    let (world, source, _) = completes(Scenario { can_page: false, ..Scenario::default() });
    assert_eq!((source.stage3_pages, world.guest.borrow().met_faults), (0, 0));
    assert!(source.stage2_pages > 0);
}

#[test]
fn from_a_host_without_labels_everything_arrives_before_the_guest_runs_and_to_one_nothing_changes() {
    for labels in [[false, true], [false, false]] {
        let (world, source, _) = completes(Scenario { labels, ..Scenario::default() });
        assert_eq!((source.stage3_pages, world.guest.borrow().met_faults), (0, 0), "{labels:?}");
    }
    let (_, source, _) = completes(Scenario { labels: [true, false], ..Scenario::default() });
    assert!(source.stage3_pages > 0, "{source}");
}

#[test]
fn a_guest_that_would_stand_still_for_too_long_stays_and_one_that_would_not_leaves() {
    let busy = Scenario { mode: Mode::Precopy, step_ns: 5_000, ..Scenario::default() };
    let bounded = |ms| Scenario { max_downtime: Some(Duration::from_millis(ms)), ..busy };
    let mut world = World::new(bounded(1));
    world.start();
    let reason = fails(world);
    assert!(reason.contains("would stand still for some") && reason.contains("1 ms are allowed"), "{reason}");
    let (_, source, _) = completes(bounded(1000));
    assert!(source.rounds < 5, "{source}");
    // Where pages follow later, what is dirty is no reason to stand still.
    completes(Scenario { mode: Mode::Tsmc, ..bounded(1) });
}

#[test]
fn a_guest_that_dom0_may_not_read_goes_to_no_host_without_labels() {
    for (labels, refused) in [([true, true], false), ([true, false], true)] {
        let mut world = World::new(Scenario { labels, ..Scenario::default() });
        world.guest.borrow_mut().is_private = true;
        world.start();
        if refused {
            assert!(fails(world).contains("could read this guest"));
        } else {
            assert!(world.run(600_000), "{:?}", world.states);
            world.guest.borrow().check_complete();
        }
    }
}

#[test]
fn a_precopy_iterates_until_little_is_dirty() {
    let idle = Scenario { mode: Mode::Precopy, step_ns: 200_000, working_set: 40, ..Scenario::default() };
    let (_, source, _) = completes(idle);
    assert!((2..=5).contains(&source.rounds) && source.stage3_pages == 0, "{source}");
    let (_, busy, _) = completes(Scenario { mode: Mode::Precopy, step_ns: 5_000, ..Scenario::default() });
    assert!(busy.rounds == 5 && busy.stage2_pages > source.stage2_pages, "{busy}");
}

#[test]
fn a_postcopy_sends_every_page_once_and_nearly_all_after_the_switch() {
    let (world, source, target) = completes(Scenario { mode: Mode::Postcopy, ..Scenario::default() });
    assert_eq!((source.stage1_pages, source.most_sends), (0, 1), "{source}");
    assert_eq!(source.dirty_pages, source.stage2_pages + source.stage3_pages, "{source}");
    assert!(source.stage2_pages * 4 < source.stage3_pages && target.armed_early > 0, "{source}\n{target}");
    assert!(target.faults > 0 && world.guest.borrow().met_faults >= target.faults, "{target}");
}

#[test]
fn sixty_four_virtual_cpus_that_all_fault_get_their_pages() {
    let scenario = Scenario { mode: Mode::Postcopy, vcpus: 64, working_set: 1500, ..Scenario::default() };
    let (world, _, target) = completes(scenario);
    let guest = world.guest.borrow();
    assert!(target.faults >= 64, "{target}");
    assert!(guest.met_again > 0, "no page was named twice");
    assert!(guest.met_faults >= target.faults && guest.waits.len() >= 64, "{target}");
}

#[test]
fn pages_that_cannot_be_armed_arrive_before_the_guest_runs() {
    let (_, source, _) = completes(Scenario { stubborn: true, ..Scenario::default() });
    assert!(source.stage3_pages > 0);
}

/// What looks like a clock is the guest's to write.
#[test]
fn a_guest_full_of_pages_that_look_like_clocks_crosses() {
    let mut world = World::new(Scenario::default());
    world.guest.borrow_mut().truth.iter_mut().flatten().for_each(|value| *value |= sim::guest::PINNED | 1);
    world.start();
    assert!(world.run(600_000), "{:?}", world.states);
    assert_eq!(world.state(1), Some(&State::Complete), "{:?}", world.states);
    world.guest.borrow().check_complete();
}

/// More demands than the source keeps wait in the connection.
#[test]
fn any_number_of_pages_may_be_demanded() {
    let guest = Scenario { frames: 60_000, working_set: 60_000, step_ns: 1_000, stubborn: true, ..Scenario::default() };
    let (_, source, _) = completes(guest);
    assert!(source.dirty_pages > 40_000, "{source}");
}

#[test]
fn an_idle_guest_crosses_without_a_fault() {
    let (world, source, _) = completes(Scenario { step_ns: 1 << 40, ..Scenario::default() });
    assert_eq!((source.dirty_pages, world.guest.borrow().met_faults, source.most_sends), (0, 0, 1));
    assert_eq!(world.gave_way, 0, "nobody waited");
}

#[test]
fn guests_cross_in_both_directions_at_once() {
    let mut world = World::new(Scenario { frames: 1000, ..Scenario::default() });
    (0..3).for_each(|_| world.add_guest());
    world.start();
    assert!(world.run(600_000), "{:?}", world.states);
    assert!(world.states.iter().flatten().all(|states| states.last() == Some(&State::Complete)), "{:?}", world.states);
    world.guests.borrow().iter().for_each(|guest| guest.borrow().check_complete());
    // A guest balloons there while it is freed here.
    let bit_by_bit = |guest: &Guest| {
        let pages = guest.truth.iter().flatten().count();
        guest.freed.abs_diff(pages) < pages / 100
    };
    assert!(world.guests.borrow().iter().any(|guest| bit_by_bit(&guest.borrow())), "others wait for a copy to go");
}

#[test]
fn one_of_two_that_fails_leaves_the_other_alone() {
    let mut world = World::new(Scenario { frames: 1000, ..Scenario::default() });
    world.add_guest();
    world.start();
    world.run_until(10, |_| false);
    world.cancel(0);
    assert!(world.run(600_000), "{:?}", world.states);
    assert!(matches!(world.state(0), Some(State::Failed { .. })), "{:?}", world.states);
    world.guests.borrow()[1].borrow().check_complete();
    stays(&mut world);
}

#[test]
fn only_the_last_eight_reports_are_kept() {
    let mut world = World::new(Scenario { frames: 100, ..Scenario::default() });
    world.suspends = false;
    world.start();
    assert!(world.run(100_000));
    for _ in 0..10 {
        world.restart();
        assert!(world.run(100_000), "{:?}", world.states);
    }
    world.run_until(10, |_| false);
    for host in [0, 1] {
        let nodes = world.nodes(host);
        assert_eq!(nodes.iter().filter(|node| node.ends_with("/state")).count(), 8, "{nodes:?}");
        assert!(!nodes.iter().any(|node| node.starts_with("request/")), "{nodes:?}");
    }
}

#[test]
fn a_word_after_the_end_leaves_nothing_behind() {
    let (mut world, ..) = completes(Scenario { frames: 100, ..Scenario::default() });
    [0, 1].into_iter().for_each(|end| world.cancel(end));
    world.ask(0, "nobody/cancel", "1");
    world.run_until(10, |_| false);
    let left: Vec<_> = [0, 1].into_iter().flat_map(|host| world.nodes(host)).collect();
    assert!(!left.iter().any(|node| node.starts_with("request/")), "{left:?}");
}

#[test]
fn a_request_that_makes_no_sense_is_answered() {
    let mut world = World::new(Scenario::default());
    world.ask(0, "out-0-1", "out domain=99 mode=tsmc");
    assert!(world.run_until(1000, |world| world.state(0).is_some()));
    assert_eq!(world.state(0), Some(&State::Failed { cause: FailureCause::Gone, reason: "the guest is gone".into() }));
    world.ask(0, "out-0-2", "out of order");
    assert!(world.run_until(1000, |world| world.states[0][0].len() == 2));
    let reason = "the toolstack's request is malformed: domain is missing".to_string();
    assert_eq!(world.state(0), Some(&State::Failed { cause: FailureCause::Other, reason }));
}

/// Absent pages do not show in what the hypervisor tells of a guest; the agent itself must know that it is not whole.
#[test]
fn a_guest_in_hand_is_in_no_second_hand() {
    let slow = Quality { bytes_per_second: 5_000_000, delay_ns: 100_000, lost_per_mille: 0, ..Quality::default() };
    let mut world = World::new(Scenario { quality: slow, ..Scenario::default() });
    world.start();
    world.run_until(20, |_| false);
    world.ask(0, "twice-0", "out domain=0 mode=tsmc");
    assert!(world.run_until(60_000, |world| world.guest.borrow().released));
    world.ask(0, "twice-1", "out domain=0 mode=tsmc");
    world.ask(1, "twice-2", "out domain=1000 mode=tsmc");
    world.run_until(20, |_| false);
    let reason = "an earlier migration of the guest has not ended here; see 'tsmc status'".to_string();
    let failed = State::Failed { cause: FailureCause::Other, reason };
    for (host, id) in [(0, "twice-0"), (0, "twice-1"), (1, "twice-2")] {
        assert_eq!(world.answer(host, id).as_ref(), Some(&failed), "{id}");
    }
    assert!(world.run(600_000), "{:?}", world.states);
    world.guest.borrow().check_complete();
    world.ask(1, "again", "out domain=1000 mode=tsmc");
    world.run_until(20, |_| false);
    assert!(matches!(world.answer(1, "again"), Some(State::Listening { .. })));
}

#[test]
fn a_guest_that_has_left_and_may_be_wanted_is_not_sent_again() {
    let mut world = World::new(Scenario::default());
    world.start();
    assert!(world.run_until(10_000, |world| world.guest.borrow().released));
    world.cable.cut(true);
    assert!(world.run_until(60_000, |world| matches!(world.state(0), Some(State::Interrupted { .. }))));
    world.ask(0, "again", "out domain=0 mode=tsmc");
    world.run_until(20, |_| false);
    assert!(matches!(world.answer(0, "again"), Some(State::Failed { .. })), "{:?}", world.states);
    world.cable.cut(false);
    assert!(world.run(100_000), "{:?}", world.states);
    world.guest.borrow().check_complete();
}

#[test]
fn a_guest_that_cannot_be_destroyed_yet_is_destroyed_later() {
    let mut world = World::new(Scenario::default());
    world.start();
    world.fail(Op::Destroy, 0);
    assert!(world.run(100_000), "{:?}", world.states);
    world.guest.borrow().check_complete();
}

#[test]
fn a_guest_destroyed_in_stage_3_frees_the_source() {
    let mut world = World::new(Scenario::default());
    world.start();
    assert!(world.run_until(10_000, |world| world.guest.borrow().released));
    world.run_until(70, |_| false);
    world.guest.borrow_mut().created = false;
    assert!(world.run(100_000), "{:?}", world.states);
    assert_eq!(world.guest.borrow().here, Here::Destroyed);
}

#[test]
fn a_page_given_back_in_the_last_moment_does_not_keep_the_source_for_ever() {
    let mut world = World::new(Scenario { working_set: 1500, step_ns: 5_000, ..Scenario::default() });
    world.start();
    assert!(world.run_until(10_000, |world| world.guest.borrow().here == Here::Retained));
    {
        let guest = &mut *world.guest.borrow_mut();
        let armed = (0..guest.there.len()).rfind(|gfn| guest.there[*gfn].is_some_and(|frame| frame.armed));
        guest.truth[armed.expect("an absent page")] = None;
        guest.gave_back_last = armed;
    }
    assert!(world.run(600_000), "{:?}", world.states);
    world.guest.borrow().check_complete();
}

#[test]
fn a_page_that_comes_behind_the_last_look_at_the_holes_arrives() {
    let mut world = World::new(Scenario { frames: 34_000, ..Scenario::default() });
    {
        let guest = &mut *world.guest.borrow_mut();
        guest.balloons_here = false;
        // The first look is stage 1's, the second the one before the suspend.
        guest.moves_in_scan = Some(2);
    }
    world.start();
    assert!(world.run(600_000), "{:?}", world.states);
    assert_eq!(world.guest.borrow().moves_in_scan, None, "nothing has moved");
    world.guest.borrow().check_complete();
}

#[test]
fn the_source_never_destroys_pages_that_the_target_misses() {
    let mut world = World::new(Scenario::default());
    world.start();
    assert!(world.run_until(10_000, |world| world.guest.borrow().released));
    world.kill(1);
    world.run_until(120_000, |_| false);
    assert_eq!(world.guest.borrow().here, Here::Retained);
}
