//! One fault, at any point of a migration: afterwards there is exactly one guest, and it runs or comes to run.
//!
//! `SOAK_RUNS=10000 cargo test --release -p agent --test recovery -- --ignored --nocapture soak` runs random ones; `make
//! soak` does. A run that fails says with which `SOAK_SEED` it does so again.

#[expect(dead_code, reason = "the simulator serves other tests as well")]
mod sim;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use agent::error::{Refusal, SessionError};
use common::control::{Cause, Mode, State};
use sim::guest::Here;
use sim::link::Quality;
use sim::machine::{AFTER_COMMIT, BEFORE_COMMIT, Op, THERE};
use sim::random::Random;
use sim::{Scenario, World};

/// Longer than anybody waits for anybody, in milliseconds.
const FOR_EVER: u64 = 400_000;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The cable is cut, for so many milliseconds.
    Cut(u64),
    /// An agent dies; so many milliseconds later another one is there, and dom0 hands it what it kept.
    Restart { host: usize, after: u64 },
    /// A toolstack gives up.
    Cancel { end: usize },
    /// The target's domain is destroyed.
    DestroyTarget,
    /// It is paused, and destroyed if the agent says that it has never run.
    Withdraw,
    /// The cable is cut for so many milliseconds; then what the source keeps is discarded, and if it was, the copy destroyed.
    Discard { cut: u64 },
    /// An operator pauses the guest at the source, for so many milliseconds.
    Pause(u64),
    /// dom0 resumes the guest, so many microseconds after it has suspended at the source.
    Resume { after: u64 },
    /// An operation of the hypervisor fails.
    Fails(Op, u32),
    /// So many frames of a host are lost.
    Lose { host: usize, frames: u64 },
}

/// When it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// When a host has sent so many frames.
    Sent { host: usize, frames: u64 },
    /// When the source, or the target, has been in so many states.
    States { end: usize, count: usize },
    /// So many microseconds after the request.
    Elapsed { us: u64 },
}

/// A migration with one fault.
#[derive(Clone, Copy, Debug)]
struct Run {
    scenario: Scenario,
    /// How long the target's toolstack takes to start the guest.
    start_ns: u64,
    when: When,
    fault: Fault,
}

impl Run {
    /// Runs it, and checks what must hold whatever went wrong. Whether the fault came before the end.
    fn check(self) -> bool {
        let mut world = World::new(self.scenario);
        world.start_ns = self.start_ns;
        world.start();
        let began = world.clock.get();
        let due = |world: &World| match self.when {
            When::Elapsed { us } => world.clock.get() >= began + 1000 * us,
            When::Sent { host, frames } => world.cable.sent(host) >= frames,
            When::States { end, count } => world.states[0][end].len() >= count,
        };
        world.run_until(FOR_EVER, |world| due(world) || over(world));
        let in_time = !over(&world);
        let may_lose = self.fault.happens(&mut world);
        let settled = world.run_until(FOR_EVER, over);
        let states = format!("{:?}", world.states);
        assert!(settled, "nobody has the guest: {states}");
        world.run_until(1_000, |_| false);
        let here = world.guest.borrow().here;
        match here {
            Here::Running => {
                let writes = world.guest.borrow().writes;
                world.run_until(50 * self.scenario.step_ns / 1_000_000 + 20, |_| false);
                {
                    let guest = world.guest.borrow();
                    assert!(guest.runs_here() && !guest.logging && !guest.ran_there, "{states}");
                    assert!(guest.writes > writes, "the guest does not run: {states}");
                }
                again(&mut world);
            }
            Here::Destroyed if may_lose => {}
            Here::Destroyed => world.guest.borrow().check_complete(),
            Here::Suspended | Here::Stopped | Here::Gone | Here::Retained => panic!("{here:?}: {states}"),
        }
        in_time
    }
}

/// Whether the guest is where it belongs, and both agents know.
fn over(world: &World) -> bool {
    let guest = world.guest.borrow();
    let ended = |states: &Vec<State>| states.is_empty() || states.last().is_some_and(State::is_end);
    let quiet = world.states.iter().flatten().all(ended);
    let source = world.state(0).is_some();
    source && quiet && !world.is_suspending() && matches!(guest.here, Here::Running | Here::Destroyed)
}

/// A later attempt succeeds.
fn again(world: &mut World) {
    world.trouble.borrow_mut().take();
    [0, 1].into_iter().for_each(|host| world.cable.lose(host, 0..0));
    // Whoever has not heard of the end gives up.
    world.run_until(70_000, |_| false);
    world.restart();
    assert!(world.run(FOR_EVER), "the next attempt does not end: {:?}", world.states);
    assert_eq!(world.state(0), Some(&State::Complete), "the next attempt fails: {:?}", world.states);
    world.guest.borrow().check_complete();
}

impl Fault {
    /// Lets it happen. Whether somebody has destroyed the guest who may.
    fn happens(self, world: &mut World) -> bool {
        match self {
            Self::Cut(ms) => {
                world.cable.cut(true);
                world.run_until(ms, |_| false);
                world.cable.cut(false);
            }
            Self::Restart { host, after } => {
                world.kill(host);
                world.run_until(after, |_| false);
                // The helper waits for libxl before it turns to the next agent.
                world.run_until(FOR_EVER, |world| !world.is_suspending());
                world.revive(host);
                if world.state(host).is_none_or(|state| !state.is_end()) {
                    world.run_until(FOR_EVER, over);
                }
            }
            Self::Cancel { end } => world.cancel(end),
            Self::DestroyTarget => {
                let guest = &mut *world.guest.borrow_mut();
                guest.created = false;
                return guest.ran_there || guest.finished;
            }
            Self::Withdraw => {
                world.guest.borrow_mut().paused_there = true;
                let never_ran =
                    complete(world, 1 - usize::from(world.scenario.to_itself), &format!("withdraw domain={THERE}"));
                let guest = &mut *world.guest.borrow_mut();
                assert!(!never_ran || !guest.ran_there, "the agent takes back a guest that has run");
                (guest.created, guest.paused_there) = (guest.created && !never_ran, false);
            }
            Self::Discard { cut } => {
                world.cable.cut(true);
                world.run_until(cut, |_| false);
                let discarded = complete(world, 0, "discard domain=0");
                world.cable.cut(false);
                world.guest.borrow_mut().created &= !discarded;
                return discarded;
            }
            Self::Pause(ms) => {
                world.guest.borrow_mut().paused_by_dom0 = true;
                world.run_until(ms, |_| false);
                world.guest.borrow_mut().paused_by_dom0 = false;
            }
            Self::Resume { after } => {
                world.run_until(FOR_EVER, |world| over(world) || world.guest.borrow().here == Here::Suspended);
                let due = world.clock.get() + 1000 * after;
                world.run_until(FOR_EVER, |world| world.clock.get() >= due);
                let guest = &mut *world.guest.borrow_mut();
                if guest.here == Here::Suspended {
                    (guest.here, guest.paused_here) = (Here::Running, false);
                }
            }
            Self::Fails(op, after) => world.fail(op, after),
            Self::Lose { host, frames } => world.cable.lose(host, 0..frames),
        }
        false
    }
}

/// Whether a request of an operator completes.
fn complete(world: &mut World, host: usize, line: &str) -> bool {
    world.ask(host, "operator", line);
    let answered = world.run_until(5_000, |world| world.answer(host, "operator").is_some_and(|state| state.is_end()));
    assert!(answered, "no answer to '{line}'");
    world.answer(host, "operator") == Some(State::Complete)
}

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
    let back = failed(Cause::Back, Refusal::NotLeft);
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

fn failed(cause: Cause, reason: impl ToString) -> State {
    State::Failed { cause, reason: reason.to_string() }
}

#[test]
fn what_is_kept_for_a_host_that_is_gone_can_be_discarded() {
    let mut world = interrupted();
    world.kill(1);
    assert_eq!(discard(&mut world, "discard-1"), State::Complete);
    assert_eq!(world.guest.borrow().here, Here::Destroyed);
    assert_eq!(world.state(0), Some(&failed(Cause::Gone, Refusal::Discarded)));
    assert_eq!(discard(&mut world, "discard-2"), failed(Cause::Gone, Refusal::Gone));
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
        world.run_until(5_000, |world| world.state(1) == Some(&failed(Cause::Gone, Refusal::Gone))),
        "{:?}",
        world.states
    );
    assert!(!world.guest.borrow().ran_there);
}

#[test]
fn nothing_is_discarded_that_somebody_may_still_want() {
    // One that runs here, one that is being sent, one whose pages the target fetches.
    let mut world = World::new(small());
    assert_eq!(discard(&mut world, "discard-1"), failed(Cause::Other, "the guest has not left this host"));
    let slow = Quality { bytes_per_second: 100_000, ..small().quality };
    for state in [State::Copying, State::Committed] {
        let mut world = World::new(Scenario { quality: slow, ..small() });
        world.start();
        assert!(world.run_until(FOR_EVER, |world| world.state(0) == Some(&state)));
        assert_eq!(discard(&mut world, "discard-1"), failed(Cause::Other, Refusal::InHand));
        assert_eq!(world.state(0), Some(&state), "the test comes too late");
        assert!(world.run(FOR_EVER), "{:?}", world.states);
        world.guest.borrow().check_complete();
    }
}

fn random_run(seed: u64) -> Run {
    let mut random = Random::new(seed);
    let mut below = |bound| random.below(bound);
    let quality = Quality {
        bytes_per_second: 2_000_000 + below(60_000_000),
        delay_ns: 20_000 + below(2_000_000),
        lost_per_mille: if below(3) == 0 { below(15) } else { 0 },
        ..Quality::default()
    };
    let most_vcpus = if below(4) == 0 { 64 } else { 4 };
    let scenario = Scenario {
        seed,
        frames: 20 + below(600),
        vcpus: 1 + below(most_vcpus) as usize,
        working_set: 1 + below(400),
        step_ns: 50_000 + below(400_000),
        quality,
        mode: match below(6) {
            0 => Mode::Precopy,
            1 => Mode::Postcopy,
            _ => Mode::Tsmc,
        },
        can_page: below(8) != 0,
        stubborn: below(3) == 0,
        suspend_ns: below(100_000_000),
        to_itself: below(6) == 0,
    };
    let short = |long: u64| 1 + long;
    let fault = match below(18) {
        0..3 => Fault::Cut(short(below(70_000))),
        3..5 => Fault::Restart { host: 0, after: short(below(40_000)) },
        5..7 => Fault::Restart { host: 1 - usize::from(scenario.to_itself), after: short(below(40_000)) },
        7 => Fault::Cancel { end: below(2) as usize },
        8 => Fault::DestroyTarget,
        9 => Fault::Fails(BEFORE_COMMIT[below(BEFORE_COMMIT.len() as u64) as usize], below(40) as u32),
        10 => Fault::Fails(AFTER_COMMIT[below(AFTER_COMMIT.len() as u64) as usize], below(40) as u32),
        11..13 => Fault::Withdraw,
        13 => Fault::Discard { cut: below(70_000) },
        14 => Fault::Pause(below(3_000)),
        15..17 => Fault::Resume { after: below(2_000) },
        _ => Fault::Lose { host: below(2) as usize, frames: 1 + below(40) },
    };
    let when = match below(4) {
        0 => When::States { end: 0, count: 1 + below(5) as usize },
        1 => When::States { end: 1, count: 1 + below(3) as usize },
        _ if scenario.to_itself => When::Elapsed { us: below(200_000) },
        _ => When::Sent { host: below(2) as usize, frames: 1 + below(1 + 2 * scenario.frames) },
    };
    Run { scenario, start_ns: below(150_000_000), when, fault }
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Random migrations with random faults. `SOAK_SEED` is the first seed, `SOAK_RUNS` says how many.
#[test]
#[ignore = "takes minutes: make soak"]
fn soak() {
    let (first, runs) = (setting("SOAK_SEED", 1), setting("SOAK_RUNS", 10_000));
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let began = Instant::now();
    println!("soak: {runs} runs from seed {first} on");
    let failed: Vec<u64> = std::thread::scope(|scope| {
        let part = |thread| {
            scope.spawn(move || {
                (first..first + runs)
                    .filter(|seed| seed % threads == thread)
                    .filter(|seed| fails(*seed))
                    .collect::<Vec<_>>()
            })
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        parts.into_iter().flat_map(|part| part.join().expect("a part")).collect()
    });
    println!("soak: {runs} runs in {} s, {} failed", began.elapsed().as_secs(), failed.len());
    assert!(failed.is_empty(), "these seeds failed: {failed:?}");
}

fn fails(seed: u64) -> bool {
    let run = random_run(seed);
    let failed = catch_unwind(AssertUnwindSafe(|| run.check())).is_err();
    if failed {
        println!("seed {seed} fails: {run:?}\n  again: SOAK_SEED={seed} SOAK_RUNS=1 make soak");
    }
    failed
}
