use common::PageSet;

use super::*;
use crate::tasks::Instant;

const SMALL: Size = Size { frames: 1 << 20, digests: 0 };
const LARGE: Size = Size { frames: 8 << 20, digests: 0 };

fn budget(bytes: usize) -> Budget {
    Budget::new(bytes, 0, Timer::new(Instant::default))
}

/// What a guest takes at the source, and at the target.
fn ends(size: Size) -> [usize; 2] {
    [cost::departure(&size), cost::arrival(&size)]
}

#[test]
fn what_was_promised_is_refused_to_others_until_it_is_dropped() {
    let budget = budget(1000);
    let mut first = budget.reserve(600).unwrap();
    assert!(budget.reserve(500).is_err());
    assert!(first.add_sets(8000, 1).is_err());
    first.add_sets(800, 2).unwrap();
    drop(first);
    assert!(budget.reserve(1000).is_ok());
    assert!(budget.reserve(0).unwrap().add_sets(u64::MAX, 3).is_err());
}

#[test]
fn what_grows_needs_room_to_move() {
    let one = PageSet::bytes(64_000);
    let mut memory = budget(7 * one).reserve(0).unwrap();
    memory.add_sets(64_000, 5).unwrap();
    assert!(memory.grow_sets(64_000, 64_064, 5).is_err());
    let mut memory = budget(8 * one).reserve(0).unwrap();
    memory.add_sets(64_000, 5).unwrap();
    drop(memory.grow_sets(64_000, 64_064, 5).unwrap());
    assert_eq!(memory.bytes, cost::sets(64_064, 5));
}

#[test]
fn a_guest_that_outgrows_what_was_said_of_it_takes_no_memory_from_others() {
    let [_, into] = ends(SMALL);
    let budget = budget(100 * into);
    let mut session = budget.queue(Want::to_arrive(SMALL, None)).unwrap().take().unwrap();
    assert_eq!(session.add(2 * into), Ok(()));
    assert_eq!(session.add(1), Err(SessionError::Refused(Refusal::Outgrown)));
    assert!(budget.reserve(98 * into).is_ok());
}

#[test]
fn what_grows_at_the_source_leaves_what_is_kept_for_an_arrival() {
    let [out, into] = ends(SMALL);
    let grown = SMALL.frames + 64;
    let more = cost::sets(grown, 2) + cost::sets(grown, 1) - cost::sets(SMALL.frames, 1);
    let grow = |spare| {
        let turn = budget(out + into + spare).queue(Want::to_leave(SMALL)).unwrap();
        let mut session = turn.take().unwrap();
        session.add(out).unwrap();
        session.grow_sets(SMALL.frames, grown, 1).map(drop)
    };
    assert_eq!(grow(more), Ok(()));
    assert_eq!(grow(more - 1), Err(SessionError::Refused(Refusal::NoMemory)));
}

#[test]
fn a_session_uses_what_it_was_promised_before_it_takes_more() {
    let [out, into] = ends(SMALL);
    let budget = budget(out + into + 100);
    let mut session = budget.queue(Want::to_leave(SMALL)).unwrap().take().unwrap();
    session.add(out).unwrap();
    session.add(100).unwrap();
    assert!(session.add(1).is_err(), "what is kept for an arrival is not for departures");
    assert!(budget.queue(Want::to_arrive(SMALL, None)).unwrap().take().is_some());
}

#[test]
fn what_does_not_fit_yet_waits_and_what_never_fits_is_refused() {
    let [out, into] = ends(LARGE);
    let budget = budget(out + into);
    let first = budget.queue(Want::to_leave(LARGE)).unwrap().take().unwrap();
    let second = budget.queue(Want::to_leave(LARGE)).unwrap();
    let third = budget.queue(Want::to_leave(SMALL)).unwrap();
    assert!(second.take().is_none() && second.lacks() == Some(Lack::Memory));
    drop(first);
    assert!(third.take().is_none(), "a small one passes a large one that waits");
    let _second = second.take().unwrap();
    drop(third);
    let more = Size { frames: LARGE.frames + (8 << 12), ..LARGE };
    let Err(SessionError::Refused(Refusal::NeverFits { memory_mib })) = budget.queue(Want::to_leave(more)).map(drop)
    else {
        panic!("it is queued")
    };
    assert_eq!(memory_mib, ends(more).iter().sum::<usize>().div_ceil(1 << 20) as u64);
    assert!((LARGE.frames..more.frames).contains(&budget.largest()));
}

/// Both hosts are full of guests that leave, each of which waits for the other host.
#[test]
fn departures_leave_room_for_an_arrival_of_their_size() {
    let [out, into] = ends(LARGE);
    let budget = budget(2 * out + into);
    let _leaving = [0, 1].map(|_| budget.queue(Want::to_leave(LARGE)).unwrap().take().unwrap());
    let waiting = budget.queue(Want::to_leave(SMALL)).unwrap();
    assert!(waiting.take().is_none());
    // Not even one that will not fit before they have gone is in the way.
    let huge = budget.queue(Want::to_arrive(Size { frames: 16 << 20, digests: 0 }, None)).unwrap();
    assert!(huge.take().is_none());
    let arriving = budget.queue(Want::to_arrive(LARGE, None)).unwrap().take();
    assert!(arriving.is_some() && budget.queue(Want::to_arrive(SMALL, None)).unwrap().take().is_none());
}

#[test]
fn arrivals_that_go_on_for_ever_do_not_keep_a_departure_waiting_for_ever() {
    let ([out, into], [_, small]) = (ends(LARGE), ends(SMALL));
    let budget = budget(out + into);
    let arriving = budget.queue(Want::to_arrive(SMALL, None)).unwrap().take().unwrap();
    let _more = [0, 1].map(|_| budget.queue(Want::to_arrive(SMALL, None)).unwrap().take().unwrap());
    assert!(3 * small > into, "they take more than is kept for arrivals");
    let departure = budget.queue(Want::to_leave(LARGE)).unwrap();
    assert!(departure.take().is_none());
    let next = budget.queue(Want::to_arrive(SMALL, None)).unwrap();
    assert!(next.take().is_none(), "an arrival passes a departure that waits");
    drop(arriving);
    assert!(departure.take().is_some());
}

#[test]
fn a_host_that_has_all_that_one_may_have_is_passed() {
    let budget = budget(usize::MAX / 2);
    let (one, other) = (Some(PublicKey([1; 32])), Some(PublicKey([2; 32])));
    let mut arriving = Vec::new();
    let lack = loop {
        let turn = budget.queue(Want::to_arrive(SMALL, one)).unwrap();
        match turn.lacks() {
            None => arriving.push(turn.take().unwrap()),
            Some(lack) => break (lack, turn),
        }
    };
    assert_eq!(lack.0, Lack::Peer);
    assert!(budget.queue(Want::to_arrive(SMALL, other)).unwrap().take().is_some());
    arriving.pop();
    assert!(lack.1.take().is_some());
    let again = Want::to_arrive(SMALL, one).again();
    assert!(budget.queue(again).unwrap().take().is_some(), "what was begun is never refused for that");
}

#[test]
fn so_many_run_at_once_each_way() {
    let budget = budget(usize::MAX / 2);
    let leaving: Vec<_> = (0..AT_ONCE).map(|_| budget.queue(Want::to_leave(SMALL)).unwrap().take().unwrap()).collect();
    let more = budget.queue(Want::to_leave(SMALL)).unwrap();
    assert_eq!(more.lacks(), Some(Lack::Place));
    assert!(budget.queue(Want::to_arrive(SMALL, None)).unwrap().take().is_some());
    drop(leaving);
    assert!(more.take().is_some());
}
