//! Stops a guest that leaves, commits it, and gives it back or ends it.

use alloc::vec::Vec;

use common::{DomId, Gfn};

use super::{Source, Stage};
use crate::broker;
use crate::guest::dirty_log::Read;
use crate::guest::error::{Error, Result};
use crate::guest::label::{self, Sid};
use crate::guest::machine_config::State;
use crate::guest::{domctl, grants, machine};

/// Our pause counts of a guest that has left: one from when its state was taken, one from the commit.
pub(super) const COUNTS_AWAY: u32 = 2;

impl Source {
    /// After the guest suspended: holds it by a pause count, copies the last of the dirty log into `dirty`, with what backends
    /// may write without the log's knowing, and returns where it stopped, for [`State::decode`]. Any resume from here on tells
    /// the guest that its suspend was cancelled.
    pub fn machine_state(&mut self, dirty: &mut [u64]) -> Result<Vec<u8>> {
        if self.stage != Stage::Open {
            return Err(Error::Refused("the guest is stopped already"));
        }
        self.hold(|source| source.take_state(dirty))
    }

    /// Takes a pause count for good if `work` succeeds, which must leave "cancelled" in vCPU 0. Resuming a guest without that
    /// would have it believe that it had moved: it must never be done in [`Stage::Held`].
    fn hold<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.pause()?;
        let result = work(self);
        match result {
            Ok(_) => self.stage = Stage::Held,
            // Nothing has changed but the pause count.
            Err(_) => self.unpause(),
        }
        result
    }

    fn pause(&mut self) -> Result {
        domctl::pause(self.domain)?;
        self.counts += 1;
        Ok(())
    }

    /// Gives all our pause counts back. dom0 may have taken one already: Xen does not know whose they are, and says no to one
    /// that is not there.
    fn unpause(&mut self) {
        for _ in 0..core::mem::take(&mut self.counts) {
            let _ = domctl::unpause(self.domain);
        }
    }

    fn take_state(&mut self, dirty: &mut [u64]) -> Result<Vec<u8>> {
        let info = self.info()?;
        if !info.is_suspended() {
            return Err(Error::Refused("the guest has not suspended"));
        }
        self.cpu_time = info.cpu_time;
        self.read_log(Read::Final, dirty)?;
        let tsc = machine::tsc(self.domain)?;
        let (context, grant_frames) = (machine::context(self.domain)?, grants::frames(self.domain)?);
        // Only after the context was taken: the copy that goes on elsewhere must find "not cancelled".
        domctl::mark_suspend_cancelled(self.domain)?;
        self.context.clone_from(&context);
        Ok(State { tsc, grant_frames, context }.encode())
    }

    /// The commit: the guest takes the label of one that has left, and nobody but the agent can run or destroy it here. It
    /// fails, and changes nothing, if the guest has not stood still since [`Source::machine_state`].
    ///
    /// Where there are no labels it gives the pause counts back and leaves the guest suspended: the toolstack, which may resume a guest
    /// whose copy was not told to run, must find it as it knows it.
    pub fn retain(&mut self) -> Result {
        if self.stage != Stage::Held {
            return Err(Error::Refused("only a stopped guest can leave"));
        }
        let Some(away) = self.away else {
            self.stood_still()?;
            self.log_off()?;
            self.unpause();
            self.stage = Stage::Away;
            return Ok(());
        };
        label::relabel(self.domain, away)?;
        self.stage = Stage::Away;
        let stood_still = self.stood_still();
        if stood_still.is_err() {
            label::relabel(self.domain, self.own)?;
            self.stage = Stage::Held;
        }
        stood_still
    }

    /// A pause count is nobody's own: until the guest bore the new label, dom0 could resume it and take ours. From there on it
    /// cannot, and what the guest was it stays.
    fn stood_still(&mut self) -> Result {
        self.pause()?;
        let info = self.info()?;
        if info.is_suspended() && info.cpu_time == self.cpu_time {
            Ok(())
        } else {
            Err(Error::Refused("the guest was resumed on this host after its state had been taken"))
        }
    }

    /// Whether the commit has happened.
    pub fn is_retained(&self) -> bool {
        self.stage == Stage::Away
    }

    /// Gives the guest back: its label, if it had lost it; the dirty log goes off; and if it has suspended it goes on here
    /// and finds that its suspend was cancelled.
    pub fn give_back(&mut self) -> Result {
        if self.stage == Stage::Away {
            if self.away.is_some() {
                label::relabel(self.domain, self.own)?;
            }
            self.stage = Stage::Held;
        }
        // A log that stays on costs the guest time; a guest that stays stopped is worse.
        let log = self.log_off();
        if self.stage == Stage::Open && self.info()?.is_suspended() {
            // Its toolstack may have resumed it just now; while it is held it does not run.
            self.hold(|source| match source.info()?.is_suspended() {
                true => domctl::mark_suspend_cancelled(source.domain),
                false => Ok(()),
            })?;
        }
        if self.stage == Stage::Held {
            // Not if somebody else has resumed it. An agent before us may have died over the mark.
            if self.info()?.is_suspended() {
                domctl::mark_suspend_cancelled(self.domain)?;
                domctl::resume(self.domain)?;
            }
            self.unpause();
        }
        self.stage = Stage::Over;
        log
    }

    /// Clears and frees up to 64 pages of a guest that nobody will want any more, those of them that are there.
    pub fn free(&mut self, gfns: &[Gfn]) -> Result {
        if self.stage != Stage::Away {
            return Err(Error::Refused("only the memory of a guest that has left can be freed"));
        }
        // Those that cannot be cleared stay until the guest is destroyed.
        self.reach.free(self.domain, gfns)
    }

    /// Ends the guest and frees its memory, what is left of it.
    pub fn destroy(&mut self) -> Result {
        if self.stage != Stage::Away {
            return Err(Error::Refused("only a guest that has left can be destroyed"));
        }
        match domctl::destroy(self.domain) {
            // Without labels its toolstack destroys it, too.
            Err(_) if self.away.is_none() => {}
            destroyed => destroyed?,
        }
        self.leave_log();
        self.stage = Stage::Over;
        Ok(())
    }
}

/// Ends a guest that has left, whoever kept it, and frees its memory.
pub fn discard(domain: DomId) -> Result {
    if broker::is_needed() {
        return Err(Error::Refused("without FLASK nobody can tell whether a guest has left: 'xl destroy' ends it"));
    }
    if Sid(domctl::live_info(domain)?.ssidref) != label::find(label::AWAY)? {
        return Err(Error::Refused("the guest has not left this host"));
    }
    domctl::destroy(domain)
}

impl Drop for Source {
    fn drop(&mut self) {
        match self.stage {
            // Nobody is left to tell about an error here.
            Stage::Held => drop(self.give_back()),
            Stage::Away => self.leave_log(),
            // An open log goes off by itself.
            Stage::Open | Stage::Over => {}
        }
    }
}
