//! What the agent asks of the machine under it.
//!
//! The image fulfils these traits with `xen-pv`, the simulator in `agent/tests` with plain memory and a virtual clock.
//! Nothing here names a hypercall: foreign mappings today and grant mappings tomorrow stand behind the same traits.

mod dirty_log;
mod hold;
mod machine;
mod memory;
mod pager;
mod store;

use common::time::Instant;
use common::{Backends, DomId, Features, Hold, PageSet};

use crate::error::PlatformError;

pub use dirty_log::DirtyLog;
pub use hold::{SourceHold, TargetHold};
pub use machine::{LoadMachine, SaveMachine};
pub use memory::{SourceMemory, TargetMemory};
pub use pager::Pager;
pub use store::Store;

/// Guests that may arrive at the same time: the platform has what each of them takes.
pub const ARRIVALS: usize = 6;

/// The result of an operation of the platform.
pub type Result<T> = core::result::Result<T, PlatformError>;

/// What a domain is, as far as a migration cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestInfo {
    /// The domain's UUID: the same at both ends of a migration.
    pub uuid: [u8; 16],
    /// Pages the domain owns now; at the source, those of them that [`SourceMemory::find_ram`] finds.
    pub pages: u64,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// Pages that are absent now; a migration of such a guest must wait.
    pub paged_pages: u64,
    /// It stopped for a suspend, as the toolstack asked.
    pub suspended: bool,
    /// It stopped for another reason: it crashed, shut down or wants to be rebooted.
    pub stopped: bool,
    /// Somebody holds it by a pause count.
    pub paused: bool,
    /// It uses hardware-assisted paging, which demand faults need.
    pub hap: bool,
}

/// The machine: opens guests, tells the time.
pub trait Platform {
    /// A guest that leaves this host.
    type Source: Source;
    /// A guest that arrives on this host.
    type Target: Target;

    /// The time; never runs backwards.
    fn now(&self) -> Instant;
    /// Fills `bytes` with entropy.
    fn random(&mut self, bytes: &mut [u8]);
    /// What the hypervisor can do.
    fn features(&self) -> Features;
    /// Opens a running guest for leaving; changes nothing about it.
    fn open_source(&mut self, domain: DomId) -> Result<Self::Source>;
    /// Opens a domain that the toolstack has created and whose memory is still empty.
    /// The agent's own pause count is taken: the guest cannot run before [`TargetHold::let_run`].
    fn open_target(&mut self, domain: DomId, backends: Backends) -> Result<Self::Target>;
    /// Opens a guest that an earlier life of this agent was sending away, and changes nothing about it yet: its dirty log
    /// may be on, it may be suspended and held by that life's pause count, and it may be retained
    /// ([`SourceHold::is_retained`]). [`SourceHold::give_back`] then undoes all of that, [`SourceMemory::read`],
    /// [`SourceMemory::find_ram`] and [`SourceHold::destroy`] work as ever. `memo` is what [`SourceHold::memo`] gave that life;
    /// a domain with another `uuid` is refused.
    fn adopt_source(&mut self, domain: DomId, uuid: [u8; 16], memo: u64) -> Result<Self::Source>;
    /// Opens a guest that an earlier life of this agent was filling, and takes over its faults; gives the frames that are
    /// still absent, too. Whoever waits already for one of them shows as a [`Fault`](common::Fault) again. A domain with
    /// another `uuid` is refused, untouched. That life had made none absent at or beyond `frames`, which is as far as the set
    /// reaches. Takes no more memory than that set and what the target keeps.
    fn adopt_target(
        &mut self,
        domain: DomId,
        uuid: [u8; 16],
        hold: Hold,
        frames: u64,
    ) -> Result<(Self::Target, PageSet)>;
    /// Whether the hypervisor will hold a guest that is retained: nobody but an agent may run or destroy it. An error says
    /// why not.
    fn can_retain(&self) -> Result<()>;
    /// Whether the guest in `domain` has run on this host; one that is still being filled has not. Also answers for a
    /// domain that is dying, as long as a session has it.
    fn has_run(&self, domain: DomId) -> Result<bool>;
    /// Ends a guest that is retained, by whatever life of an agent, and frees its memory. Any other domain is refused.
    fn discard(&mut self, domain: DomId) -> Result<()>;
}

/// A guest at either end.
pub trait Guest {
    /// What the guest is now.
    fn info(&mut self) -> Result<GuestInfo>;
}

/// A guest that leaves: one provider for each thing that is asked of it. A stage takes no more of them than it needs; whether
/// the guest runs, and where, is the session's alone ([`SourceHold`], [`TargetHold`]).
pub trait Source: SourceMemory + DirtyLog + SaveMachine + SourceHold {}

impl<T: SourceMemory + DirtyLog + SaveMachine + SourceHold> Source for T {}

/// A guest that arrives.
pub trait Target: TargetMemory + Pager + LoadMachine + TargetHold {}

impl<T: TargetMemory + Pager + LoadMachine + TargetHold> Target for T {}
