//! A migration with one fault, and what must hold whatever it was.

use common::control::State;

use crate::FOR_EVER;
use crate::sim::guest::Here;
use crate::sim::machine::{Op, THERE};
use crate::sim::{Scenario, World};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
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
pub enum When {
    /// When a host has sent so many frames.
    Sent { host: usize, frames: u64 },
    /// When the source, or the target, has been in so many states.
    States { end: usize, count: usize },
    /// So many microseconds after the request.
    Elapsed { us: u64 },
}

/// A migration with one fault.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub scenario: Scenario,
    /// How long the target's toolstack takes to start the guest.
    pub start_ns: u64,
    pub when: When,
    pub fault: Fault,
}

impl Run {
    /// Runs it, and checks what must hold whatever went wrong. Whether the fault came before the end.
    pub fn check(self) -> bool {
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
