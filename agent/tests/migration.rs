//! Both ends of the agent against each other: real agents, real TCP, virtual time.

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

use common::control::{Cause, Mode, State, Summary};
use proptest::prelude::*;
use sim::guest::{Guest, Here};
use sim::link::Quality;
use sim::machine::{BEFORE_COMMIT, Op};
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
    if scenario.mode != Mode::Precopy && scenario.can_page {
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
    assert_eq!(world.state(0), Some(&State::Failed { cause: Cause::Gone, reason: "the guest is gone".into() }));
    world.ask(0, "out-0-2", "out of order");
    assert!(world.run_until(1000, |world| world.states[0][0].len() == 2));
    let reason = "the toolstack's request is malformed: domain is missing".to_string();
    assert_eq!(world.state(0), Some(&State::Failed { cause: Cause::Other, reason }));
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
    let failed = State::Failed { cause: Cause::Other, reason };
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
fn an_absent_agent_is_named() {
    let mut world = World::new(Scenario::default());
    world.kill(1);
    world.start();
    assert!(world.run_until(60_000, |world| world.state(0).is_some_and(State::is_end)));
    let reason = "the other host's agent did not connect in time".to_string();
    assert_eq!(world.state(0), Some(&State::Failed { cause: Cause::Other, reason }));
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
    world.fail(Op::Release, 0);
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
    world.fail(Op::Release, 0);
    world.cancel(0);
    assert!(world.run(300_000), "{:?}", world.states);
    let Some(State::Failed { cause: Cause::Other, reason }) = world.state(0) else { panic!("{:?}", world.states) };
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
            let cancelled = |end| matches!(world.state(end), Some(State::Failed { cause: Cause::Cancelled, .. }));
            assert!(cancelled(side) && !cancelled(1 - side), "{side} {ms}: {:?}", world.states);
        }
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
fn a_guest_destroyed_before_it_ran_is_back_at_the_source() {
    let mut world = World::new(Scenario::default());
    world.start();
    assert!(world.run_until(10_000, |world| world.guest.borrow().here == Here::Retained));
    world.guest.borrow_mut().created = false;
    assert!(world.run(300_000), "{:?}", world.states);
    stays(&mut world);
    let reason = "the guest never ran on the other host; it is back".to_string();
    assert_eq!(world.state(0), Some(&State::Failed { cause: Cause::Back, reason }));
    assert!(matches!(world.state(1), Some(State::Failed { cause: Cause::Gone, .. })), "{:?}", world.states);
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

fn scenarios() -> impl Strategy<Value = Scenario> {
    let quality = (1_000_000..200_000_000u64, 10_000..5_000_000u64, 0..20u64).prop_map(
        |(bytes_per_second, delay_ns, lost_per_mille)| Quality {
            bytes_per_second,
            delay_ns,
            lost_per_mille,
            ..Quality::default()
        },
    );
    let guest = (10..3000u64, 1..5usize, 1..2000u64, 1_000..200_000u64);
    let manner = (
        prop_oneof![3 => Just(Mode::Tsmc), 1 => Just(Mode::Precopy), 1 => Just(Mode::Postcopy)],
        any::<[bool; 2]>(),
        0..200_000_000u64,
    );
    (any::<u32>(), guest, quality, manner).prop_map(|(seed, guest, quality, (mode, [pages, stubborn], suspend_ns))| {
        let (frames, vcpus, working_set, step_ns) = guest;
        let (can_page, to_itself) = (pages || seed % 4 != 0, seed % 7 == 0);
        let seed = u64::from(seed);
        Scenario { seed, frames, vcpus, working_set, step_ns, quality, mode, can_page, stubborn, suspend_ns, to_itself }
    })
}

/// Enough cases for every day; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_guest_over_any_link_arrives_whole(scenario in scenarios()) {
        completes(scenario);
    }

    #[test]
    fn any_failure_before_the_commit_leaves_one_guest(
        scenario in scenarios(), op in prop::sample::select(BEFORE_COMMIT.to_vec()), after in 0..40u32,
    ) {
        let mut world = World::new(scenario);
        world.start();
        world.fail(op, after);
        world.run(600_000);
        match world.state(0) {
            Some(State::Complete) => world.guest.borrow().check_complete(),
            Some(State::Failed { .. }) => stays(&mut world),
            state => panic!("{state:?}: {:?}", world.states),
        }
    }

    #[test]
    fn any_interruption_leaves_one_guest(
        scenario in scenarios(), what in prop::sample::select(Interruption::ALL.to_vec()), per_mille in 0..1000u64,
    ) {
        // How long it would take undisturbed says when there is something to disturb.
        let mut undisturbed = World::new(scenario);
        undisturbed.start();
        let began = undisturbed.clock.get();
        undisturbed.run(600_000);
        let took_us = (undisturbed.clock.get() - began) / 1000;
        let mut world = World::new(scenario);
        world.start();
        let until = world.clock.get() + took_us * per_mille;
        world.run_until(1_000_000, |world| world.clock.get() >= until);
        what.happens(&mut world);
        world.run_until(200_000, |_| false);
        let here = world.guest.borrow().here;
        match (world.state(0), here) {
            // Destroyed after it ran there, it needs no more pages.
            (Some(State::Complete), _) if what == Interruption::DestroyTarget => {}
            (Some(State::Complete), _) => world.guest.borrow().check_complete(),
            (Some(State::Failed { .. }), _) => stays(&mut world),
            // The source's agent is dead, or waits for a target that may come back: it has every page.
            (_, Here::Retained) => {}
            // Without its agent the guest runs on, or waits for somebody to resume it; it is whole.
            (_, Here::Running | Here::Suspended) if what == Interruption::KillSource => {}
            state => panic!("{state:?}: {:?}", world.states),
        }
        let done = world.guest.borrow().finished || what == Interruption::DestroyTarget;
        prop_assert!(here != Here::Destroyed || done);
    }
}

/// What can come between two agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interruption {
    KillSource,
    KillTarget,
    Cut,
    CutForASecond,
    CancelSource,
    CancelTarget,
    DestroyTarget,
}

impl Interruption {
    const ALL: [Self; 7] = [
        Self::KillSource,
        Self::KillTarget,
        Self::Cut,
        Self::CutForASecond,
        Self::CancelSource,
        Self::CancelTarget,
        Self::DestroyTarget,
    ];

    fn happens(self, world: &mut World) {
        match self {
            Self::KillSource => world.kill(0),
            Self::KillTarget => world.kill(1),
            Self::Cut => world.cable.cut(true),
            Self::CutForASecond => {
                world.cable.cut(true);
                world.run_until(1000, |_| false);
                world.cable.cut(false);
            }
            Self::CancelSource => world.cancel(0),
            Self::CancelTarget => world.cancel(1),
            Self::DestroyTarget => world.guest.borrow_mut().created = false,
        }
    }
}
