//! Verifying: both ends compare what every page holds at the switch, if the toolstack asks for it.
//!
//! While the guest stands still the source reads all of its memory once more and tells the digests. The target compares
//! what is there already with what it reads back: a difference means that the guest stays where it is. Of pages that
//! follow in stage 3 it keeps the digests, and compares what it fills in; a difference then is counted and named.
//!
//! Backends do not stand still. What they write to a guest that has stopped is lost in any migration, and the guest's
//! drivers know: they begin anew. Pages to which that happens are *spared*: they are not compared.
//!
//! Here is what the source does for it; the target's end is its [`Verifier`](crate::target::verifier::Verifier).

use common::{BATCH, Gfn, Page, PageSet};

use super::{Batch, Departure};
use crate::digest::{self, Digest, Kept};
use crate::error::SessionError;
use crate::messages::Outlet;
use crate::platform::{DirtyLog, SourceMemory};
use crate::wire::Cause;

/// Whether all memory is compared at the switch.
pub(super) enum Verify {
    No,
    Yes,
    /// It was: this is what the pages that follow in stage 3 held then.
    Told(Kept),
}

type Told = heapless::Vec<(Gfn, Option<Digest>), BATCH>;

/// Makes room for the digests of what follows in stage 3.
pub(crate) fn begin<S>(departure: &mut Departure<S>) -> Result<(), SessionError> {
    if let Verify::Yes = departure.verify {
        departure.verify = Verify::Told(Kept::new(departure.pages.left(), &mut departure.memory)?);
    }
    Ok(())
}

/// Tells what pages hold that were just sent and are still in the batch.
pub(crate) async fn tell_sent<S>(departure: &mut Departure<S>, gfns: &Batch) -> Result<(), SessionError> {
    let Verify::Told(_) = departure.verify else { return Ok(()) };
    let told = digests(gfns, &departure.batch);
    departure.ledger.summary.verified += told.len() as u64;
    tell(&mut departure.connections.bulk, &told).await
}

/// Tells what all other pages hold: clean ones, and those that follow in stage 3.
pub(crate) async fn tell_rest<S: SourceMemory + DirtyLog>(
    departure: &mut Departure<S>,
    urgent: &PageSet,
) -> Result<(), SessionError> {
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

async fn spare<S>(departure: &mut Departure<S>, gfns: &Batch) -> Result<(), SessionError> {
    departure.ledger.summary.spared += gfns.len() as u64;
    let told: Told = gfns.iter().map(|gfn| (*gfn, None)).collect();
    tell(&mut departure.connections.bulk, &told).await
}

/// Says which of the pages that are about to be sent, and are in the batch, are not what they were at the switch.
pub(crate) async fn tell_changed<S>(
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
