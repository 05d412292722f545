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
use common::{Gfn, PageSet, Span};

use crate::error::SessionError;
use crate::ledger::Stage;
use crate::platform::{DirtyLog, Pager, SourceMemory, TargetMemory};
use crate::source::{Batch, Departure, Pages};
use crate::target::Arrival;
use crate::wire::{Cause, Message, Set};

/// A pre-copy stops after this many passes over memory..
const ROUNDS: u64 = 5;
/// ..or when fewer pages than this are dirty, or than can be sent in the downtime that is allowed.
const FEW: u64 = 50;

/// The proof that every page has been sent or is known to be dirty.
pub(crate) struct Copied(());

// The source.

/// Sends every page once; in a pre-copy, dirty pages again.
pub(crate) async fn send<S: SourceMemory + DirtyLog>(departure: &mut Departure<S>) -> Result<Copied, SessionError> {
    departure.begin(Stage::FullCopy);
    departure.toolstack().state(State::Copying);
    departure.source().log_on()?;
    let mut next = Gfn(0);
    while let Some(chunk) = departure.pages().next_chunk(&mut next) {
        if departure.find_ram(chunk)? {
            departure.tell_ram(chunk).await?;
            if departure.mode() == Mode::Postcopy {
                // What is dirty is told and armed, but not sent.
                departure.pages_mut().defer_all(chunk);
            }
            copy(departure, Pages::ram, chunk).await?;
        }
        departure.timer().yield_now().await;
    }
    departure.summary_mut().rounds = 1;
    if departure.mode() == Mode::Precopy {
        iterate(departure).await?;
    }
    Ok(Copied(()))
}

/// A pre-copy's later rounds.
async fn iterate<S: SourceMemory + DirtyLog>(departure: &mut Departure<S>) -> Result<(), SessionError> {
    while departure.summary().rounds < ROUNDS {
        departure.take_log(S::clean)?;
        let few = departure.most_at_switch(departure.rate()).map_or(FEW, |most| most.max(FEW));
        if !departure.pages_mut().begin_round(few) {
            break;
        }
        departure.summary_mut().rounds += 1;
        copy(departure, Pages::left, departure.pages().left().bound()).await?;
    }
    Ok(())
}

/// Sends those pages of a set within `rest` that are not known to be dirty.
async fn copy<S: SourceMemory + DirtyLog>(
    departure: &mut Departure<S>,
    set: fn(&Pages) -> &PageSet,
    mut rest: Span,
) -> Result<(), SessionError> {
    loop {
        departure.peek().await?;
        let Some::<Batch>(batch) = set(departure.pages()).next_batch(&mut rest) else { return Ok(()) };
        let protected = departure.protected(&batch)?;
        let (mut clean, mut dirty) = (Batch::new(), Batch::new());
        for (index, gfn) in batch.into_iter().enumerate() {
            let is_clean = protected.contains(index) && !departure.pages().is_dirty(gfn);
            let _ = if is_clean { &mut clean } else { &mut dirty }.push(gfn);
        }
        departure.pages_mut().defer(&dirty);
        departure.summary_mut().deferred += dirty.len() as u64;
        departure.find_pinned(&mut dirty)?;
        // What cannot be read has probably just stopped being RAM; the switch will know.
        let unreadable = departure.send(Cause::Copy, &mut clean).await?;
        departure.pages_mut().defer(&unreadable);
        report(departure);
        departure.timer().yield_now().await;
    }
}

fn report<S>(departure: &Departure<S>) {
    let summary = departure.summary();
    let looked_at = summary.stage1_pages + summary.deferred;
    departure.report(Progress {
        stage: 1,
        round: (departure.mode() == Mode::Precopy).then_some(summary.rounds as u32),
        done: looked_at.min(summary.pages),
        total: summary.pages,
        ..Progress::default()
    });
}

// The target.

/// Takes a message of stage 1; whether it was one.
pub(crate) fn take<T: TargetMemory + Pager>(arrival: &Arrival<T>, message: &Message<'_>) -> Result<bool, SessionError> {
    match message {
        Message::Ram(set) => arrival.populate(set)?,
        Message::Hints(set) => arm_early(arrival, set)?,
        Message::Pages(pages) if pages.cause() == Cause::Copy => arrival.place(pages)?,
        _ => return Ok(false),
    }
    arrival.report(1);
    Ok(true)
}

/// Arms pages that are stale while the guest still runs at the source.
fn arm_early<T: TargetMemory + Pager>(arrival: &Arrival<T>, stale: &Set<'_>) -> Result<(), SessionError> {
    if arrival.can_page() {
        let armed = arrival.arm(stale)?;
        arrival.summary_mut().armed_early += armed;
    }
    Ok(())
}
