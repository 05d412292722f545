//! One fault, at any point of a migration: afterwards there is exactly one guest, and it runs or comes to run.
//!
//! `SOAK_RUNS=10000 cargo test --release -p agent --test recovery -- --ignored --nocapture soak` runs random ones; `make
//! soak` does. A run that fails says with which `SOAK_SEED` it does so again.

#[path = "recovery/fault.rs"]
mod fault;
#[expect(dead_code, reason = "the simulator serves other tests as well")]
mod sim;
#[path = "recovery/soak.rs"]
mod soak;

use agent::error::{Refusal, SessionError};
use common::control::{FailureCause, State};
use fault::{Fault, Run, When};
use sim::guest::Here;
use sim::link::Quality;
use sim::machine::AFTER_COMMIT;
use sim::{Scenario, World};

/// Longer than anybody waits for anybody, in milliseconds.
const FOR_EVER: u64 = 400_000;

/// A small guest over a quick link: few messages, and something in each stage.
fn small() -> Scenario {
    let quality = Quality { bytes_per_second: 20_000_000, delay_ns: 100_000, lost_per_mille: 0, ..Quality::default() };
    let guest = Scenario { frames: 300, vcpus: 2, working_set: 120, step_ns: 100_000, ..Scenario::default() };
    Scenario { quality, suspend_ns: 2_000_000, ..guest }
}

const FAULTS: [Fault; 14] = [
    Fault::Cut(2_000),
    Fault::Cut(60_000),
    Fault::Restart { host: 0, after: 500 },
    Fault::Restart { host: 1, after: 500 },
    Fault::Restart { host: 1, after: 30_000 },
    Fault::Cancel { end: 0 },
    Fault::Cancel { end: 1 },
    Fault::DestroyTarget,
    Fault::Withdraw,
    Fault::Discard { cut: 20_000 },
    Fault::Pause(2_000),
    Fault::Resume { after: 0 },
    Fault::Resume { after: 500 },
    Fault::Lose { host: 0, frames: 3 },
];

#[test]
fn one_fault_between_any_two_states_leaves_one_guest() {
    for fault in FAULTS {
        for (end, counts) in [(0, 1..=5), (1, 1..=4)] {
            for (count, start_ns) in counts.flat_map(|count| [(count, 0), (count, 80_000_000)]) {
                let when = When::States { end, count };
                Run { scenario: small(), start_ns, when, fault }.check();
            }
        }
    }
}

/// Every so many frames of either host; the soak does the rest.
#[test]
fn one_fault_between_any_two_frames_leaves_one_guest() {
    let mut in_time = 0;
    for (index, fault) in FAULTS.into_iter().enumerate() {
        for host in [0, 1] {
            for frames in (1..400).skip(index % 13).step_by(13) {
                let when = When::Sent { host, frames };
                let came = Run { scenario: small(), start_ns: 20_000_000, when, fault }.check();
                in_time += u64::from(came);
                if !came {
                    break;
                }
            }
        }
    }
    assert!(in_time > 50, "only {in_time} faults came in time");
}

/// Of a migration to the own host the agent is both ends: both die at once, and both notes are handed to the next.
#[test]
fn one_fault_of_a_migration_to_its_own_host_leaves_one_guest() {
    let scenario = Scenario { to_itself: true, ..small() };
    let faults = [
        Fault::Restart { host: 0, after: 500 },
        Fault::Restart { host: 0, after: 30_000 },
        Fault::Cancel { end: 0 },
        Fault::Cancel { end: 1 },
        Fault::DestroyTarget,
    ];
    let mut in_time = 0;
    for (index, fault) in faults.into_iter().enumerate() {
        for us in (1_000 * index as u64..80_000).step_by(5_000) {
            let when = When::Elapsed { us };
            let came = Run { scenario, start_ns: 20_000_000, when, fault }.check();
            in_time += u64::from(came);
            if !came {
                break;
            }
        }
        for (end, counts) in [(0, 1..=5), (1, 1..=4)] {
            for count in counts {
                Run { scenario, start_ns: 0, when: When::States { end, count }, fault }.check();
            }
        }
    }
    assert!(in_time > 20, "only {in_time} faults came in time");
}

/// A link that is back in the last second of a call, and loses packets: TCP may have the answer when the caller gives up.
#[test]
fn an_answer_to_a_call_that_was_given_up_is_said_again() {
    for seed in 0..50 {
        let quality = Quality { lost_per_mille: 40, ..small().quality };
        let scenario = Scenario { seed, quality, ..small() };
        let when = When::States { end: 1, count: 2 };
        Run { scenario, start_ns: 0, when, fault: Fault::Cut(63_500 + 20 * seed) }.check();
    }
}

#[test]
fn what_the_hypervisor_refuses_after_the_commit_is_tried_again() {
    for op in AFTER_COMMIT {
        for after in [0, 3] {
            let when = When::States { end: 1, count: 3 };
            Run { scenario: small(), start_ns: 0, when, fault: Fault::Fails(op, after) }.check();
        }
    }
}

#[test]
fn a_note_that_was_changed_or_is_another_agent_s_is_refused() {
    let mut world = World::new(small());
    world.start();
    assert!(world.run_until(FOR_EVER, |world| world.state(1) == Some(&State::Running)));
    world.cable.cut(true);
    let [source, target] = [0, 1].map(|end| world.note(end).expect("a note"));
    let changed = |at: usize| {
        let mut note = source.clone().into_bytes();
        note[at] = if note[at] == b'0' { b'1' } else { b'0' };
        String::from_utf8(note).expect("text")
    };
    let short = source[2..].to_string();
    let notes = [changed(0), changed(40), changed(source.len() - 1), target, short, "00".into()];
    for (index, note) in notes.iter().enumerate() {
        let id = format!("forged-{index}");
        world.ask(0, &id, &format!("recover note={note}"));
        world.run_until(20, |_| false);
        let Some(State::Failed { reason, .. }) = world.answer(0, &id) else {
            panic!("{id}: {:?}", world.answer(0, &id))
        };
        assert_eq!(reason, "the note was not written by an agent with this agent's key, or it was changed");
    }
    // The agent's own note, while it has the guest in hand.
    world.ask(0, "twice", &format!("recover note={source}"));
    world.run_until(20, |_| false);
    let Some(State::Failed { reason, .. }) = world.answer(0, "twice") else { panic!("{:?}", world.states) };
    assert_eq!(reason, Refusal::InHand.to_string());
    world.cable.cut(false);
    assert!(world.run(FOR_EVER), "{:?}", world.states);
    world.guest.borrow().check_complete();
}

#[test]
fn a_guest_that_had_not_left_when_its_agent_died_is_back() {
    let mut world = World::new(small());
    world.start();
    assert!(world.run_until(FOR_EVER, |world| world.note(0).is_some()));
    world.kill(0);
    world.revive(0);
    let back = failed(FailureCause::Back, Refusal::NotLeft);
    assert!(world.run_until(FOR_EVER, |world| world.state(0) == Some(&back)), "{:?}", world.states);
    assert!(world.guest.borrow().runs_here());
}

/// A migration whose agents have lost each other in stage 3, for as long as the cable is cut.
fn interrupted() -> World {
    let mut world = World::new(Scenario { working_set: 300, step_ns: 20_000, ..small() });
    world.start();
    assert!(world.run_until(FOR_EVER, |world| world.state(1) == Some(&State::Running)));
    world.cable.cut(true);
    let lost = |world: &World| [0, 1].iter().all(|end| matches!(world.state(*end), Some(State::Interrupted { .. })));
    assert!(world.run_until(FOR_EVER, lost), "{:?}", world.states);
    world
}

/// What comes of a request to discard the guest at the source.
fn discard(world: &mut World, id: &str) -> State {
    world.ask(0, id, "discard domain=0");
    assert!(world.run_until(5_000, |world| world.answer(0, id).is_some_and(|state| state.is_end())));
    world.answer(0, id).expect("an answer")
}

fn failed(cause: FailureCause, reason: impl ToString) -> State {
    State::Failed { cause, reason: reason.to_string() }
}

#[test]
fn what_is_kept_for_a_host_that_is_gone_can_be_discarded() {
    let mut world = interrupted();
    world.kill(1);
    assert_eq!(discard(&mut world, "discard-1"), State::Complete);
    assert_eq!(world.guest.borrow().here, Here::Destroyed);
    assert_eq!(world.state(0), Some(&failed(FailureCause::Gone, Refusal::Discarded)));
    assert_eq!(discard(&mut world, "discard-2"), failed(FailureCause::Gone, Refusal::Gone));
}

#[test]
fn what_a_restarted_agent_keeps_can_be_discarded() {
    for has_note in [true, false] {
        let mut world = interrupted();
        world.kill(0);
        if !has_note {
            world.lose_notes();
        }
        world.revive(0);
        world.run_until(1_000, |_| false);
        assert_eq!(discard(&mut world, "discard-1"), State::Complete, "{has_note}");
        assert_eq!(world.guest.borrow().here, Here::Destroyed);
    }
}

#[test]
fn a_target_that_is_back_hears_that_the_rest_was_discarded() {
    let mut world = interrupted();
    assert_eq!(discard(&mut world, "discard-1"), State::Complete);
    world.cable.cut(false);
    let told = State::Interrupted { reason: SessionError::Told(Refusal::Discarded.to_string()).to_string() };
    assert!(world.run_until(FOR_EVER, |world| world.state(1) == Some(&told)), "{:?}", world.states);
    // Nobody runs the guest without its pages, and nobody goes on without being told.
    world.run_until(FOR_EVER, |_| false);
    assert_eq!(world.state(1), Some(&told), "{:?}", world.states);
    assert!(world.guest.borrow().vcpus.iter().all(Option::is_some), "the guest does not wait for its pages");
}

#[test]
fn a_target_that_nobody_can_answer_waits_until_its_domain_is_destroyed() {
    let mut world = World::new(small());
    world.start();
    assert!(world.run_until(FOR_EVER, |world| world.state(1) == Some(&State::Ready)));
    world.kill(0);
    world.lose_notes();
    world.revive(0);
    world.run_until(FOR_EVER, |_| false);
    assert_eq!(world.state(1), Some(&State::Ready), "{:?}", world.states);
    world.guest.borrow_mut().created = false;
    assert!(
        world.run_until(5_000, |world| world.state(1) == Some(&failed(FailureCause::Gone, Refusal::Gone))),
        "{:?}",
        world.states
    );
    assert!(!world.guest.borrow().ran_there);
}

#[test]
fn nothing_is_discarded_that_somebody_may_still_want() {
    // One that runs here, one that is being sent, one whose pages the target fetches.
    let mut world = World::new(small());
    assert_eq!(discard(&mut world, "discard-1"), failed(FailureCause::Other, "the guest has not left this host"));
    let slow = Quality { bytes_per_second: 100_000, ..small().quality };
    for state in [State::Copying, State::Committed] {
        let mut world = World::new(Scenario { quality: slow, ..small() });
        world.start();
        assert!(world.run_until(FOR_EVER, |world| world.state(0) == Some(&state)));
        assert_eq!(discard(&mut world, "discard-1"), failed(FailureCause::Other, Refusal::InHand));
        assert_eq!(world.state(0), Some(&state), "the test comes too late");
        assert!(world.run(FOR_EVER), "{:?}", world.states);
        world.guest.borrow().check_complete();
    }
}
