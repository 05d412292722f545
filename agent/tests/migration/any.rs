//! Random guests, links, failures and interruptions.

use common::control::{Mode, State};
use proptest::prelude::*;

use crate::sim::guest::Here;
use crate::sim::link::Quality;
use crate::sim::machine::BEFORE_COMMIT;
use crate::sim::{Scenario, World};
use crate::{completes, stays};

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
        let labels = [seed % 5 != 1, seed % 5 != 2];
        let guest =
            Scenario { seed: seed.into(), frames, vcpus, working_set, step_ns, can_page, ..Scenario::default() };
        Scenario { quality, mode, labels, stubborn, suspend_ns, to_itself, ..guest }
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
