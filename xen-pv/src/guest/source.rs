//! A guest that leaves this host.

use alloc::vec::Vec;

use common::{DomId, Gfn, Page};
use xen_abi::domctl::{DOMINF_HAP, GetDomainInfo};
use xen_abi::hvm::{MEM_RAM_RO, PARAM_CONSOLE_PFN, PARAM_STORE_PFN};

use super::dirty_log::{DirtyLog, Read};
use super::error::{Error, Result};
use super::frame::{Frame, State};
use super::kind::Kind;
use super::label::{self, Label, Sid};
use super::ram::{self, Scan};
use super::reach::Reach;
use super::target::ANOTHER_GUEST;
use super::{domctl, grants, machine, memory, walk};

/// The label of a guest that has left: only the agent may run or destroy it.
pub const AWAY_LABEL: &str = "system_u:system_r:tsmc_away_t";

/// Pages of a guest that [`Source::find_ram`] leaves out: the rings of xenstore and of the console.
pub const PRIVATE: u64 = 2;

/// A running guest, opened for leaving.
///
/// Dropping it before [`Source::retain`] undoes what it did: the dirty log goes off, and a guest whose state was taken goes on
/// as if its suspend had been cancelled. A guest that suspended and was not stopped here needs [`Source::release`]. After
/// [`Source::retain`] dropping it changes nothing about the guest.
pub struct Source {
    reach: Reach,
    domain: DomId,
    kind: &'static Kind,
    log: Option<DirtyLog>,
    /// Pages that are never copied: the target's toolstack has rings of its own.
    private: [Gfn; PRIVATE as usize],
    /// The guest's own label.
    own: Sid,
    away: Sid,
    /// The guest uses hardware-assisted paging.
    hap: bool,
    stage: Stage,
    /// Of the last machine state.
    context: Vec<u8>,
    /// The processor time that the guest had used by then.
    cpu_time: u64,
    /// Pause counts of this guest that are ours.
    counts: u32,
    scan: Scan,
}

/// How far the guest has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Whatever it does, we have not stopped it.
    Open,
    /// We hold a pause count, and it had suspended: vCPU 0 will find "cancelled".
    Held,
    /// As that, and it has the label of a guest that left.
    Away,
    /// It runs again, or is gone: nothing of it is ours.
    Over,
}

impl Source {
    /// Opens a running guest; changes nothing about it.
    pub fn open(reach: Reach, domain: DomId) -> Result<Self> {
        let info = domctl::live_info(domain)?;
        let source = Self::new(reach, domain, &info)?;
        if source.own == source.away {
            return Err(Error::Refused("the guest has left this host: an agent must adopt it"));
        }
        Ok(source)
    }

    /// Opens a guest that an agent which is gone was sending away, as that agent left it, and changes nothing about it until
    /// [`Source::release`] or [`Source::destroy`]. `memo` is what [`Source::memo`] gave that agent.
    pub fn adopt(reach: Reach, domain: DomId, uuid: [u8; 16], memo: u64) -> Result<Self> {
        let info = domctl::live_info(domain)?;
        if info.handle != uuid {
            return Err(Error::Refused(ANOTHER_GUEST));
        }
        let mut source = Self::new(reach, domain, &info)?;
        let own = u32::try_from(memo).map(Sid).map_err(|_| Error::Malformed("number of the guest's label"))?;
        let label = core::mem::replace(&mut source.own, own);
        if label == source.away && own != source.away {
            (source.stage, source.counts) = (Stage::Away, COUNTS_AWAY);
        } else if label != own {
            return Err(Error::Refused("the guest bears another label than when it was to leave"));
        } else if info.is_paused() && (info.is_suspended() || domctl::is_suspend_cancelled(domain)?) {
            // Nothing tells whose pause count it is. A guest that has suspended for us, or would find that its suspend was
            // cancelled, and yet does not run, is held by that agent.
            (source.stage, source.counts) = (Stage::Held, 1);
        }
        source.log = Some(DirtyLog::adopt(domain));
        Ok(source)
    }

    /// What an agent must know that adopts this guest.
    pub fn memo(&self) -> u64 {
        self.own.0.into()
    }

    fn new(reach: Reach, domain: DomId, info: &GetDomainInfo) -> Result<Self> {
        let kind = Kind::of(info)?;
        // The commit needs this label: better to know now.
        let away = label::find(AWAY_LABEL)?;
        let private = [PARAM_STORE_PFN, PARAM_CONSOLE_PFN].map(|index| machine::param(domain, index).map(Gfn));
        let [store, console] = private;
        let private = [store?, console?];
        Ok(Self {
            reach,
            domain,
            kind,
            log: None,
            private,
            own: Sid(info.ssidref),
            away,
            hap: info.flags & DOMINF_HAP != 0,
            stage: Stage::Open,
            context: Vec::new(),
            cpu_time: 0,
            counts: 0,
            scan: Scan::new(kind),
        })
    }

    /// What the guest is now.
    pub fn info(&self) -> Result<GetDomainInfo> {
        domctl::live_info(self.domain)
    }

    /// Its highest frame number now; it may grow.
    pub fn max_gfn(&self) -> Result<u64> {
        memory::max_gfn(self.domain)
    }

    /// What the target needs before memory arrives, for [`Frame::decode`].
    pub fn frame(&self) -> Result<Vec<u8>> {
        let info = self.info()?;
        let mut params = Vec::new();
        for &(index, _) in self.kind.params {
            match machine::param(self.domain, index)? {
                0 => {}
                value => params.push((index, value)),
            }
        }
        let policy = machine::cpu_policy(self.domain)?;
        let (max_gfn, label) = (self.max_gfn()?, Label::of(Sid(info.ssidref))?);
        let frame = Frame { pages: info.tot_pages, max_gfn, vcpus: info.vcpus(), policy, params, label };
        Ok(frame.encode())
    }

    /// Sets the bit of every frame in `first .. first + count` that holds RAM to copy, clears the others. A scan from frame 0
    /// upwards is the quickest.
    pub fn find_ram(&mut self, first: Gfn, count: u64, ram: &mut [u64]) -> Result {
        self.scan.find(self.domain, first, count, ram)?;
        let found = first.0..first.0.saturating_add(count).min(ram.len() as u64 * 64);
        for gfn in self.private.iter().filter(|gfn| found.contains(&gfn.0)) {
            ram[gfn.0 as usize / 64] &= !(1 << (gfn.0 % 64));
        }
        Ok(())
    }

    /// Whether all of up to [`BATCH`] frames hold RAM.
    pub fn are_ram(&self, gfns: &[Gfn]) -> Result<bool> {
        ram::are_ram(self.domain, gfns)
    }

    /// Copies up to 64 pages out; the mask says which could be read.
    pub fn read(&self, gfns: &[Gfn], into: &mut [Page]) -> Result<u64> {
        self.reach.read(self.domain, gfns, into)
    }

    /// Turns the dirty log on.
    pub fn log_on(&mut self) -> Result {
        self.log = Some(DirtyLog::start(self.domain)?);
        Ok(())
    }

    /// Turns the dirty log off.
    fn log_off(&mut self) -> Result {
        self.log.take().map_or(Ok(()), DirtyLog::stop)
    }

    /// A guest that has left writes nothing: nobody needs to turn its log off.
    fn leave_log(&mut self) {
        if let Some(log) = self.log.take() {
            log.leave();
        }
    }

    /// Which of up to [`BATCH`] pages are RAM of which the next write will be recorded.
    pub fn protected(&self, gfns: &[Gfn]) -> Result<u64> {
        if !self.hap {
            // With shadow paging a page is recorded when it is first mapped for writing, however new it is.
            return Ok(u64::MAX);
        }
        let types = memory::types(self.domain, gfns)?;
        let read_only = types.iter().take(gfns.len()).enumerate().filter(|(_, kind)| **kind == MEM_RAM_RO);
        Ok(read_only.fold(0, |mask, (index, _)| mask | 1 << index))
    }

    /// Copies the dirty log into `dirty` without clearing it.
    pub fn peek(&mut self, dirty: &mut [u64]) -> Result {
        self.read_log(Read::Peek, dirty)
    }

    /// Copies the dirty log into `dirty` and clears it.
    pub fn clean(&mut self, dirty: &mut [u64]) -> Result {
        self.read_log(Read::Clean, dirty)
    }

    fn read_log(&mut self, how: Read, dirty: &mut [u64]) -> Result {
        if how != Read::Peek && self.max_gfn()? >= dirty.len() as u64 * 64 {
            return Err(Error::Refused("the guest's physical address space grew while it was copied"));
        }
        let mut mapped = Vec::new();
        if how == Read::Final {
            // What a backend unmaps after the log is read was mapped before; what it maps then is mapped afterwards.
            grants::find_mapped(&self.reach, self.domain, &mut mapped)?;
        }
        let log = self.log.as_ref().ok_or(Error::Refused("the dirty log is not on"))?;
        match log.read(how, dirty) {
            // Xen could not note every page: whatever was not noted may be dirty.
            Err(error) if error.is_log_overflow() => dirty.fill(u64::MAX),
            result => drop(result?),
        }
        if how == Read::Final {
            grants::find_mapped(&self.reach, self.domain, &mut mapped)?;
        }
        for gfn in mapped {
            if let Some(word) = dirty.get_mut(gfn.0 as usize / 64) {
                *word |= 1 << (gfn.0 % 64);
            }
        }
        for gfn in self.private {
            if let Some(word) = dirty.get_mut(gfn.0 as usize / 64) {
                *word &= !(1 << (gfn.0 % 64));
            }
        }
        Ok(())
    }

    /// After the guest suspended: holds it by a pause count, copies the last of the dirty log into `dirty`, with what backends may
    /// write without the log's knowing, and returns where it stopped, for [`State::decode`]. Any resume from here on tells the guest that its suspend was cancelled.
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

    /// Gives all our pause counts back. dom0 may have taken one already: Xen does not know whose they are, and says no to one that
    /// is not there.
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
        let context = machine::context(self.domain)?;
        // Only after the context was taken: the copy that goes on elsewhere must find "not cancelled".
        domctl::mark_suspend_cancelled(self.domain)?;
        self.context.clone_from(&context);
        Ok(State { tsc, context }.encode())
    }

    /// After [`Source::machine_state`]: frames that the resuming guest touches first, most urgent first, at most `limit`.
    pub fn first_touched(&self, limit: usize) -> Result<Vec<Gfn>> {
        let mut gfns = Vec::new();
        for &index in self.kind.needed {
            gfns.extend(self.kind.page(index, machine::param(self.domain, index)?));
        }
        let read = |gfn, page: &mut Page| self.read(&[gfn], core::slice::from_mut(page)) == Ok(1);
        let rest = walk::first_touched(&self.context, limit, read);
        gfns.extend(rest.into_iter().filter(|gfn| !self.private.contains(gfn)));
        gfns.truncate(limit);
        Ok(gfns)
    }

    /// The commit: the guest takes the label of one that has left, and nobody but the agent can run or destroy it here. It
    /// fails, and changes nothing, if the guest has not stood still since [`Source::machine_state`].
    pub fn retain(&mut self) -> Result {
        if self.stage != Stage::Held {
            return Err(Error::Refused("only a stopped guest can leave"));
        }
        label::relabel(self.domain, self.away)?;
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
    pub fn release(&mut self) -> Result {
        if self.stage == Stage::Away {
            label::relabel(self.domain, self.own)?;
            self.stage = Stage::Held;
        }
        // A log that stays on costs the guest time; a guest that stays stopped is worse.
        let log = self.log_off();
        if self.stage == Stage::Open && self.info()?.is_suspended() {
            self.hold(|source| domctl::mark_suspend_cancelled(source.domain))?;
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
        domctl::destroy(self.domain)?;
        self.leave_log();
        self.stage = Stage::Over;
        Ok(())
    }
}

/// Our pause counts of a guest that has left: one from when its state was taken, one from the commit.
const COUNTS_AWAY: u32 = 2;

/// Ends a guest that has left, whoever kept it, and frees its memory.
pub fn discard(domain: DomId) -> Result {
    if Sid(domctl::live_info(domain)?.ssidref) != label::find(AWAY_LABEL)? {
        return Err(Error::Refused("the guest has not left this host"));
    }
    domctl::destroy(domain)
}

impl Drop for Source {
    fn drop(&mut self) {
        match self.stage {
            // Nobody is left to tell about an error here.
            Stage::Held => drop(self.release()),
            Stage::Away => self.leave_log(),
            // An open log goes off by itself.
            Stage::Open | Stage::Over => {}
        }
    }
}
