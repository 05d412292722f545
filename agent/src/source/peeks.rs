//! When stage 1 reads the dirty log, and how many bytes of it may be in flight.

use common::control::Mode;

use super::Departure;
use crate::error::SessionError;
use crate::limits::{ON_ITS_WAY, PEEK_EVERY};
use crate::net::IN_FLIGHT_BULK;
use crate::platform::Source;
use crate::tasks::{Instant, ns};
use crate::wire::Kind;

/// How seldom the dirty log is looked at: once in so many times as long as a look takes, which grows with the guest, and for
/// some of which the guest stands still.
const PEEK_SHARE: u32 = 20;
/// Bytes of stage 1 that may be on their way in any case.
const LEAST_ON_ITS_WAY: u64 = 192 << 10;

/// When it was looked, and when it will be.
#[derive(Default)]
pub(super) struct Peeks {
    last: Option<Progress>,
    /// When to look at the dirty log again, at the earliest.
    next: Instant,
}

/// How far stage 1 was.
#[derive(Clone, Copy, Default)]
struct Progress {
    at: Instant,
    /// Bytes that had arrived over the bulk connection.
    delivered: u64,
}

impl Peeks {
    /// Whether it is time to look how stage 1 gets on.
    fn are_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now >= last.at + PEEK_EVERY)
    }

    /// Whether it is time to look at the dirty log.
    fn log_is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// A look at the dirty log began and has ended.
    fn looked(&mut self, begun: Instant, now: Instant) {
        self.next = now + (now - begun) * (PEEK_SHARE - 1);
    }

    /// How much may be on its way: as much as arrived since the last look in the time that is allowed for it.
    fn room(&mut self, now: Instant, delivered: u64) -> usize {
        let then = self.last.replace(Progress { at: now, delivered }).unwrap_or_default();
        let arrived = delivered.saturating_sub(then.delivered) * ns(ON_ITS_WAY) / ns(now - then.at).max(1);
        arrived.clamp(LEAST_ON_ITS_WAY, IN_FLIGHT_BULK as u64) as usize
    }
}

impl<S: Source> Departure<S> {
    /// Looks how stage 1 gets on and at the dirty log, if it was not looked a moment ago, and tells the target what is stale.
    pub(crate) async fn peek(&mut self) -> Result<(), SessionError> {
        let begun = self.timer.now();
        if !self.peeks.are_due(begun) {
            return Ok(());
        }
        self.check_running()?;
        let looks = self.peeks.log_is_due(begun);
        if looks {
            self.take_log(S::peek)?;
        }
        let bulk = &mut self.connections.bulk;
        bulk.connection().set_in_flight(self.peeks.room(self.timer.now(), bulk.connection().delivered()));
        if !looks {
            return Ok(());
        }
        let hints = self.mode != Mode::Precopy;
        let fresh = hints.then(|| self.pages.find_fresh());
        self.peeks.looked(begun, self.timer.now());
        let Some(fresh) = fresh else { return Ok(()) };
        self.ledger.summary.hints += fresh.count();
        bulk.send_whole_set(Kind::Hints, fresh).await
    }
}
