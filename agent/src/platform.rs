//! What the agent asks of the machine under it.
//!
//! The image fulfils these traits with `xen-pv`, the simulator in `agent/tests` with plain memory and a virtual clock.
//! Nothing here names a hypercall: foreign mappings today and grant mappings tomorrow stand behind the same traits.

use alloc::string::String;
use alloc::vec::Vec;

use common::{Backends, Content, DomId, Fault, Features, Gfn, Hold, Page, PageMask, PageSet, Rings};

use crate::error::PlatformError;

/// Guests that may arrive at the same time: the platform has what each of them takes.
pub const ARRIVALS: usize = 6;

/// The result of an operation of the platform.
pub type Result<T> = core::result::Result<T, PlatformError>;

/// What a domain is, as far as a migration cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestInfo {
    /// The domain's UUID: the same at both ends of a migration.
    pub uuid: [u8; 16],
    /// Pages the domain owns now; at the source, those of them that [`Source::find_ram`] finds.
    pub pages: u64,
    /// Its highest guest frame number in use.
    pub max_gfn: u64,
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

    /// Nanoseconds since some fixed point; never runs backwards.
    fn now_ns(&self) -> u64;
    /// Fills `bytes` with entropy.
    fn random(&mut self, bytes: &mut [u8]);
    /// What the hypervisor can do.
    fn features(&self) -> Features;
    /// Opens a running guest for leaving; changes nothing about it.
    fn open_source(&mut self, domain: DomId) -> Result<Self::Source>;
    /// Opens a domain that the toolstack has created and whose memory is still empty.
    /// The agent's own pause count is taken: the guest cannot run before [`Target::release`].
    fn open_target(&mut self, domain: DomId, backends: Backends) -> Result<Self::Target>;
    /// Opens a guest that an earlier life of this agent was sending away, and changes nothing about it yet: its dirty log may
    /// be on, it may be suspended and held by that life's pause count, and it may be retained ([`Source::is_retained`]).
    /// [`Source::release`] then undoes all of that, [`Source::read`], [`Source::find_ram`] and [`Source::destroy`] work as
    /// ever. `memo` is what [`Source::memo`] gave that life; a domain with another `uuid` is refused.
    fn adopt_source(&mut self, domain: DomId, uuid: [u8; 16], memo: u64) -> Result<Self::Source>;
    /// Opens a guest that an earlier life of this agent was filling, and takes over its faults; gives the frames that are
    /// still absent, too. Whoever waits already for one of them shows as a [`Fault`] again. `memo` is what [`Target::memo`]
    /// gave that life; a domain with another `uuid` is refused, untouched. That life had made none absent at or beyond `frames`,
    /// which is as far as the set reaches. Takes no more memory than that set and what the target keeps.
    fn adopt_target(
        &mut self,
        domain: DomId,
        uuid: [u8; 16],
        memo: u64,
        hold: Hold,
        frames: u64,
    ) -> Result<(Self::Target, PageSet)>;
    /// Whether the hypervisor will hold a guest that is retained: nobody but an agent may run or destroy it. An error says why not.
    fn can_retain(&self) -> Result<()>;
    /// Whether the guest in `domain` has run on this host; one that is still being filled has not. Also answers for a domain that
    /// is dying, as long as a session has it.
    fn has_run(&self, domain: DomId) -> Result<bool>;
    /// Ends a guest that is retained, by whatever life of an agent, and frees its memory. Any other domain is refused.
    fn discard(&mut self, domain: DomId) -> Result<()>;
}

/// The source's end of one guest.
///
/// Dropping it undoes whatever is undone easily: the dirty log goes off, the agent's pause count is given back.
/// It does *not* undo [`Source::retain`]: after the commit only [`Source::destroy`] ends the guest.
pub trait Source {
    /// What the guest is now.
    fn info(&mut self) -> Result<GuestInfo>;
    /// What a later life of the agent must know to adopt this guest. Opaque to the agent; valid from the beginning.
    fn memo(&self) -> u64;
    /// Whether this guest is retained: the commit has happened.
    fn is_retained(&self) -> bool;
    /// What the target needs to build the guest's frame before memory arrives: CPU policy, HVM parameters.
    /// Opaque to the agent.
    fn frame(&mut self) -> Result<Vec<u8>>;
    /// Sets bit `g` of `ram` (little-endian words, bit 0 of word 0 is guest frame 0) for every frame in
    /// `first .. first + count` that holds RAM to migrate; clears it for the others. Special pages that
    /// [`Target::build`] makes on the other side and that need no content are not RAM to migrate.
    fn find_ram(&mut self, first: Gfn, count: u64, ram: &mut [u64]) -> Result<()>;
    /// Whether all of up to [`BATCH`] frames hold RAM.
    fn are_ram(&mut self, gfns: &[Gfn]) -> Result<bool>;
    /// Copies up to [`BATCH`] pages out of the guest; the mask says which could be read.
    fn read(&mut self, gfns: &[Gfn], into: &mut [Page]) -> Result<PageMask>;
    /// Turns the dirty log on; from here on every write is recorded, until [`Source::release`] or drop.
    fn log_on(&mut self) -> Result<()>;
    /// Which of up to [`BATCH`] pages are RAM of which the next write will be recorded. The log alone does not tell: pages
    /// that the guest has been given since it was turned on or cleaned are written to unrecorded until it is cleaned.
    fn protected(&mut self, gfns: &[Gfn]) -> Result<PageMask>;
    /// Copies the dirty log, one bit a frame as in [`Source::find_ram`], without clearing it. Takes as long as `dirty` is.
    fn peek(&mut self, dirty: &mut [u64]) -> Result<()>;
    /// Copies the dirty log and clears it. Dear: a handful per migration.
    fn clean(&mut self, dirty: &mut [u64]) -> Result<()>;
    /// After the guest suspended: takes the agent's pause count, copies the last of the dirty log, and
    /// returns the machine state (TSC, HVM context), opaque to the agent. From here on a resume means "cancelled" to the guest.
    fn machine_state(&mut self, dirty: &mut [u64]) -> Result<Vec<u8>>;
    /// Whether this page's content shows that the hypervisor maps it when the guest resumes: such a page must be
    /// at the target before the guest runs.
    fn is_pinned(&self, page: &Page) -> bool;
    /// Valid after [`Source::machine_state`]: frames that the resuming kernel touches first, best guess, most urgent
    /// first, at most `limit`; among them everything the hypervisor itself touches on behalf of the guest.
    fn first_touched(&mut self, limit: usize) -> Result<Vec<Gfn>>;
    /// The commit: from here on nobody but the agent can run or destroy the guest on this host. Fails, and changes nothing, if the
    /// guest has not stood still since [`Source::machine_state`].
    fn retain(&mut self) -> Result<()>;
    /// Gives the guest back: the dirty log goes off, the agent's pause count is returned, and a guest that has
    /// suspended is resumed and told that the suspend was cancelled. Valid at any time before [`Source::retain`], also
    /// without [`Source::machine_state`]. After it, valid only when the target has said that the guest never ran
    /// there; it undoes the retaining first.
    fn release(&mut self) -> Result<()>;
    /// Clears and frees up to [`BATCH`] pages, those of them that are there. Only valid after [`Source::retain`], when
    /// nobody will want them any more.
    fn free(&mut self, gfns: &[Gfn]) -> Result<()>;
    /// Ends the guest and frees its memory. Only valid after [`Source::retain`].
    fn destroy(&mut self) -> Result<()>;
}

/// The target's end of one guest.
///
/// Dropping it before [`Target::release`] gives back the pager and the pause count; the toolstack destroys the domain.
///
/// What it keeps of the pages that it has made absent takes no more memory than a [`PageSet`]: the agent has that reserved.
pub trait Target {
    /// What the domain is now.
    fn info(&mut self) -> Result<GuestInfo>;
    /// What a later life of the agent must know to adopt this guest. Opaque to the agent; valid after [`Target::build`].
    fn memo(&self) -> u64;
    /// Builds what the source's [`Source::frame`] describes: CPU policy, parameters, the special pages (allocated and
    /// zeroed), the grants that xenstore and the console need, the pager's ring where there is one.
    fn build(&mut self, frame: &[u8]) -> Result<Rings>;
    /// Whether faults can be served for this guest. Valid after [`Target::build`].
    fn can_page(&self) -> bool;
    /// Allocates the frames `first .. first + (1 << order)`; `order` is 0 or 9. Frames that exist already, because
    /// [`Target::build`] made them, are left as they are. An order of 9 may fail where one of 0 would not.
    fn populate(&mut self, first: Gfn, order: u8) -> Result<()>;
    /// Clears up to [`BATCH`] populated frames and takes them away again, armed or not. Only valid before [`Target::release`].
    fn free(&mut self, gfns: &[Gfn]) -> Result<()>;
    /// Writes up to [`BATCH`] populated pages that are not armed, or armed and not faulted on; the mask says which were written.
    fn write(&mut self, pages: &[(Gfn, Content<'_>)]) -> Result<PageMask>;
    /// Copies up to [`BATCH`] pages out that are present; the mask says which could be read.
    fn read(&mut self, gfns: &[Gfn], into: &mut [Page]) -> Result<PageMask>;
    /// Makes up to [`BATCH`] populated pages absent, so that a touch becomes a [`Fault`]; the mask says which are armed now.
    /// A page the hypervisor uses itself cannot be armed and must be written before the guest runs.
    fn arm(&mut self, gfns: &[Gfn]) -> Result<PageMask>;
    /// The next fault on a page that is armed, if there is one. Never waits. A fault on a page that has been filled
    /// meanwhile is answered by the platform itself and not returned; so is one on a page that was never armed.
    fn next_fault(&mut self) -> Result<Option<Fault>>;
    /// Writes up to [`BATCH`] armed pages, makes them present and wakes whoever waits for them.
    /// A page that the guest replaced or dropped counts as done.
    fn fill(&mut self, pages: &[(Gfn, Content<'_>)]) -> Result<PageMask>;
    /// Loads what [`Source::machine_state`] returned.
    fn load_state(&mut self, state: &[u8]) -> Result<()>;
    /// Gives back the agent's pause count: the guest runs as soon as the toolstack wants it to.
    fn release(&mut self) -> Result<()>;
    /// Whether the guest has run at all on this host. Also answers, and for good, when the domain is dying.
    fn has_run(&mut self) -> Result<bool>;
    /// Ends paging for this guest; every page must be present.
    fn finish(&mut self) -> Result<()>;
}

/// A name space shared with the toolstack: xenstore. All paths, those returned too, are relative to
/// [`control::ROOT`](common::control::ROOT) in the home of the agent's domain: `request/out-5/suspended`.
pub trait Store {
    /// The names below `path`. Waits for the answer: only for the agent's beginning, when no guest is in its hands.
    fn list(&mut self, path: &str) -> Vec<String>;
    /// Sets `path`; does not wait.
    fn write(&mut self, path: &str, value: &str);
    /// Removes `path` and all below it; does not wait.
    fn remove(&mut self, path: &str);
    /// The next path below `request` that changed since the last call, and the value that it has now. A path that is gone is
    /// left out. Never waits.
    fn next_change(&mut self) -> Option<(String, Vec<u8>)>;
}
