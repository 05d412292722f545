//! A guest that leaves this host.
//!
//! [`log`]: what it writes meanwhile. [`hold`]: how it is stopped, committed, given back or ended.

use alloc::vec::Vec;

use common::{DomId, Gfn, Page, PageMask, Span, bits};
use xen_abi::domctl::{DOMINF_HAP, GetDomainInfo};
use xen_abi::hvm::{PARAM_CONSOLE_PFN, PARAM_STORE_PFN};

use super::dirty_log::DirtyLog;
use super::error::{Error, Result};
use super::kind::Kind;
use super::label::{self, Label, Sid};
use super::machine_config::{MachineConfig, Param};
use super::ram::{self, Scan};
use super::reach::Reach;
use super::target::ANOTHER_GUEST;
use super::{domctl, features, grants, machine, memory, policy, walk};
use crate::broker;

mod hold;
mod log;

use hold::COUNTS_AWAY;
pub use hold::discard;

/// Pages of a guest that [`Source::find_ram`] leaves out: the rings of xenstore and of the console.
pub const PRIVATE: u64 = 2;

/// [`Source::memo`] of a guest without a label that has left.
const LEFT: u64 = 1;

/// A running guest, opened for leaving.
///
/// Dropping it before [`Source::retain`] undoes what it did: the dirty log goes off, and a guest whose state was taken goes on
/// as if its suspend had been cancelled. A guest that suspended and was not stopped here needs [`Source::give_back`]. After
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
    /// None where there are no labels: what dom0 does to a guest that has left nobody can forbid it.
    away: Option<Sid>,
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

/// Refuses a guest that dom0 cannot lend.
fn check_lent(domain: DomId) -> Result {
    if grants::version(domain)? > 1 {
        return Err(Error::Refused(
            "the guest's grant table is of version 2, in which dom0 lends nothing: max_grant_version=1 in its configuration \
             keeps it to version 1",
        ));
    }
    if memory::max_gfn(domain)? >= broker::MOST_FRAMES {
        return Err(Error::Refused(
            "the guest is too large to be lent by dom0: its dirty bitmap does not fit the ring",
        ));
    }
    Ok(())
}

impl Source {
    /// Opens a running guest; changes nothing about it.
    pub fn open(reach: Reach, domain: DomId) -> Result<Self> {
        let info = domctl::live_info(domain)?;
        let source = Self::new(reach, domain, &info)?;
        if source.away == Some(source.own) {
            return Err(Error::Refused("the guest has left this host: an agent must adopt it"));
        }
        Ok(source)
    }

    /// Opens a guest that an agent which is gone was sending away, as that agent left it, and changes nothing about it until
    /// [`Source::give_back`] or [`Source::destroy`]. `memo` is what [`Source::memo`] gave that agent.
    pub fn adopt(reach: Reach, domain: DomId, uuid: [u8; 16], memo: u64) -> Result<Self> {
        let info = domctl::live_info(domain)?;
        if info.handle != uuid {
            return Err(Error::Refused(ANOTHER_GUEST));
        }
        let mut source = Self::new(reach, domain, &info)?;
        if source.away.is_none() {
            // Its broker has given back what that agent held, and turned its log off. One that runs has been resumed since it
            // left, if it did.
            if memo & LEFT != 0 && info.is_suspended() {
                source.stage = Stage::Away;
            }
            return Ok(source);
        }
        let own = u32::try_from(memo).map(Sid).map_err(|_| Error::Malformed("number of the guest's label"))?;
        let label = core::mem::replace(&mut source.own, own);
        if source.away == Some(label) && own != label {
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

    /// What an agent must know that adopts this guest: its own label, or, where there are no labels, whether it has left.
    pub fn memo(&self) -> u64 {
        match self.away {
            Some(_) => self.own.0.into(),
            None if self.stage == Stage::Away => LEFT,
            None => 0,
        }
    }

    fn new(reach: Reach, domain: DomId, info: &GetDomainInfo) -> Result<Self> {
        let kind = Kind::of(info)?;
        if broker::is_needed() {
            check_lent(domain)?;
        }
        // The commit needs this label: better to know now.
        let away = if broker::is_needed() { None } else { Some(label::find(label::AWAY)?) };
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

    /// Whether the policy keeps dom0 from reading it.
    pub fn is_private(&self) -> Result<bool> {
        match self.away {
            Some(_) => policy::dom0_may_read(self.own).map(|may| !may),
            None => Ok(false),
        }
    }

    /// What the target needs before memory arrives, for [`MachineConfig::decode`].
    pub fn config(&self) -> Result<Vec<u8>> {
        let info = self.info()?;
        let mut params = Vec::new();
        for &(index, _) in self.kind.params {
            match machine::param(self.domain, index)? {
                0 => {}
                value => params.push(Param { index, value }),
            }
        }
        let policy = machine::cpu_policy(self.domain)?;
        // Without labels all guests are alike.
        let label = if self.away.is_some() { Label::of(Sid(info.ssidref))? } else { Label::default() };
        let max_gfn = self.max_gfn()?;
        let (pages, vcpus, grant_frames) = (info.tot_pages, info.vcpus(), grants::frames(self.domain)?);
        Ok(MachineConfig { xen: features::xen_version(), pages, max_gfn, vcpus, grant_frames, policy, params, label }
            .encode())
    }

    /// Sets the bit of every frame of `span` that holds RAM to copy, clears the others. A scan from frame 0 upwards is the
    /// quickest.
    pub fn find_ram(&mut self, span: Span, ram: &mut [u64]) -> Result {
        self.scan.find(self.domain, span, ram)?;
        let found = span.first.0..span.end().0.min(ram.len() as u64 * 64);
        for gfn in self.private.iter().filter(|gfn| found.contains(&gfn.0)) {
            bits::remove(ram, *gfn);
        }
        Ok(())
    }

    /// Whether all of up to [`BATCH`] frames hold RAM.
    pub fn are_ram(&self, gfns: &[Gfn]) -> Result<bool> {
        ram::are_ram(self.domain, gfns)
    }

    /// Copies up to 64 pages out; says which could be read.
    pub fn read(&self, gfns: &[Gfn], into: &mut [Page]) -> Result<PageMask> {
        self.reach.read(self.domain, gfns, into)
    }

    /// After [`Source::machine_state`]: frames that the resuming guest touches first, most urgent first, at most `limit`.
    pub fn first_touched(&self, limit: usize) -> Result<Vec<Gfn>> {
        let mut gfns = Vec::new();
        for &index in self.kind.needed {
            gfns.extend(self.kind.page(index, machine::param(self.domain, index)?));
        }
        let read = |gfn, page: &mut Page| self.read(&[gfn], core::slice::from_mut(page)) == Ok(PageMask::first(1));
        let rest = walk::first_touched(&self.context, limit, read);
        gfns.extend(rest.into_iter().filter(|gfn| !self.private.contains(gfn)));
        gfns.truncate(limit);
        Ok(gfns)
    }
}
