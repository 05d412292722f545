//! A guest that arrives on this host.

use common::{Backends, Content, DomId, Fault, Gfn, Hold, Page, PageMask, PageSet, Rings};
use xen_abi::domctl::GetDomainInfo;
use xen_abi::hvm::{
    PARAM_CONSOLE_EVTCHN, PARAM_CONSOLE_PFN, PARAM_PAGING_RING_PFN, PARAM_STORE_EVTCHN, PARAM_STORE_PFN,
};
use xen_abi::{Errno, Port};

use super::absent::Pages;
use super::error::{Error, Operation, Result};
use super::kind::Kind;
use super::label::{Label, Sid};
use super::machine_config::{MachineConfig, Param, State};
use super::pager::{Crowd, Pager};
use super::reach::Reach;
use super::{absent, domctl, features, grants, label, machine, memory, ram, walk};
use crate::broker;
use crate::window::Held;

mod allocation;

/// A domain that the toolstack made for an arriving guest.
///
/// We hold a pause count of it until [`Target::let_run`]. Dropping it before gives the count and the pager back; the toolstack
/// destroys the domain. Dropping it later, with pages absent, leaves the pager's ring behind, and the guest waiting.
pub struct Target {
    reach: Reach,
    domain: DomId,
    kind: &'static Kind,
    /// Until the domain is built: whom it was made for, and who serves it.
    shell: Option<(Label, Backends)>,
    rings: Option<Rings>,
    pager: Option<Pager>,
    /// Keeps the domain from going away altogether, where no ring of a pager does: see [`Target::has_run`].
    anchor: Option<Held>,
    held: bool,
    claimed: bool,
}

impl Target {
    /// Opens a domain that was just made, takes it out of the toolstack's reach, and pauses it.
    pub fn open(reach: Reach, domain: DomId, backends: Backends) -> Result<Self> {
        let label = shut_out(domain)?;
        // From here on nobody else can give it memory.
        let info = domctl::live_info(domain)?;
        let kind = Kind::made_for(&info)?;
        if info.cpu_time != 0 {
            return Err(Error::Refused("the domain has run already"));
        }
        if info.tot_pages != 0 {
            return Err(Error::Refused("the domain has memory already, which its maker may have mapped"));
        }
        domctl::pause(domain)?;
        Ok(Self {
            reach,
            domain,
            kind,
            shell: Some((label, backends)),
            rings: None,
            pager: None,
            anchor: None,
            held: true,
            claimed: false,
        })
    }

    /// Takes over a domain from an agent that is gone, with the faults of its absent pages; gives the pages that may be absent. That
    /// agent had made none absent at or beyond `frames`. It had released the domain, unless `hold` says that its pause count may
    /// still be there.
    pub fn adopt(reach: Reach, domain: DomId, uuid: [u8; 16], hold: Hold, frames: u64) -> Result<(Self, PageSet)> {
        let info = domctl::live_info(domain)?;
        let kind = Kind::made_for(&info).map_err(|_| Error::Refused(ANOTHER_GUEST))?;
        if info.handle != uuid {
            return Err(Error::Refused(ANOTHER_GUEST));
        }
        if broker::is_needed() {
            // Nothing is ever absent of it, and the broker has given that agent's pause count back.
            let target = Self {
                reach,
                domain,
                kind,
                shell: None,
                rings: None,
                pager: None,
                anchor: None,
                held: false,
                claimed: true,
            };
            return Ok((target, PageSet::new(frames)));
        }
        let Pages { absent, present } = absent::find(domain, kind, frames)?;
        let gfn = ram::free_gfn(domain, kind)?;
        let pager = Pager::adopt(reach.clone(), domain, gfn, info.vcpus(), absent.iter(), &present)?;
        if pager.is_none() && !absent.is_empty() {
            return Err(Error::Refused("pages of the guest are absent, and this hypervisor does not page for it"));
        }
        // It may have been released after the agent had said that it was not; if it has run, whoever paused it is not us.
        let held = hold == Hold::Held && info.is_paused() && !has_run(domain)?;
        let mut target =
            Self { reach, domain, kind, shell: None, rings: None, pager, anchor: None, held, claimed: true };
        target.expect_faults();
        target.keep_anchor()?;
        Ok((target, absent))
    }

    /// Who waited for a page when the agent before us died does not say so again. A guess saves it a wait for the push.
    fn expect_faults(&mut self) {
        let (reach, domain) = (&self.reach, self.domain);
        let read =
            |gfn, page: &mut Page| reach.read(domain, &[gfn], core::slice::from_mut(page)) == Ok(PageMask::first(1));
        // Without the context there is no guess.
        if let (Some(pager), Ok(context)) = (&mut self.pager, machine::context(domain)) {
            pager.expect_faults(walk::last_touched(&context, GUESSES, read).into_iter());
        }
    }

    /// Keeps one page mapped if nothing else is.
    fn keep_anchor(&mut self) -> Result {
        if self.pager.is_none() && self.anchor.is_none() && !broker::is_needed() {
            let store = Gfn(machine::param(self.domain, PARAM_STORE_PFN)?);
            self.anchor = Some(self.reach.hold(self.domain, store)?);
        }
        Ok(())
    }

    /// What the domain is now.
    pub fn info(&self) -> Result<GetDomainInfo> {
        domctl::live_info(self.domain)
    }

    /// Its highest frame number in use.
    pub fn max_gfn(&self) -> Result<u64> {
        memory::max_gfn(self.domain)
    }

    /// Builds what the source's configuration describes: all of the guest but its memory and its state.
    pub fn build(&mut self, config: &[u8]) -> Result<Rings> {
        let (label, backends) = self.shell.take().ok_or(Error::Refused("the domain is built already"))?;
        let config = MachineConfig::decode(config, self.kind)?;
        let ours = features::xen_version();
        if config.xen > ours {
            return Err(Error::OlderXen { ours, theirs: config.xen });
        }
        let rings = Rings { store: Gfn(config.param(PARAM_STORE_PFN)), console: Gfn(config.param(PARAM_CONSOLE_PFN)) };
        if rings.store.0 == 0 || rings.console.0 == 0 || rings.store == rings.console {
            return Err(Error::Malformed("machine configuration: no rings for xenstore and console"));
        }
        if !label.is_for(&config.label) && !label.is_none() && !config.label.is_none() {
            return Err(Error::Refused("the domain was made for guests of another label"));
        }
        let info = self.info()?;
        if info.vcpus() != config.vcpus {
            return Err(Error::Malformed(
                "machine configuration: another number of vCPUs than the domain was made with",
            ));
        }
        grants::check_room(self.domain, config.grant_frames)?;
        // Two more than the guest has: the pager's ring and one to spare. Without enough memory it ends here.
        memory::claim(self.domain, (config.pages + 2).min(info.max_pages))?;
        self.claimed = true;
        machine::set_cpu_policy(self.domain, &config.policy)?;
        self.build_rings(rings, backends)?;
        self.build_pager(&config, rings)?;
        self.build_params(&config, backends)?;
        self.keep_anchor()?;
        self.rings = Some(rings);
        Ok(rings)
    }

    /// The pager's ring borrows a frame number for a moment; the guest's own ring page, if it has one, comes later.
    fn build_pager(&mut self, config: &MachineConfig, rings: Rings) -> Result {
        let gfn = match config.param(PARAM_PAGING_RING_PFN) {
            0 => self.kind.paging_ring,
            gfn => Gfn(gfn),
        };
        if [rings.store, rings.console].contains(&gfn) {
            return Err(Error::Malformed("machine configuration: rings share a page"));
        }
        if !broker::is_needed() {
            self.pager = Pager::enable(self.reach.clone(), self.domain, gfn, config.vcpus)?;
        }
        Ok(())
    }

    fn build_params(&self, config: &MachineConfig, backends: Backends) -> Result {
        let channels = [(PARAM_STORE_EVTCHN, backends.store_port), (PARAM_CONSOLE_EVTCHN, backends.console_port)]
            .map(|(index, port)| Param { index, value: port.into() });
        for Param { index, value } in config.params.iter().copied().chain(channels) {
            machine::set_param(self.domain, index, value)?;
        }
        Ok(())
    }

    fn build_rings(&self, rings: Rings, backends: Backends) -> Result {
        let gfns = [rings.store, rings.console];
        for gfn in gfns {
            // Xen does not tell a refusal from a lack of memory, but memory has just been reserved.
            memory::populate(self.domain, gfn).map_err(|_| Operation::Populate.error(Errno::EACCES))?;
        }
        if self.reach.write(self.domain, &gfns.map(|gfn| (gfn, Content::Zero)))? != PageMask::first(gfns.len()) {
            return Err(Operation::MapWrite.error(Errno::EINVAL));
        }
        let grants = grants::Reserved {
            console: (backends.console_domain, rings.console),
            store: (backends.store_domain, rings.store),
        };
        grants::seed(&self.reach, self.domain, grants)
    }

    /// Whether faults can be served for this guest.
    pub fn can_page(&self) -> bool {
        self.pager.is_some()
    }

    /// Where the hypervisor says that there are faults.
    pub fn fault_port(&self) -> Option<Port> {
        self.pager.as_ref().map(Pager::port)
    }

    /// Pages that are absent.
    pub fn absent(&self) -> u64 {
        self.pager.as_ref().map_or(0, Pager::absent)
    }

    /// How crowded the ring of its faults was.
    pub fn crowd(&self) -> Crowd {
        self.pager.as_ref().map(Pager::crowd).unwrap_or_default()
    }

    /// Clears up to 64 populated pages before the guest runs, and takes them away again.
    pub fn free(&mut self, gfns: &[Gfn]) -> Result {
        let rings = self.ring_gfns();
        if !self.held || gfns.iter().any(|gfn| rings.contains(gfn)) {
            return Err(Error::Malformed("list of frames: they cannot be given back"));
        }
        self.reach.free(self.domain, gfns)?;
        if let Some(pager) = &mut self.pager {
            pager.forget(gfns);
        }
        Ok(())
    }

    /// Writes up to 64 populated pages before the guest runs; says which were written. The rings are not the source's.
    pub fn write(&mut self, pages: &[(Gfn, Content<'_>)]) -> Result<PageMask> {
        if !self.held {
            return Err(Error::Refused("only absent pages of a running guest can be written"));
        }
        let rings = self.ring_gfns();
        if pages.iter().any(|page| rings.contains(&page.0)) {
            return Err(Error::Malformed("page list: names a ring"));
        }
        self.reach.write(self.domain, pages)
    }

    /// Copies up to 64 pages out that are present; says which could be read.
    pub fn read(&self, gfns: &[Gfn], into: &mut [Page]) -> Result<PageMask> {
        self.reach.read(self.domain, gfns, into)
    }

    /// Makes up to 64 populated pages absent; says which are.
    pub fn arm(&mut self, gfns: &[Gfn]) -> Result<PageMask> {
        let rings = self.ring_gfns();
        if gfns.iter().any(|gfn| rings.contains(gfn)) {
            return Err(Error::Malformed("page list: names a ring"));
        }
        self.pager()?.arm(gfns)
    }

    /// The next fault, if there is one. Never waits.
    pub fn next_fault(&mut self) -> Result<Option<Fault>> {
        self.pager.as_mut().map_or(Ok(None), Pager::next_fault)
    }

    /// Fills up to 64 absent pages and makes them present; says which are.
    pub fn fill(&mut self, pages: &[(Gfn, Content<'_>)]) -> Result<PageMask> {
        self.pager()?.fill(pages)
    }

    /// Loads where the guest stopped.
    pub fn load_state(&mut self, state: &[u8]) -> Result {
        let state = State::decode(state)?;
        grants::check_room(self.domain, state.grant_frames)?;
        machine::set_tsc(self.domain, state.tsc)?;
        machine::set_context(self.domain, &state.context)
    }

    /// Gives our pause count back: the guest runs as soon as the toolstack lets it.
    pub fn let_run(&mut self) -> Result {
        if self.held {
            if broker::is_needed() {
                // The guest needs its table.
                self.reach.end_grants(self.domain, false)?;
                self.unclaim()?;
            }
            domctl::unpause(self.domain)?;
            self.held = false;
        }
        Ok(())
    }

    /// Whether the guest has run at all on this host. Answers also when its toolstack has destroyed it: as long as a page of it
    /// is mapped, the domain remains.
    pub fn has_run(&self) -> Result<bool> {
        has_run(self.domain)
    }

    /// Ends paging; every page must have been filled.
    pub fn finish(&mut self) -> Result {
        if let Some(pager) = &mut self.pager {
            pager.finish()?;
        }
        self.pager = None;
        self.unclaim()
    }

    fn unclaim(&mut self) -> Result {
        if core::mem::replace(&mut self.claimed, false) { memory::claim(self.domain, 0) } else { Ok(()) }
    }

    fn pager(&mut self) -> Result<&mut Pager> {
        self.pager.as_mut().ok_or(Error::Refused("this hypervisor does not page for this guest"))
    }

    fn ring_gfns(&self) -> [Gfn; 2] {
        self.rings.map_or([Gfn(u64::MAX); 2], |rings| [rings.store, rings.console])
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Nobody is left to tell about an error here.
        let _ = self.unclaim();
        if self.held {
            // It never ran; the toolstack destroys it.
            self.pager = None;
            let _ = domctl::unpause(self.domain);
        } else if self.absent() != 0 {
            // It runs and misses pages.
            self.pager.take().map(Pager::abandon).unwrap_or_default();
        }
        if let Some(page) = self.anchor.take() {
            self.reach.let_go(page);
        }
    }
}

/// Whether the guest in this domain has run on this host. Only one under its own label has: whatever ran while the domain was
/// being filled was not the guest, which could do nothing before it was its own.
pub fn has_run(domain: DomId) -> Result<bool> {
    let info = domctl::info(domain)?;
    Ok(info.cpu_time != 0 && (broker::is_needed() || !Label::of(Sid(info.ssidref))?.is_shell()))
}

/// Gives a domain that the toolstack has just made the label under which the toolstack has no right on its memory, if its
/// type has one; returns its label.
fn shut_out(domain: DomId) -> Result<Label> {
    if broker::is_needed() {
        return Ok(Label::default());
    }
    let label = Label::of(Sid(domctl::live_info(domain)?.ssidref))?;
    let Some(inbound) = label.inbound() else { return Ok(label) };
    match label::find_if_known(&inbound)? {
        Some(sid) => label::relabel(domain, sid).map(|()| inbound),
        None => Ok(label),
    }
}

/// Why an agent adopts nothing.
pub(super) const ANOTHER_GUEST: &str = "another guest has the domain's number by now";
/// Pages that virtual CPUs may have waited for.
const GUESSES: usize = 64;
