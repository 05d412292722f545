//! Who may migrate to whom, and what somebody between the agents can do.

#[expect(dead_code, reason = "the simulator serves other tests as well")]
mod sim;

use std::collections::HashSet;

use agent::secure::Security;
use common::control::{FailureCause, State};
use sim::guest::Here;
use sim::{Scenario, World, key, sealed};

/// The guest stays at the source; what both ends' toolstacks hear.
fn fails(mut world: World) -> [String; 2] {
    world.start();
    assert!(world.run(300_000), "the migration does not end: {:?}", world.states);
    let writes = world.guest.borrow().writes;
    world.run_until(1_000, |_| false);
    let guest = world.guest.borrow();
    assert!(guest.runs_here() && guest.writes > writes && !guest.released, "{:?}", world.states);
    std::array::from_fn(|end| match world.state(end) {
        Some(State::Failed { reason, .. }) => reason.clone(),
        other => panic!("{other:?} is not a failure: {:?}", world.states),
    })
}

/// Both ends' reasons when the agents are like this.
fn refused(security: [Security; 2]) -> [String; 2] {
    fails(World::secured(Scenario::default(), security))
}

const UNKNOWN: &str = "the other host's agent has a key that is not in this agent's list";
const PLAIN: &str = "the other host's agent does not encrypt ('plain'), and this one does";
const SEALED: &str = "the other host's agent encrypts, and this one does not ('plain')";

#[test]
fn plain_agents_migrate_and_say_that_nothing_was_sealed() {
    let mut world = World::secured(Scenario::default(), [Security::Plain, Security::Plain]);
    world.start();
    assert!(world.run(600_000), "{:?}", world.states);
    world.guest.borrow().check_complete();
    assert_eq!((world.summary(0).sealed, world.summary(1).sealed), (0, 0));
}

/// How many frames of the source hold something that stood in the guest's memory.
fn readable(security: [Security; 2]) -> usize {
    let mut world = World::secured(Scenario { frames: 500, ..Scenario::default() }, security);
    let values: HashSet<u64> =
        world.guest.borrow().truth.iter().flatten().copied().filter(|value| *value != 0).collect();
    assert!(values.len() > 100);
    world.cable.overhear(0);
    world.start();
    assert!(world.run(600_000), "{:?}", world.states);
    let known = |bytes: &[u8]| values.contains(&u64::from_le_bytes(bytes.try_into().expect("8 bytes")));
    let frames = world.cable.overheard(0);
    frames.iter().filter(|frame| frame.windows(8).any(known)).count()
}

#[test]
fn whoever_listens_reads_nothing_of_the_guest() {
    assert!(readable([Security::Plain, Security::Plain]) > 50, "nobody would notice");
    assert_eq!(readable([sealed(0, &[1]), sealed(1, &[0])]), 0);
}

#[test]
fn whoever_listens_cannot_call_for_a_guest() {
    let mut world = World::new(Scenario { working_set: 1500, step_ns: 5_000, ..Scenario::default() });
    (0..2).for_each(|host| world.cable.overhear(host));
    world.start();
    assert!(world.run(600_000), "{:?}", world.states);
    assert!(world.summary(1).rescue_rtt_us > 0, "no datagram was answered");
    let Some(State::Listening { session, .. }) = world.states[0][0].first() else { panic!("{:?}", world.states) };
    let told = |frame: &Vec<u8>| frame.windows(16).any(|bytes| bytes == session.0);
    assert_eq!((0..2).flat_map(|host| world.cable.overheard(host)).filter(told).count(), 0);
}

const CONTESTED: &str = "two hosts' agents have called for this guest, and only one can be meant";

#[test]
fn a_guest_does_not_go_where_another_trusted_agent_calls_for_it_first() {
    let mut world = World::secured(Scenario::default(), [sealed(0, &[1, 2]), sealed(1, &[0])]);
    world.dawdles = true;
    world.start();
    assert!(world.run_until(10_000, |world| world.state(0).is_some()));
    world.intrude(sealed(2, &[0]));
    assert!(world.run(60_000), "{:?}", world.states);
    let failed = State::Failed { cause: FailureCause::Other, reason: CONTESTED.into() };
    assert_eq!(world.state(0), Some(&failed), "{:?}", world.states);
    assert!(world.guest.borrow().runs_here());
}

#[test]
fn a_guest_stays_if_another_trusted_agent_calls_for_it_as_well() {
    let mut world = World::secured(Scenario::default(), [sealed(0, &[1, 2]), sealed(1, &[0])]);
    world.start();
    assert!(world.run_until(10_000, |world| world.state(0) == Some(&State::Copying)));
    world.intrude(sealed(2, &[0]));
    assert!(world.run(60_000), "{:?}", world.states);
    let failed = |reason: String| State::Failed { cause: FailureCause::Other, reason };
    assert_eq!(world.state(0), Some(&failed(CONTESTED.into())), "{:?}", world.states);
    let told = format!("the other host's agent gave up: {CONTESTED}");
    assert_eq!(world.state(1), Some(&failed(told)), "{:?}", world.states);
    assert!(world.guest.borrow().runs_here());
}

#[test]
fn agents_of_which_one_is_plain_refuse_each_other_and_both_say_why() {
    assert_eq!(refused([sealed(0, &[1]), Security::Plain]), [PLAIN, SEALED]);
    assert_eq!(refused([Security::Plain, sealed(1, &[0])]), [SEALED, PLAIN]);
}

#[test]
fn agents_of_different_versions_leave_the_guest_and_both_name_both_versions() {
    for security in [[sealed(0, &[1]), sealed(1, &[0])], [Security::Plain, Security::Plain]] {
        for theirs in [1, 6, 8] {
            let world = World::secured(Scenario::default(), security.clone());
            world.cable.speak(theirs);
            let said =
                format!("the agents share no version of their protocol: the other host's speaks {theirs}, this one 7");
            assert_eq!(fails(world), [said.clone(), said]);
        }
    }
}

#[test]
fn agents_that_do_not_know_each_other_refuse_and_say_so() {
    let [source, target] = refused([sealed(0, &[2]), sealed(1, &[0])]);
    assert_eq!(source, UNKNOWN);
    assert!(target.contains("is this agent's key in its list?"), "{target}");
    assert_eq!(refused([sealed(0, &[1]), sealed(1, &[2])])[1], UNKNOWN);
}

#[test]
fn a_source_s_key_that_dom0_changed_gets_no_guest_and_no_connection() {
    // Another agent's, which the target trusts as well: the source is not that agent.
    let mut world = World::secured(Scenario::default(), [sealed(0, &[1]), sealed(1, &[0, 2])]);
    world.false_key = Some(key(2));
    let [_, target] = fails(world);
    assert!(target.contains("turned this one away"), "{target}");
    let mut world = World::new(Scenario::default());
    world.false_key = Some(key(3));
    assert_eq!(fails(world)[1], UNKNOWN);
}

#[test]
fn a_guest_goes_only_into_the_domain_that_has_its_uuid() {
    let world = World::new(Scenario::default());
    world.guest.borrow_mut().uuid_there[7] ^= 1;
    let [source, target] = fails(world);
    let reason = "the other host's agent sends another guest than the one that is expected here";
    assert_eq!((source, target), (format!("the other host's agent gave up: {reason}"), reason.into()));
}

#[test]
fn a_handshake_that_was_changed_costs_another_call() {
    let mut world = World::new(Scenario::default());
    world.cable.change(1, 100);
    world.start();
    assert!(world.run(600_000), "{:?}", world.states);
    assert!(world.cable.changed(1), "nothing was changed");
    world.guest.borrow().check_complete();
}

#[test]
fn a_packet_changed_before_the_commit_ends_the_migration() {
    let world = World::new(Scenario::default());
    world.cable.change(0, 4000);
    let cable = world.cable.clone();
    let [source, target] = fails(world);
    assert!(cable.changed(0), "nothing was changed");
    assert_eq!(target, "a record from the other host's agent was changed on its way");
    assert_eq!(source, format!("the other host's agent gave up: {target}"));
}

#[test]
fn a_packet_changed_after_the_commit_costs_only_the_connection() {
    for (from, length) in [(0, 4000), (1, 90)] {
        let mut world = World::new(Scenario { working_set: 1500, step_ns: 5_000, ..Scenario::default() });
        world.start();
        assert!(world.run_until(10_000, |world| world.guest.borrow().here == Here::Retained));
        world.cable.change(from, length);
        assert!(world.run(600_000), "{:?}", world.states);
        assert!(world.cable.changed(from), "nothing was changed");
        assert_eq!(world.state(1), Some(&State::Complete), "{:?}", world.states);
        let interrupted = |state: &State| matches!(state, State::Interrupted { .. });
        assert!(world.states[0].iter().flatten().any(interrupted), "{:?}", world.states);
        world.guest.borrow().check_complete();
    }
}

/// However many each way: those that are too many wait.
#[test]
fn a_further_guest_between_the_same_agents_waits_and_arrives() {
    let mut world = World::new(Scenario { frames: 1000, ..Scenario::default() });
    (0..11).for_each(|_| world.add_guest());
    world.start();
    assert!(world.run(600_000), "{:?}", world.states);
    assert!(world.states.iter().flatten().all(|states| states.last() == Some(&State::Complete)), "{:?}", world.states);
    let waits = |state: &State| matches!(state, State::Waiting { .. });
    assert!(world.states.iter().flatten().flatten().any(waits), "{:?}", world.states);
    world.guests.borrow().iter().for_each(|guest| guest.borrow().check_complete());
}
