//! The agent's life: everything set up, then poll and sleep for ever.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::convert::Infallible;
use core::fmt;

use agent::command_line::AgentOptions;
use agent::platform::Platform as _;
use agent::secure::Security;
use agent::{Address, Agent, Config, MTU, Wake};
use common::control::{REFUSED, RINGS, ROOT, Ring};
use common::{Features, PAGE_SIZE};
use xen_abi::Port;
use xen_pv::broker::{self, Place};
use xen_pv::entropy::Origin;
use xen_pv::event;
use xen_pv::guest::{domctl, policy};
use xen_pv::sched;
use xen_pv::xenstore::Xenstore;

use crate::cipher::Code;
use crate::nic::{self, Nic, Up};
use crate::platform::{FaultPorts, Platform};
use crate::start::{Machine, XenRelease};
use crate::store::Store;
use crate::{heap, hermit, identity, say};

/// Guests that dom0 may lend at a time, where it has to. Each takes half a MiB for its ring.
const LENT_AT_A_TIME: usize = 2;

/// What wakes the main loop.
struct Waker {
    store: Rc<RefCell<Xenstore>>,
    nic: Box<dyn Nic>,
    faults: FaultPorts,
    ports: Vec<Port>,
}

/// Why the agent cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It is told what makes no sense, or does not know this hypervisor. Started again, it would say the same.
    #[error("{0}")]
    Permanent(String),
    /// Something around it fails.
    #[error("{0}")]
    Transient(String),
}

impl StartError {
    fn permanent(error: impl fmt::Display) -> Self {
        Self::Permanent(error.to_string())
    }
}

impl From<String> for StartError {
    fn from(reason: String) -> Self {
        Self::Transient(reason)
    }
}

/// Runs the agent; comes back only with the reason why it cannot.
pub fn run(mut machine: Machine) -> Result<Infallible, StartError> {
    let store = machine.store.take().ok_or_else(|| "there is no xenstore".to_string())?;
    let store = Rc::new(RefCell::new(store));
    let outcome = serve(machine, store.clone());
    if let Err(StartError::Permanent(reason)) = &outcome {
        // For who cannot see the console; it is said there too.
        let node = format!("{ROOT}/{REFUSED}");
        let _ = store.borrow_mut().write(&node, reason.as_bytes());
    }
    outcome
}

fn serve(mut machine: Machine, store: Rc<RefCell<Xenstore>>) -> Result<Infallible, StartError> {
    let options = AgentOptions::parse(&machine.command_line).map_err(StartError::permanent)?;
    agent::os::log_to_console(options.log_level);
    let (security, entropy) = identity::take(&mut machine, &options).map_err(StartError::permanent)?;
    let origin = entropy.origin();
    hermit::init(entropy);
    domctl::find_version().map_err(StartError::permanent)?;
    let Machine { mut memory, mut pool, .. } = machine;

    let Up { nic, device, interface, mac, mtu } = nic::bring_up(&mut memory, &mut pool, &mut store.borrow_mut(), MTU)?;
    let total = memory.total_pages() / 256;
    if !policy::is_there() {
        let rings = broker::init(LENT_AT_A_TIME).map_err(|errno| format!("rings for dom0's broker: {errno}"))?;
        let places: Vec<String> = rings.iter().map(|place| shown(place).to_string()).collect();
        store
            .borrow_mut()
            .write(&format!("{ROOT}/{RINGS}"), places.join(" ").as_bytes())
            .map_err(|error| error.to_string())?;
        say!(
            "this hypervisor has no FLASK: dom0 lends the agent guests, {LENT_AT_A_TIME} at a time, and could read them itself"
        );
    }
    let platform = Platform::new(&mut memory).map_err(|errno| format!("windows: {errno}"))?;
    let faults = platform.fault_ports();
    let mut config = options.config(mac, heap::free(), security);
    config.beside = (memory.total_pages() as usize * PAGE_SIZE).saturating_sub(config.memory);
    config.nic = Some(interface);
    banner(total, &platform.features(), origin, &config, mtu);
    if let Err(error) = platform.can_retain() {
        say!("NO GUEST MOVES as long as this is so: {error}");
    }

    let requests = Store::new(store.clone()).map_err(|error| error.to_string())?;
    let mut agent = Agent::new(platform, device, requests, config);
    let mut waker = Waker { store, nic, faults, ports: Vec::new() };
    loop {
        waker.clear();
        let wake = agent.poll();
        if waker.nic.poll(&mut waker.store.borrow_mut()) {
            agent.reappear();
            continue;
        }
        waker.sleep(wake);
    }
}

fn shown(place: &Place) -> Ring {
    Ring { reference: place.header.0, port: place.port.0 }
}

impl Waker {
    /// Forgets notifications; what they were about is looked at next.
    fn clear(&mut self) {
        self.gather_ports();
        for &port in &self.ports {
            event::take_pending(port);
        }
    }

    fn gather_ports(&mut self) {
        self.ports.clear();
        self.ports.push(self.store.borrow().port());
        self.ports.extend(self.nic.port());
        self.faults.for_each(|port| self.ports.push(port));
    }

    /// Sleeps until a port is notified or the agent wants to be polled.
    fn sleep(&mut self, wake: Wake) {
        // What came while something else was asked of xenstore, or while the backend was followed, rings no more.
        if self.store.borrow().has_news() {
            return;
        }
        // A session that began or ended meanwhile changed the ports.
        self.gather_ports();
        match wake {
            Wake::Now => {}
            Wake::AfterOthers => sched::give_way(),
            Wake::At(deadline) => event::wait(&self.ports, Some(deadline)),
            Wake::OnEvent => event::wait(&self.ports, None),
        }
    }
}

fn banner(memory_mib: u64, features: &Features, origin: Origin, config: &Config, mtu: u16) {
    say!(
        "version {} on Xen {XenRelease}, {memory_mib} MiB; {}; address {}, port {}, packets of up to {} bytes",
        env!("CARGO_PKG_VERSION"),
        features,
        ShownAddress(&config.address),
        config.port,
        config.mtu.unwrap_or(mtu),
    );
    if let Some(nic) = &config.nic {
        say!("network: {nic}");
    }
    match &config.security {
        Security::Sealed(identity) => say!(
            "sealed, key {}, {} peers; seals with {Code}; random numbers from {origin}",
            identity.public_key().fingerprint(),
            identity.peers().count()
        ),
        Security::Plain => say!("PLAIN: connections are neither encrypted nor authenticated, not for production"),
    }
}

struct ShownAddress<'a>(&'a Address);

impl fmt::Display for ShownAddress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Address::Dhcp => f.write_str("from DHCP"),
            Address::Static { address, prefix, .. } => write!(f, "{address}/{prefix}"),
        }
    }
}
