//! Stage 1: every page once, while the guest runs.
//!
//! The source walks the guest's frames, tells which are RAM, skips holes and sends the rest; zero pages go as a bit. Now and
//! then it peeks at the dirty log and *hints*: pages that are known to be stale. The target arms them at once, so that
//! the switch need not. A page that is already dirty when its turn comes is not sent at all: its bit stays set until
//! the switch, so stage 3 sends it anyway. A pre-copy goes on in rounds over what was dirtied, and defers likewise to
//! the next round. A post-copy takes every page for dirty, so that none is sent here.
//!
//! A page that the guest has just been given is not in the log, whatever is written to it: the hypervisor protects it only
//! when the log is cleaned. So only pages that are protected when they are read count as sent.

use common::control::{Mode, Progress, State};
use common::{BATCH, Gfn, PageSet, Span};

use crate::error::{PeerFault, SessionError};
use crate::ledger::Stage;
use crate::platform::{Source, Target};
use crate::source::{Batch, Departure, Pages};
use crate::target::Arrival;
use crate::wire::{Cause, Kind, Message, Set};

/// A pre-copy stops after this many passes over memory..
const ROUNDS: u64 = 5;
/// ..or when fewer pages than this are dirty.
const FEW: u64 = 50;
/// Frames of a 2 MiB extent, and its order.
const EXTENT: u64 = 512;
const EXTENT_ORDER: u8 = 9;

/// The proof that every page has been sent or is known to be dirty.
pub(crate) struct Copied(());

// The source.

/// Sends every page once; in a pre-copy, dirty pages again.
pub(crate) async fn send<S: Source>(departure: &mut Departure<S>) -> Result<Copied, SessionError> {
    departure.ledger.begin(Stage::FullCopy, departure.connections.bytes());
    departure.toolstack.state(State::Copying);
    departure.source.log_on()?;
    let mut next = Gfn(0);
    while let Some(chunk) = departure.pages.next_chunk(&mut next) {
        if departure.pages.find_ram(&mut departure.source, chunk)? {
            announce(departure, chunk).await?;
            if departure.mode == Mode::Postcopy {
                // What is dirty is told and armed, but not sent.
                departure.pages.defer_all(chunk);
            }
            copy(departure, Pages::ram, chunk).await?;
        }
        departure.timer.yield_now().await;
    }
    departure.ledger.summary.rounds = 1;
    if departure.mode == Mode::Precopy {
        iterate(departure).await?;
    }
    Ok(Copied(()))
}

/// Tells the target which frames of a chunk are RAM.
pub(crate) async fn announce<S: Source>(departure: &mut Departure<S>, chunk: Span) -> Result<(), SessionError> {
    departure.connections.bulk.send_set(Kind::Ram, departure.pages.ram(), chunk).await
}

/// A pre-copy's later rounds.
async fn iterate<S: Source>(departure: &mut Departure<S>) -> Result<(), SessionError> {
    while departure.ledger.summary.rounds < ROUNDS {
        departure.take_log(S::clean)?;
        if !departure.pages.begin_round(FEW) {
            break;
        }
        departure.ledger.summary.rounds += 1;
        copy(departure, Pages::left, departure.pages.left().bound()).await?;
    }
    Ok(())
}

/// Sends those pages of a set within `rest` that are not known to be dirty.
async fn copy<S: Source>(
    departure: &mut Departure<S>,
    set: fn(&Pages) -> &PageSet,
    mut rest: Span,
) -> Result<(), SessionError> {
    loop {
        peek(departure).await?;
        let Some::<Batch>(batch) = set(&departure.pages).next_batch(&mut rest) else { return Ok(()) };
        let asking = &mut departure.ledger.steps.ask;
        let protected = departure.timer.spend(asking, || departure.source.protected(&batch))?;
        let (mut clean, mut dirty) = (Batch::new(), Batch::new());
        for (index, gfn) in batch.into_iter().enumerate() {
            let is_clean = protected.contains(index) && !departure.pages.is_dirty(gfn);
            let _ = if is_clean { &mut clean } else { &mut dirty }.push(gfn);
        }
        departure.pages.defer(&dirty);
        departure.ledger.summary.deferred += dirty.len() as u64;
        departure.look_at(&mut dirty)?;
        // What cannot be read has probably just stopped being RAM; the switch will know.
        let unreadable = departure.send(Cause::Copy, &mut clean).await?;
        departure.pages.defer(&unreadable);
        report(departure);
        departure.timer.yield_now().await;
    }
}

fn report<S: Source>(departure: &Departure<S>) {
    let summary = &departure.ledger.summary;
    let looked_at = summary.stage1_pages + summary.deferred;
    departure.toolstack.progress(Progress {
        stage: 1,
        round: (departure.mode == Mode::Precopy).then_some(summary.rounds as u32),
        done: looked_at.min(summary.pages),
        total: summary.pages,
        bytes: departure.ledger.stage_bytes(departure.connections.bytes()),
        ..Progress::default()
    });
}

/// Looks how stage 1 gets on and at the dirty log, if it was not looked a moment ago, and tells the target what is stale.
pub(crate) async fn peek<S: Source>(departure: &mut Departure<S>) -> Result<(), SessionError> {
    let begun = departure.timer.now();
    if !departure.peeks.are_due(begun) {
        return Ok(());
    }
    departure.check_running()?;
    if !departure.peeks.log_is_due(begun) {
        make_room(departure);
        return Ok(());
    }
    departure.take_log(S::peek)?;
    make_room(departure);
    let hints = departure.mode != Mode::Precopy;
    let fresh = hints.then(|| departure.pages.find_fresh());
    departure.peeks.looked(begun, departure.timer.now());
    let Some(fresh) = fresh else { return Ok(()) };
    departure.ledger.summary.hints += fresh.count();
    departure.connections.bulk.send_whole_set(Kind::Hints, fresh).await
}

/// Lets no more be on its way than arrives soon.
fn make_room<S: Source>(departure: &mut Departure<S>) {
    let bulk = departure.connections.bulk.connection();
    bulk.set_in_flight(departure.peeks.room(departure.timer.now(), bulk.delivered()));
}

// The target.

/// Takes a message of stage 1; whether it was one.
pub(crate) fn take<T: Target>(arrival: &Arrival<T>, message: &Message<'_>) -> Result<bool, SessionError> {
    match message {
        Message::Ram(set) => populate(arrival, set)?,
        Message::Hints(set) => arm_early(arrival, set)?,
        Message::Pages(pages) if pages.cause() == Cause::Copy => arrival.place(pages)?,
        _ => return Ok(false),
    }
    arrival.report(1);
    Ok(true)
}

/// Allocates the frames that are RAM, in extents of 2 MiB wherever all 512 frames of one are.
fn populate<T: Target>(arrival: &Arrival<T>, announced: &Set<'_>) -> Result<(), SessionError> {
    arrival.reach(announced.first().0 + announced.count())?;
    let sets = &mut *arrival.sets.borrow_mut();
    let target = &mut *arrival.target.borrow_mut();
    let begun = arrival.timer.now();
    let base = announced.first().0;
    let mut fresh = PageSet::new(announced.count());
    fresh.extend(announced.gfns().filter(|gfn| sets.announce(*gfn)).map(|gfn| Gfn(gfn.0 - base)));
    for run in fresh.runs(fresh.bound()) {
        let (mut next, end) = (base + run.first.0, base + run.end().0);
        while next < end {
            let whole = next.is_multiple_of(EXTENT) && next + EXTENT <= end;
            if whole && target.populate(Gfn(next), EXTENT_ORDER).is_ok() {
                next += EXTENT;
                continue;
            }
            let singles = if whole { EXTENT } else { 1 };
            (next..next + singles).try_for_each(|gfn| target.populate(Gfn(gfn), 0))?;
            next += singles;
        }
    }
    arrival.ledger.borrow_mut().steps.populate += arrival.timer.now() - begun;
    Ok(())
}

/// Arms pages that are stale while the guest still runs at the source.
fn arm_early<T: Target>(arrival: &Arrival<T>, stale: &Set<'_>) -> Result<(), SessionError> {
    if !arrival.can_page {
        return Ok(());
    }
    let armed = arm(arrival, stale)?;
    arrival.ledger.borrow_mut().summary.armed_early += armed;
    Ok(())
}

/// Arms those pages of `set` that are not armed yet and can be; how many.
pub(crate) fn arm<T: Target>(arrival: &Arrival<T>, set: &Set<'_>) -> Result<u64, SessionError> {
    let mut armed = 0;
    let sets = &mut *arrival.sets.borrow_mut();
    let target = &mut *arrival.target.borrow_mut();
    let mut gfns = set.gfns();
    loop {
        let mut batch = Batch::new();
        while batch.len() < BATCH
            && let Some(gfn) = gfns.next()
        {
            if !sets.is_ram(gfn) {
                return Err(SessionError::Peer(PeerFault::NoSuchPage));
            }
            if !sets.is_armed(gfn) {
                let _ = batch.push(gfn);
            }
        }
        if batch.is_empty() {
            return Ok(armed);
        }
        let arming = &mut arrival.ledger.borrow_mut().steps.arm;
        let mask = arrival.timer.spend(arming, || target.arm(&batch))?;
        sets.arm(mask.pick(batch));
        armed += mask.count() as u64;
    }
}
