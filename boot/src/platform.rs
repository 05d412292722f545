//! Xen as the agent wants it: [`agent::platform`]'s traits over `xen_pv::guest`.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use agent::bitmap::PageSet;
use agent::platform as wanted;
use agent::platform::{ARRIVALS, BATCH, Page, PageMask, PlatformError, Result};
use xen_pv::abi::{DomId, Errno, Gfn, Port};
use xen_pv::guest::abi::domctl::{DOMINF_HAP, GetDomainInfo};
use xen_pv::guest::pager::Crowd;
use xen_pv::guest::reach::{Content, Reach};
use xen_pv::guest::{self, features, pinned, source, target};
use xen_pv::memory::Memory;
use xen_pv::time;

/// Xen under the agent.
pub struct Platform {
    reach: Reach,
    features: wanted::Features,
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
        let features = wanted::Features {
            dirty_log: features::has_dirty_log(),
            paging: features::has_paging(),
            foreign_map: true,
        };
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

    fn now_ns(&self) -> u64 {
        time::now_ns()
    }

    fn random(&mut self, bytes: &mut [u8]) {
        assert!(agent::os::random(bytes), "the generator was set up before the agent");
    }

    fn features(&self) -> wanted::Features {
        self.features
    }

    fn open_source(&mut self, domain: wanted::DomId) -> Result<Source> {
        let source = source::Source::open(self.reach.clone(), DomId(domain.0)).map_err(failure)?;
        Ok(Source { source })
    }

    fn open_target(&mut self, domain: wanted::DomId, backends: wanted::Backends) -> Result<Target> {
        let backends = target::Backends {
            store_port: Port(backends.store_port),
            store_domain: DomId(backends.store_domain.0),
            console_port: Port(backends.console_port),
            console_domain: DomId(backends.console_domain.0),
        };
        let target = target::Target::open(self.reach.clone(), DomId(domain.0), backends).map_err(failure)?;
        Ok(Target { target, domain, fault_ports: self.fault_ports.clone() })
    }

    fn adopt_source(&mut self, domain: wanted::DomId, uuid: [u8; 16], memo: u64) -> Result<Source> {
        let source = source::Source::adopt(self.reach.clone(), DomId(domain.0), uuid, memo).map_err(failure)?;
        Ok(Source { source })
    }

    fn adopt_target(
        &mut self,
        domain: wanted::DomId,
        uuid: [u8; 16],
        _: u64,
        hold: wanted::Hold,
        frames: u64,
    ) -> Result<(Target, PageSet)> {
        let hold = match hold {
            wanted::Hold::Held => target::Hold::Held,
            wanted::Hold::Released => target::Hold::Released,
        };
        let (target, absent) =
            target::Target::adopt(self.reach.clone(), DomId(domain.0), uuid, hold, frames).map_err(failure)?;
        let missing = PageSet::from_words(absent, frames);
        let target = Target { target, domain, fault_ports: self.fault_ports.clone() };
        target.listen();
        Ok((target, missing))
    }

    fn can_retain(&self) -> Result<()> {
        guest::policy::holds_what_has_left().map_err(failure)
    }

    fn has_run(&self, domain: wanted::DomId) -> Result<bool> {
        target::has_run(DomId(domain.0)).map_err(failure)
    }

    fn discard(&mut self, domain: wanted::DomId) -> Result<()> {
        source::discard(DomId(domain.0)).map_err(failure)
    }
}

/// A guest that leaves.
pub struct Source {
    source: source::Source,
}

impl wanted::Source for Source {
    fn info(&mut self) -> Result<wanted::GuestInfo> {
        let max_gfn = self.source.max_gfn().map_err(failure)?;
        let info = guest_info(&self.source.info().map_err(failure)?, max_gfn);
        Ok(wanted::GuestInfo { pages: info.pages.saturating_sub(source::PRIVATE), ..info })
    }

    fn memo(&self) -> u64 {
        self.source.memo()
    }

    fn is_retained(&self) -> bool {
        self.source.is_retained()
    }

    fn frame(&mut self) -> Result<Vec<u8>> {
        self.source.frame().map_err(failure)
    }

    fn find_ram(&mut self, first: wanted::Gfn, count: u64, ram: &mut [u64]) -> Result<()> {
        self.source.find_ram(Gfn(first.0), count, ram).map_err(failure)
    }

    fn are_ram(&mut self, gfns: &[wanted::Gfn]) -> Result<bool> {
        with_gfns(gfns, |gfns| self.source.are_ram(gfns))
    }

    fn read(&mut self, gfns: &[wanted::Gfn], into: &mut [Page]) -> Result<PageMask> {
        with_gfns(gfns, |gfns| self.source.read(gfns, into))
    }

    fn log_on(&mut self) -> Result<()> {
        self.source.log_on().map_err(failure)
    }

    fn protected(&mut self, gfns: &[wanted::Gfn]) -> Result<PageMask> {
        with_gfns(gfns, |gfns| self.source.protected(gfns))
    }

    fn peek(&mut self, dirty: &mut [u64]) -> Result<()> {
        self.source.peek(dirty).map_err(failure)
    }

    fn clean(&mut self, dirty: &mut [u64]) -> Result<()> {
        self.source.clean(dirty).map_err(failure)
    }

    fn machine_state(&mut self, dirty: &mut [u64]) -> Result<Vec<u8>> {
        self.source.machine_state(dirty).map_err(failure)
    }

    fn is_pinned(&self, page: &Page) -> bool {
        pinned::holds_clock(page)
    }

    fn first_touched(&mut self, limit: usize) -> Result<Vec<wanted::Gfn>> {
        let gfns = self.source.first_touched(limit).map_err(failure)?;
        Ok(gfns.into_iter().map(|gfn| wanted::Gfn(gfn.0)).collect())
    }

    fn retain(&mut self) -> Result<()> {
        self.source.retain().map_err(failure)
    }

    fn release(&mut self) -> Result<()> {
        self.source.release().map_err(failure)
    }

    fn free(&mut self, gfns: &[wanted::Gfn]) -> Result<()> {
        with_gfns(gfns, |gfns| self.source.free(gfns))
    }

    fn destroy(&mut self) -> Result<()> {
        self.source.destroy().map_err(failure)
    }
}

/// A guest that arrives.
pub struct Target {
    target: target::Target,
    domain: wanted::DomId,
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

impl wanted::Target for Target {
    fn info(&mut self) -> Result<wanted::GuestInfo> {
        let max_gfn = self.target.max_gfn().map_err(failure)?;
        Ok(guest_info(&self.target.info().map_err(failure)?, max_gfn))
    }

    // All that there is to know of such a guest, the hypervisor knows.
    fn memo(&self) -> u64 {
        0
    }

    fn build(&mut self, frame: &[u8]) -> Result<wanted::Rings> {
        let rings = self.target.build(frame).map_err(failure)?;
        self.listen();
        Ok(wanted::Rings { store: wanted::Gfn(rings.store.0), console: wanted::Gfn(rings.console.0) })
    }

    fn can_page(&self) -> bool {
        self.target.can_page()
    }

    fn populate(&mut self, first: wanted::Gfn, order: u8) -> Result<()> {
        self.target.populate(Gfn(first.0), order).map_err(failure)
    }

    fn free(&mut self, gfns: &[wanted::Gfn]) -> Result<()> {
        with_gfns(gfns, |gfns| self.target.free(gfns))
    }

    fn write(&mut self, pages: &[(wanted::Gfn, wanted::Content<'_>)]) -> Result<PageMask> {
        with_pages(pages, |pages| self.target.write(pages))
    }

    fn read(&mut self, gfns: &[wanted::Gfn], into: &mut [Page]) -> Result<PageMask> {
        with_gfns(gfns, |gfns| self.target.read(gfns, into))
    }

    fn arm(&mut self, gfns: &[wanted::Gfn]) -> Result<PageMask> {
        with_gfns(gfns, |gfns| self.target.arm(gfns))
    }

    fn next_fault(&mut self) -> Result<Option<wanted::Fault>> {
        let fault = self.target.next_fault().map_err(failure)?;
        Ok(fault.map(|fault| wanted::Fault {
            gfn: wanted::Gfn(fault.gfn.0),
            vcpu_waits: fault.vcpu_waits,
            dropped: fault.dropped,
        }))
    }

    fn fill(&mut self, pages: &[(wanted::Gfn, wanted::Content<'_>)]) -> Result<PageMask> {
        with_pages(pages, |pages| self.target.fill(pages))
    }

    fn load_state(&mut self, state: &[u8]) -> Result<()> {
        self.target.load_state(state).map_err(failure)
    }

    fn release(&mut self) -> Result<()> {
        self.target.release().map_err(failure)
    }

    fn has_run(&mut self) -> Result<bool> {
        self.target.has_run().map_err(failure)
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

impl Drop for Target {
    fn drop(&mut self) {
        self.forget_port();
    }
}

/// For the operator of a guest with many virtual CPUs.
fn say_crowd(domain: wanted::DomId, Crowd { early, full }: Crowd) {
    let wanted::DomId(domain) = domain;
    if full != 0 {
        log::warn!("domain {domain}: its ring of faults was full {full} times, and {early} were answered early");
    } else if early != 0 {
        log::info!("domain {domain}: {early} that waited for a page were answered early");
    }
}

fn guest_info(info: &GetDomainInfo, max_gfn: u64) -> wanted::GuestInfo {
    wanted::GuestInfo {
        uuid: info.handle,
        pages: info.tot_pages,
        max_gfn,
        vcpus: info.vcpus(),
        paged_pages: info.paged_pages,
        suspended: info.is_suspended(),
        stopped: info.is_shut_down() && !info.is_suspended(),
        paused: info.is_paused(),
        hap: info.flags & DOMINF_HAP != 0,
    }
}

fn with_gfns<T>(gfns: &[wanted::Gfn], work: impl FnOnce(&[Gfn]) -> guest::Result<T>) -> Result<T> {
    let mut own = [Gfn(0); BATCH];
    let count = gfns.len().min(BATCH);
    for (own, gfn) in own.iter_mut().zip(gfns) {
        *own = Gfn(gfn.0);
    }
    work(&own[..count]).map_err(failure)
}

fn with_pages<T>(
    pages: &[(wanted::Gfn, wanted::Content<'_>)],
    work: impl FnOnce(&[(Gfn, Content<'_>)]) -> guest::Result<T>,
) -> Result<T> {
    let mut own = [(Gfn(0), Content::Zero); BATCH];
    let count = pages.len().min(BATCH);
    for (own, (gfn, content)) in own.iter_mut().zip(pages) {
        let content = match content {
            wanted::Content::Bytes(page) => Content::Bytes(page),
            wanted::Content::Zero => Content::Zero,
        };
        *own = (Gfn(gfn.0), content);
    }
    work(&own[..count]).map_err(failure)
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
                Errno::ENOSYS | Errno::EOPNOTSUPP => PlatformError::Unsupported { operation },
                errno => PlatformError::Failed { operation, errno: errno.0 },
            }
        }
        guest::Error::Dying => PlatformError::Gone,
        guest::Error::Malformed(what) => PlatformError::Malformed { what },
        guest::Error::Refused(reason) => PlatformError::Refused { reason },
    }
}
