//! A guest that migrates to the host that it is on: one agent is both ends.

use common::control::{Mode, State};

use crate::sim::guest::Here;
use crate::sim::{Scenario, World};
use crate::{completes, stays};

fn home() -> Scenario {
    Scenario { to_itself: true, ..Scenario::default() }
}

/// Its agent is not in its own list of peers, and nothing leaves it but the announcements of its address.
#[test]
fn a_guest_crosses_to_its_own_host() {
    for mode in [Mode::Tsmc, Mode::Precopy, Mode::Postcopy] {
        for can_page in [true, false] {
            let busy = Scenario { mode, can_page, working_set: 1500, step_ns: 5_000, ..home() };
            let (world, source, target) = completes(busy);
            assert_eq!((source.sealed, target.sealed), (1, 1));
            for host in [0, 1] {
                // No IP packet is as short as ARP's.
                let (frames, longest) = (world.cable.sent(host), world.cable.longest(host));
                assert!(frames <= 2 && longest == 28, "{mode} {can_page}: {frames} frames of up to {longest} bytes");
            }
        }
    }
}

/// The way back carries datagrams as well, to the end that each is for.
#[test]
fn both_ends_in_one_agent_measure_their_way() {
    let (_, source, target) = completes(Scenario { mode: Mode::Postcopy, ..home() });
    assert!(target.rescue_rtt_us > 0, "{target}");
    assert_eq!((source.rescue_refused, target.rescue_refused), (0, 0));
}

#[test]
fn guests_cross_to_their_own_host_at_the_same_time() {
    let mut world = World::new(home());
    world.add_guest();
    world.start();
    assert!(world.run(600_000), "{:?}", world.states);
    world.guests.borrow().iter().for_each(|guest| guest.borrow().check_complete());
}

#[test]
fn a_guest_that_is_refused_by_its_own_host_stays_there() {
    for end in [0, 1] {
        for ms in [1, 20, 40] {
            let mut world = World::new(Scenario { step_ns: 100_000, ..home() });
            world.start();
            world.run_until(ms, |_| false);
            if world.guest.borrow().here != Here::Running {
                break;
            }
            world.cancel(end);
            assert!(world.run(300_000), "{:?}", world.states);
            assert!(matches!(world.state(0), Some(State::Failed { .. })), "{:?}", world.states);
            stays(&mut world);
        }
    }
}
