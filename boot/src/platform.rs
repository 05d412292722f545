//! Xen as the agent wants it: [`agent::platform`]'s traits over `xen_pv::guest`.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use agent::error::PlatformError;
use agent::platform as wanted;
use agent::platform::{ARRIVALS, Result};
use common::time::Instant;
use common::{Backends, Content, DomId, Fault, Features, Gfn, Hold, Page, PageMask, PageSet, Rings, Span};
use xen_abi::domctl::{DOMINF_HAP, GetDomainInfo};
use xen_abi::{Errno, Port};
use xen_pv::guest::cpu_policy::Lacking;
use xen_pv::guest::kind::pinned;
use xen_pv::guest::pager::Crowd;
use xen_pv::guest::reach::Reach;
use xen_pv::guest::{self, features, source, target};
use xen_pv::memory::Memory;
use xen_pv::time;

/// Xen under the agent.
pub struct Platform {
    reach: Reach,
    features: Features,
    fault_ports: FaultPorts,
}

/// Ports on which Xen says that an arriving guest waits for pages: the main loop sleeps on them.
#[derive(Clone, Default)]
pub struct FaultPorts(Rc<RefCell<Vec<Port>>>);

impl FaultPorts {
    /// Calls `each` with every port.
    pub fn for_each(&self, each: impl FnMut(Port)) {
        self.0.borrow().iter().copied().for_each(each);
    }

    fn add(&self, port: Port) {
        self.0.borrow_mut().push(port);
    }

    fn remove(&self, port: Port) {
        self.0.borrow_mut().retain(|&other| other != port);
    }
}

impl Platform {
    /// Takes addresses for guests' pages, and asks what the hypervisor can do.
    pub fn new(memory: &mut Memory) -> core::result::Result<Self, Errno> {
        let batch = memory.window()?;
        // Each guest that arrives needs addresses for its pager's ring.
        let rings = (0..ARRIVALS).map(|_| memory.window()).collect::<core::result::Result<_, _>>()?;
        let features = Features { paging: features::has_paging(), labels: guest::policy::is_there() };
        Ok(Self { reach: Reach::new(batch, rings), features, fault_ports: FaultPorts::default() })
    }

    /// The ports that the main loop must sleep on.
    pub fn fault_ports(&self) -> FaultPorts {
        self.fault_ports.clone()
    }
}

impl wanted::Platform for Platform {
    type Source = Source;
    type Target = Target;

    fn now(&self) -> Instant {
        time::now()
    }

    fn random(&mut self, bytes: &mut [u8]) {
        assert!(agent::os::random(bytes), "the generator was set up before the agent");
    }

    fn features(&self) -> Features {
        self.features
    }

    fn open_source(&mut self, domain: DomId) -> Result<Source> {
        let source = source::Source::open(self.reach.clone(), domain).map_err(failure)?;
        Ok(Source { source })
    }

    fn open_target(&mut self, domain: DomId, backends: Backends) -> Result<Target> {
        let target = target::Target::open(self.reach.clone(), domain, backends).map_err(failure)?;
        Ok(Target { target, domain, fault_ports: self.fault_ports.clone() })
    }

    fn adopt_source(&mut self, domain: DomId, uuid: [u8; 16], memo: u64) -> Result<Source> {
        let source = source::Source::adopt(self.reach.clone(), domain, uuid, memo).map_err(failure)?;
        Ok(Source { source })
    }

    fn adopt_target(&mut self, domain: DomId, uuid: [u8; 16], hold: Hold, frames: u64) -> Result<(Target, PageSet)> {
        let (target, missing) =
            target::Target::adopt(self.reach.clone(), domain, uuid, hold, frames).map_err(failure)?;
        let target = Target { target, domain, fault_ports: self.fault_ports.clone() };
        target.listen();
        Ok((target, missing))
    }

    fn can_retain(&self) -> Result<()> {
        guest::policy::holds_what_has_left().map_err(failure)
    }

    fn has_run(&self, domain: DomId) -> Result<bool> {
        target::has_run(domain).map_err(failure)
    }

    fn discard(&mut self, domain: DomId) -> Result<()> {
        source::discard(domain).map_err(failure)
    }
}

/// A guest that leaves.
pub struct Source {
    source: source::Source,
}

impl wanted::Guest for Source {
    fn info(&mut self) -> Result<wanted::GuestInfo> {
        let info = guest_info(&self.source.info().map_err(failure)?);
        Ok(wanted::GuestInfo { pages: info.pages.saturating_sub(source::PRIVATE), ..info })
    }
}

impl wanted::SourceMemory for Source {
    fn frames(&mut self) -> Result<u64> {
        self.source.max_gfn().map(|max_gfn| max_gfn + 1).map_err(failure)
    }

    fn find_ram(&mut self, span: Span, ram: &mut [u64]) -> Result<()> {
        self.source.find_ram(span, ram).map_err(failure)
    }

    fn is_private(&mut self) -> Result<bool> {
        self.source.is_private().map_err(failure)
    }

    fn are_ram(&mut self, gfns: &[Gfn]) -> Result<bool> {
        self.source.are_ram(gfns).map_err(failure)
    }

    fn read(&mut self, gfns: &[Gfn], into: &mut [Page]) -> Result<PageMask> {
        self.source.read(gfns, into).map_err(failure)
    }

    fn is_pinned(&self, page: &Page) -> bool {
        pinned::holds_clock(page)
    }
}

impl wanted::DirtyLog for Source {
    fn log_on(&mut self) -> Result<()> {
        self.source.log_on().map_err(failure)
    }

    fn protected(&mut self, gfns: &[Gfn]) -> Result<PageMask> {
        self.source.protected(gfns).map_err(failure)
    }

    fn peek(&mut self, dirty: &mut [u64]) -> Result<()> {
        self.source.peek(dirty).map_err(failure)
    }

    fn clean(&mut self, dirty: &mut [u64]) -> Result<()> {
        self.source.clean(dirty).map_err(failure)
    }
}

impl wanted::SaveMachine for Source {
    fn config(&mut self) -> Result<Vec<u8>> {
        self.source.config().map_err(failure)
    }

    fn machine_state(&mut self, dirty: &mut [u64]) -> Result<Vec<u8>> {
        self.source.machine_state(dirty).map_err(failure)
    }

    fn first_touched(&mut self, limit: usize) -> Result<Vec<Gfn>> {
        self.source.first_touched(limit).map_err(failure)
    }
}

impl wanted::SourceHold for Source {
    fn memo(&self) -> u64 {
        self.source.memo()
    }

    fn is_retained(&self) -> bool {
        self.source.is_retained()
    }

    fn retain(&mut self) -> Result<()> {
        self.source.retain().map_err(failure)
    }

    fn give_back(&mut self) -> Result<()> {
        self.source.give_back().map_err(failure)
    }

    fn free(&mut self, gfns: &[Gfn]) -> Result<()> {
        self.source.free(gfns).map_err(failure)
    }

    fn destroy(&mut self) -> Result<()> {
        self.source.destroy().map_err(failure)
    }
}

/// A guest that arrives.
pub struct Target {
    target: target::Target,
    domain: DomId,
    fault_ports: FaultPorts,
}

impl Target {
    fn listen(&self) {
        if let Some(port) = self.target.fault_port() {
            self.fault_ports.add(port);
        }
    }

    fn forget_port(&self) {
        if let Some(port) = self.target.fault_port() {
            self.fault_ports.remove(port);
        }
    }
}

impl wanted::Guest for Target {
    fn info(&mut self) -> Result<wanted::GuestInfo> {
        self.target.info().map(|info| guest_info(&info)).map_err(failure)
    }
}

impl wanted::TargetMemory for Target {
    fn populate(&mut self, run: Span) -> Result<()> {
        self.target.populate(run).map_err(failure)
    }

    fn free(&mut self, gfns: &[Gfn]) -> Result<()> {
        self.target.free(gfns).map_err(failure)
    }

    fn write(&mut self, pages: &[(Gfn, Content<'_>)]) -> Result<PageMask> {
        self.target.write(pages).map_err(failure)
    }

    fn read(&mut self, gfns: &[Gfn], into: &mut [Page]) -> Result<PageMask> {
        self.target.read(gfns, into).map_err(failure)
    }
}

impl wanted::Pager for Target {
    fn can_page(&self) -> bool {
        self.target.can_page()
    }

    fn arm(&mut self, gfns: &[Gfn]) -> Result<PageMask> {
        self.target.arm(gfns).map_err(failure)
    }

    fn next_fault(&mut self) -> Result<Option<Fault>> {
        self.target.next_fault().map_err(failure)
    }

    fn fill(&mut self, pages: &[(Gfn, Content<'_>)]) -> Result<PageMask> {
        self.target.fill(pages).map_err(failure)
    }

    fn finish(&mut self) -> Result<()> {
        let port = self.target.fault_port();
        let crowd = self.target.crowd();
        self.target.finish().map_err(failure)?;
        say_crowd(self.domain, crowd);
        if let Some(port) = port {
            self.fault_ports.remove(port);
        }
        Ok(())
    }
}

impl wanted::LoadMachine for Target {
    fn build(&mut self, config: &[u8]) -> Result<Rings> {
        let rings = self.target.build(config).map_err(failure)?;
        self.listen();
        Ok(rings)
    }

    fn load_state(&mut self, state: &[u8]) -> Result<()> {
        self.target.load_state(state).map_err(failure)
    }
}

impl wanted::TargetHold for Target {
    fn let_run(&mut self) -> Result<()> {
        self.target.let_run().map_err(failure)
    }

    fn has_run(&mut self) -> Result<bool> {
        self.target.has_run().map_err(failure)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.forget_port();
    }
}

/// For the operator of a guest with many virtual CPUs.
fn say_crowd(DomId(domain): DomId, Crowd { early, full }: Crowd) {
    if full != 0 {
        log::warn!("domain {domain}: its ring of faults was full {full} times, and {early} were answered early");
    } else if early != 0 {
        log::info!("domain {domain}: {early} that waited for a page were answered early");
    }
}

fn guest_info(info: &GetDomainInfo) -> wanted::GuestInfo {
    wanted::GuestInfo {
        uuid: info.handle,
        pages: info.tot_pages,
        vcpus: info.vcpus(),
        paged_pages: info.paged_pages,
        suspended: info.is_suspended(),
        stopped: info.is_shut_down() && !info.is_suspended(),
        paused: info.is_paused(),
        hap: info.flags & DOMINF_HAP != 0,
    }
}

/// What the agent understands of a failure.
fn failure(error: guest::Error) -> PlatformError {
    match error {
        guest::Error::Xen { operation, errno } => {
            let (operation, permission) = (operation.name(), operation.permission());
            match errno {
                Errno::EPERM | Errno::EACCES => PlatformError::Denied { operation, permission },
                Errno::ENOMEM => PlatformError::OutOfMemory { operation },
                Errno::ESRCH => PlatformError::Gone,
                Errno::ETIMEDOUT => {
                    PlatformError::Refused { reason: "dom0 lends the guest no longer: its broker does not answer" }
                }
                Errno::ENOSYS | Errno::EOPNOTSUPP => PlatformError::Unsupported { operation },
                errno => PlatformError::Failed { operation, errno: errno.0 },
            }
        }
        guest::Error::Dying => PlatformError::Gone,
        guest::Error::Lacks(Lacking { name, part_of, index }) => PlatformError::Lacks { name, part_of, index },
        guest::Error::OlderXen { ours, theirs } => PlatformError::OlderXen { ours, theirs },
        guest::Error::Malformed(what) => PlatformError::Malformed { what },
        guest::Error::Refused(reason) => PlatformError::Refused { reason },
    }
}
