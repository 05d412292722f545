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
use common::{BATCH, Gfn, PageSet};

use crate::error::{PeerFault, SessionError};
use crate::ledger::Stage;
use crate::net::IN_FLIGHT_BULK;
use crate::platform::{Source, Target};
use crate::source::Batch;
use crate::source::Departure;
use crate::target::Arrival;
use crate::tasks::MS;
use crate::wire::{CHUNK, Cause, Kind, Message, Set};

/// How often the dirty log is looked at, at the most..
const PEEK_EVERY: u64 = 50 * MS;
/// ..and so many times as long as a look takes: it grows with the guest, which stands still for some of it.
const PEEK_SHARE: u64 = 20;
/// How much of stage 1 may be on its way: what the link takes in this time, so that the guest's own traffic finds its place
/// between; and at least so many bytes.
const ON_ITS_WAY: (u64, u64) = (50 * MS, 192 << 10);
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
    departure.ledger.begin(Stage::FullCopy, departure.bytes());
    // From here on a dead agent leaves the guest other than it was.
    departure.toolstack.note(&departure.note);
    departure.toolstack.state(State::Copying);
    departure.source.log_on()?;
    let mut first = 0;
    while first < departure.frames {
        let count = CHUNK.min(departure.frames - first);
        let ram = &mut departure.ram;
        ram.update_part(Gfn(first), count, |words| departure.source.find_ram(Gfn(first), count, words))?;
        if ram.range(Gfn(first), count).next().is_some() {
            announce(departure, Gfn(first), count).await?;
            if departure.policy == Mode::Postcopy {
                // What is dirty is told and armed, but not sent.
                departure.log.extend(departure.ram.range(Gfn(first), count));
            }
            copy(departure, |departure| &departure.ram, Gfn(first), count).await?;
        }
        departure.timer.yield_now().await;
        first += count;
    }
    departure.ledger.summary.rounds = 1;
    if departure.policy == Mode::Precopy {
        iterate(departure).await?;
    }
    Ok(Copied(()))
}

/// Tells the target which frames of a chunk are RAM.
pub(crate) async fn announce<S: Source>(
    departure: &mut Departure<S>,
    first: Gfn,
    count: u64,
) -> Result<(), SessionError> {
    departure.bulk.send_set(Kind::Ram, &departure.ram, first, count).await
}

/// A pre-copy's later rounds.
async fn iterate<S: Source>(departure: &mut Departure<S>) -> Result<(), SessionError> {
    while departure.ledger.summary.rounds < ROUNDS {
        departure.take_log(S::clean)?;
        departure.log.intersect_with(&departure.ram);
        if departure.log.count() < FEW {
            break;
        }
        departure.left.copy_from(&departure.log);
        departure.log.clear();
        departure.ledger.summary.rounds += 1;
        copy(departure, |departure| &departure.left, Gfn(0), departure.frames).await?;
    }
    departure.left.clear();
    Ok(())
}

/// Sends those pages of a set in `first .. first + count` that are not known to be dirty.
async fn copy<S: Source>(
    departure: &mut Departure<S>,
    of: fn(&Departure<S>) -> &PageSet,
    first: Gfn,
    count: u64,
) -> Result<(), SessionError> {
    let end = first.0 + count;
    let mut next = first;
    loop {
        peek(departure).await?;
        let batch: Batch = of(departure).range(next, end - next.0).take(BATCH).collect();
        let Some(last) = batch.last() else { return Ok(()) };
        next = Gfn(last.0 + 1);
        let asking = &mut departure.ledger.steps.ask;
        let protected = departure.timer.spend(asking, || departure.source.protected(&batch))?;
        let (mut clean, mut dirty) = (Batch::new(), Batch::new());
        for (index, gfn) in batch.into_iter().enumerate() {
            let is_clean = protected >> index & 1 == 1 && !departure.log.contains(gfn);
            let _ = if is_clean { &mut clean } else { &mut dirty }.push(gfn);
        }
        departure.log.extend(dirty.iter().copied());
        departure.ledger.summary.deferred += dirty.len() as u64;
        departure.look_at(&mut dirty)?;
        // What cannot be read has probably just stopped being RAM; the switch will know.
        let unreadable = departure.send(Cause::Copy, &mut clean).await?;
        departure.log.extend(unreadable);
        report(departure);
        departure.timer.yield_now().await;
    }
}

fn report<S: Source>(departure: &Departure<S>) {
    let summary = &departure.ledger.summary;
    let looked_at = summary.stage1_pages + summary.deferred;
    departure.toolstack.progress(Progress {
        stage: 1,
        round: (departure.policy == Mode::Precopy).then_some(summary.rounds as u32),
        done: looked_at.min(summary.pages),
        total: summary.pages,
        bytes: departure.ledger.stage_bytes(departure.bytes()),
        ..Progress::default()
    });
}

/// Looks at the dirty log, if it was not looked at a moment ago, and tells the target what is stale.
pub(crate) async fn peek<S: Source>(departure: &mut Departure<S>) -> Result<(), SessionError> {
    let due = departure.looked.map_or(0, |(then, _)| then + PEEK_EVERY);
    let begun = departure.timer.now();
    if begun < due {
        return Ok(());
    }
    departure.check_running()?;
    if begun < departure.next_look {
        make_room(departure);
        return Ok(());
    }
    departure.take_log(S::peek)?;
    make_room(departure);
    let hints = departure.policy != Mode::Precopy;
    if hints {
        find_fresh(departure);
    }
    let now = departure.timer.now();
    departure.next_look = now + (now - begun) * (PEEK_SHARE - 1);
    if hints { hint(departure).await } else { Ok(()) }
}

/// Of what is known to be dirty, what the target does not know.
fn find_fresh<S: Source>(departure: &mut Departure<S>) {
    let (hinted, fresh) = (&mut departure.left, &mut departure.scratch);
    fresh.copy_from(&departure.log);
    fresh.intersect_with(&departure.ram);
    fresh.subtract(hinted);
    fresh.subtract(&departure.pinned);
    hinted.union_with(fresh);
}

/// Tells the target what it does not know.
async fn hint<S: Source>(departure: &mut Departure<S>) -> Result<(), SessionError> {
    let mut hints = 0;
    let mut next = Gfn(0);
    while let Some(gfn) = departure.scratch.next_from(next) {
        let first = Gfn(gfn.0 / CHUNK * CHUNK);
        let count = CHUNK.min(departure.frames - first.0);
        hints += departure.scratch.range(first, count).count() as u64;
        departure.bulk.send_set(Kind::Hints, &departure.scratch, first, count).await?;
        next = Gfn(first.0 + count);
    }
    departure.ledger.summary.hints += hints;
    Ok(())
}

/// Lets as much be on its way as arrived since the last look in the time that is allowed for it.
fn make_room<S: Source>(departure: &mut Departure<S>) {
    let bulk = departure.bulk.connection();
    let (now, delivered) = (departure.timer.now(), bulk.delivered());
    let (then, before) = departure.looked.replace((now, delivered)).unwrap_or_default();
    let arrived = delivered.saturating_sub(before) * ON_ITS_WAY.0 / (now - then).max(1);
    bulk.set_in_flight(arrived.clamp(ON_ITS_WAY.1, IN_FLIGHT_BULK as u64) as usize);
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
    let (base, count) = (announced.first().0, announced.count());
    let mut fresh = PageSet::new(count);
    fresh.extend(announced.gfns().filter(|gfn| sets.ram.insert(*gfn)).map(|gfn| Gfn(gfn.0 - base)));
    for (first, length) in fresh.runs(Gfn(0), count) {
        let mut next = base + first.0;
        let end = next + length;
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
            if !sets.ram.contains(gfn) {
                return Err(SessionError::Peer(PeerFault::NoSuchPage));
            }
            if !sets.armed.contains(gfn) {
                let _ = batch.push(gfn);
            }
        }
        if batch.is_empty() {
            return Ok(armed);
        }
        let arming = &mut arrival.ledger.borrow_mut().steps.arm;
        let mask = arrival.timer.spend(arming, || target.arm(&batch))?;
        sets.armed.extend(batch.iter().enumerate().filter(|(index, _)| mask >> index & 1 == 1).map(|(_, gfn)| *gfn));
        armed += u64::from(mask.count_ones());
    }
}
