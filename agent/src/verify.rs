//! Verifying: both ends compare what every page holds at the switch, if the toolstack asks for it.
//!
//! While the guest stands still the source reads all of its memory once more and tells the digests. The target compares
//! what is there already with what it reads back: a difference means that the guest stays where it is. Of pages that
//! follow in stage 3 it keeps the digests, and compares what it fills in; a difference then is counted and named.
//!
//! Backends do not stand still. What they write to a guest that has stopped is lost in any migration, and the guest's
//! drivers know: they begin anew. Pages to which that happens are *spared*: they are not compared.

use common::{BATCH, Content, Gfn, Page, PageSet};

use crate::digest::{self, Digest, Kept};
use crate::error::{PeerFault, Refusal, SessionError};
use crate::messages::Outlet;
use crate::platform::{Source, Target};
use crate::source::{Batch, Departure, Verify};
use crate::target::Arrival;
use crate::target::verifier::Verifier;
use crate::tasks::ms;
use crate::wire::{Cause, Digests};

/// Differing pages of one migration that are named in the log.
const NAMED: u64 = 16;

type Told = heapless::Vec<(Gfn, Option<Digest>), BATCH>;

// The source.

/// Makes room for the digests of what follows in stage 3.
pub(crate) fn begin<S: Source>(departure: &mut Departure<S>) -> Result<(), SessionError> {
    if let Verify::Yes = departure.verify {
        departure.verify = Verify::Told(Kept::new(departure.pages.left(), &mut departure.memory)?);
    }
    Ok(())
}

/// Tells what pages hold that were just sent and are still in the batch.
pub(crate) async fn tell_sent<S: Source>(departure: &mut Departure<S>, gfns: &Batch) -> Result<(), SessionError> {
    let Verify::Told(_) = departure.verify else { return Ok(()) };
    let told = digests(gfns, &departure.batch);
    departure.ledger.summary.verified += told.len() as u64;
    tell(&mut departure.connections.bulk, &told).await
}

/// Tells what all other pages hold: clean ones, and those that follow in stage 3.
pub(crate) async fn tell_rest<S: Source>(departure: &mut Departure<S>, urgent: &PageSet) -> Result<(), SessionError> {
    let Verify::Told(_) = departure.verify else { return Ok(()) };
    let began = departure.timer.now();
    departure.pages.find_others(urgent);
    let mut rest = departure.pages.ram().bound();
    while let Some(mut batch) = departure.pages.next_found(&mut rest) {
        let (_, unreadable) = departure.read(&mut batch)?;
        let told = digests(&batch, &departure.batch);
        if let Verify::Told(kept) = &mut departure.verify {
            told.iter().for_each(|(gfn, digest)| _ = kept.set(*gfn, *digest));
        }
        departure.ledger.summary.verified += told.len() as u64;
        tell(&mut departure.connections.bulk, &told).await?;
        // The guest gave them back in its last moment.
        spare(departure, &unreadable).await?;
        departure.timer.yield_now().await;
    }
    // Only backends can have written since the dirty log was taken.
    departure.pages.find_written(&mut departure.source, urgent)?;
    let mut rest = departure.pages.ram().bound();
    while let Some(batch) = departure.pages.next_found(&mut rest) {
        spare(departure, &batch).await?;
    }
    departure.ledger.summary.verify_ms = departure.ledger.ms_since(began);
    Ok(())
}

async fn spare<S: Source>(departure: &mut Departure<S>, gfns: &Batch) -> Result<(), SessionError> {
    departure.ledger.summary.spared += gfns.len() as u64;
    let told: Told = gfns.iter().map(|gfn| (*gfn, None)).collect();
    tell(&mut departure.connections.bulk, &told).await
}

/// Says which of the pages that are about to be sent, and are in the batch, are not what they were at the switch.
pub(crate) async fn tell_changed<S: Source>(
    departure: &mut Departure<S>,
    cause: Cause,
    gfns: &Batch,
) -> Result<(), SessionError> {
    let Verify::Told(kept) = &mut departure.verify else { return Ok(()) };
    let mut changed = digests(gfns, &departure.batch);
    changed.retain(|(gfn, digest)| kept.of(*gfn).is_some_and(|then| Some(then) != *digest));
    for (gfn, digest) in &mut changed {
        log::warn!("{}: guest frame {:#x} was written to after the guest had stopped", departure.toolstack.id, gfn.0);
        *digest = None;
        kept.set(*gfn, None);
    }
    departure.ledger.summary.spared += changed.len() as u64;
    tell(departure.connections.of(cause), &changed).await
}

fn digests(gfns: &Batch, pages: &[Page]) -> Told {
    gfns.iter().zip(pages).map(|(gfn, page)| (*gfn, Some(digest::of(page)))).collect()
}

async fn tell(outlet: &mut Outlet, told: &Told) -> Result<(), SessionError> {
    for block in told.chunk_by(|one, next| one.0.0 / 64 == next.0.0 / 64) {
        outlet.send_digests(block).await?;
    }
    Ok(())
}

// The target.

/// Takes digests: compares what is here, keeps those of what is not.
pub(crate) fn take<T: Target>(arrival: &Arrival<T>, digests: &Digests<'_>) -> Result<(), SessionError> {
    let verifier = &mut *arrival.verifier.borrow_mut();
    let Some(verifier) = verifier else {
        // An agent that was started anew knows no digests; the source may not know of that.
        return if arrival.is_running() { Ok(()) } else { Err(SessionError::Peer(PeerFault::OutOfTurn)) };
    };
    let (began, mut spared) = (arrival.timer.now(), 0);
    let sets = &*arrival.sets.borrow();
    let mut here: heapless::Vec<(Gfn, Digest), BATCH> = heapless::Vec::new();
    for (gfn, digest) in digests.each() {
        if !sets.ram.contains(gfn) {
            return Err(SessionError::Peer(PeerFault::NoSuchPage));
        }
        let Some(digest) = digest else {
            spared += u64::from(verifier.spare(gfn));
            continue;
        };
        verifier.told.insert(gfn);
        if sets.present.contains(gfn) && !sets.armed.contains(gfn) && !arrival.is_running() {
            let _ = here.push((gfn, digest));
            continue;
        }
        let kept = match &mut verifier.kept {
            Some(kept) => kept,
            none => none.insert(Kept::new(&sets.absent, &mut arrival.memory.borrow_mut())?),
        };
        if !kept.set(gfn, Some(digest)) {
            return Err(SessionError::Peer(PeerFault::MissingPages));
        }
    }
    let equal = compare(arrival, verifier, &here)?;
    verifier.took += arrival.timer.now() - began;
    let summary = &mut arrival.ledger.borrow_mut().summary;
    summary.verified += equal;
    summary.spared += spared;
    summary.verify_ms = ms(verifier.took);
    if arrival.is_running() {
        summary.differing = verifier.differing.count();
    }
    Ok(())
}

/// Compares pages that are here with their digests; how many are equal.
fn compare<T: Target>(
    arrival: &Arrival<T>,
    verifier: &mut Verifier,
    here: &[(Gfn, Digest)],
) -> Result<u64, SessionError> {
    let gfns: Batch = here.iter().map(|(gfn, _)| *gfn).collect();
    if gfns.is_empty() {
        return Ok(0);
    }
    let read = arrival.target.borrow_mut().read(&gfns, &mut verifier.pages[..gfns.len()])?;
    if (read.count_ones() as usize) < gfns.len() {
        return Err(SessionError::Refused(Refusal::Unreadable));
    }
    let mut equal = 0;
    for ((gfn, digest), page) in here.iter().zip(&verifier.pages) {
        if digest::of(page) == *digest {
            verifier.differing.remove(*gfn);
            equal += 1;
        } else if verifier.differing.insert(*gfn) {
            name(arrival, &mut verifier.named, *gfn);
        }
    }
    Ok(equal)
}

/// At the switch: every page must have been told about, and what is here must be the same.
pub(crate) fn settle<T: Target>(arrival: &Arrival<T>) -> Result<(), SessionError> {
    let verifier = &*arrival.verifier.borrow();
    let Some(verifier) = verifier else { return Ok(()) };
    if verifier.told != arrival.sets.borrow().ram {
        return Err(SessionError::Peer(PeerFault::MissingPages));
    }
    match verifier.differing.next_from(Gfn(0)) {
        Some(first) => Err(SessionError::Differing { first, pages: verifier.differing.count() }),
        None => Ok(()),
    }
}

/// Compares what pages are filled with. Before the commit a difference ends the migration; after it, it is counted.
pub(crate) fn check<'a, T: Target>(
    arrival: &Arrival<T>,
    pages: impl Iterator<Item = (Gfn, Content<'a>)>,
) -> Result<(), SessionError> {
    let verifier = &mut *arrival.verifier.borrow_mut();
    let Some(Verifier { kept: Some(kept), differing, took, named, .. }) = verifier else { return Ok(()) };
    let began = arrival.timer.now();
    let mut equal = 0;
    for (gfn, content) in pages {
        let Some(digest) = kept.of(gfn) else { continue };
        kept.set(gfn, None);
        if digest::of_content(content) == digest {
            equal += 1;
            continue;
        }
        name(arrival, named, gfn);
        if !arrival.is_running() {
            return Err(SessionError::Differing { first: gfn, pages: 1 });
        }
        differing.insert(gfn);
    }
    *took += arrival.timer.now() - began;
    let summary = &mut arrival.ledger.borrow_mut().summary;
    summary.verified += equal;
    summary.verify_ms = ms(*took);
    if !differing.is_empty() {
        summary.differing = differing.count();
    }
    Ok(())
}

/// The same for a page that came beside the connections, in stage 3. It may be ahead of the word that it is to be spared.
pub(crate) fn check_rescued<T: Target>(arrival: &Arrival<T>, gfn: Gfn, content: Content<'_>) {
    // Only before the commit is a difference an error.
    let _ = check(arrival, core::iter::once((gfn, content)));
}

fn name<T: Target>(arrival: &Arrival<T>, named: &mut u64, gfn: Gfn) {
    *named += 1;
    if *named <= NAMED {
        log::error!("{}: guest frame {:#x} differs from the source's", arrival.toolstack.id, gfn.0);
    }
}
