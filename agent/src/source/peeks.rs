//! When stage 1 reads the dirty log.

use common::control::Mode;

use super::Departure;
use crate::error::SessionError;
use crate::limits::PEEK_EVERY;
use crate::platform::{DirtyLog, SourceMemory};
use crate::tasks::Instant;
use crate::wire::Kind;

/// How seldom the dirty log is looked at: once in so many times as long as a look takes, which grows with the guest, and for
/// some of which the guest stands still.
const PEEK_SHARE: u32 = 20;

/// When the guest was looked at, and when its dirty log will be.
#[derive(Default)]
pub(super) struct Peeks {
    last: Option<Instant>,
    /// When to look at the dirty log again, at the earliest.
    next: Instant,
}

impl Peeks {
    /// Whether it is time to look at the guest, which begins now.
    fn begin(&mut self, now: Instant) -> bool {
        let is_due = self.last.is_none_or(|last| now >= last + PEEK_EVERY);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }

    /// Whether it is time to look at the dirty log.
    fn log_is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// A look at the dirty log began and has ended.
    fn looked(&mut self, begun: Instant, now: Instant) {
        self.next = now + (now - begun) * (PEEK_SHARE - 1);
    }
}

impl<S: SourceMemory + DirtyLog> Departure<S> {
    /// Looks at the guest and at the dirty log, if it was not looked a moment ago, and tells the target what is stale.
    pub(crate) async fn peek(&mut self) -> Result<(), SessionError> {
        let begun = self.timer.now();
        if !self.peeks.begin(begun) {
            return Ok(());
        }
        self.check_running()?;
        if !self.peeks.log_is_due(begun) {
            return Ok(());
        }
        self.take_log(S::peek)?;
        let hints = self.mode != Mode::Precopy;
        let fresh = hints.then(|| self.pages.find_fresh());
        self.peeks.looked(begun, self.timer.now());
        let Some(fresh) = fresh else { return Ok(()) };
        self.ledger.summary.hints += fresh.count();
        self.connections.bulk.send_whole_set(Kind::Hints, fresh).await
    }
}
