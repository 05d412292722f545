//! Why an operation on a guest failed, and which permission of the security policy it needs.

use common::XenVersion;
use xen_abi::Errno;

use super::cpu_policy::Lacking;

/// An operation on a guest that the hypervisor refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The hypervisor said no.
    #[error("{} failed: {errno}", .operation.name())]
    Xen {
        /// To what.
        operation: Operation,
        /// With which error.
        errno: Errno,
    },
    /// The domain is dying: the hypervisor pretends to do what it is asked.
    #[error("the domain is dying")]
    Dying,
    /// The guest was told of a feature that this host does not give it.
    #[error("this host cannot give the guest {} ({} {:#x})", .0.name, .0.part_of, .0.index)]
    Lacks(Lacking),
    /// A newer hypervisor's records may not load in an older one.
    #[error("this host has Xen {ours}, and the guest runs on {theirs}")]
    OlderXen {
        /// This host's.
        ours: XenVersion,
        /// The other host's.
        theirs: XenVersion,
    },
    /// What the other host sent does not fit this domain or this hypervisor.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// This guest, or this moment, does not allow it; the reason is a sentence.
    #[error("{0}")]
    Refused(&'static str),
}

/// The result of an operation on a guest.
pub type Result<T = ()> = core::result::Result<T, Error>;

/// One kind of access to a guest, as fine as the security policy tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Asking whether the policy is enforced, and what it allows.
    AskPolicy,
    /// Asking what the domain is.
    Info,
    /// Asking for its highest frame number.
    MaxGfn,
    /// Asking which frame numbers hold RAM.
    FrameTypes,
    /// Mapping its memory for reading.
    MapRead,
    /// Mapping its memory for writing.
    MapWrite,
    /// Asking the broker for grants of its pages.
    Lend,
    /// Copying its pages by grant.
    CopyGranted,
    /// Turning the dirty log on or reading it.
    DirtyLog,
    /// Turning the dirty log off.
    DirtyLogOff,
    /// Pausing.
    Pause,
    /// Unpausing.
    Unpause,
    /// Resuming after a suspend.
    Resume,
    /// Destroying.
    Destroy,
    /// Reading registers of a virtual CPU.
    GetVcpu,
    /// Changing registers of a virtual CPU.
    SetVcpu,
    /// Reading the HVM context.
    GetHvmContext,
    /// Loading the HVM context.
    SetHvmContext,
    /// Reading an HVM parameter.
    GetParam,
    /// Setting an HVM parameter.
    SetParam,
    /// Reading the CPU policy.
    GetCpuPolicy,
    /// Setting the CPU policy.
    SetCpuPolicy,
    /// Reading the TSC mode.
    GetTsc,
    /// Setting the TSC mode.
    SetTsc,
    /// Allocating or freeing its frames.
    Populate,
    /// Claiming memory for it.
    Claim,
    /// Asking how long its grant table is.
    GrantTableSize,
    /// Reaching its grant table.
    GrantTable,
    /// Setting up or taking down the pager's ring.
    PagerRing,
    /// Connecting to the event channel of the pager's ring.
    PagerChannel,
    /// Making pages absent or present.
    Paging,
    /// Changing the type of its pages.
    MemoryType,
    /// Asking for the type of its pages.
    GetMemoryType,
    /// Looking up a label.
    FindLabel,
    /// Changing its label.
    Relabel,
}

impl Operation {
    /// What is done, for a sentence.
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// The class and permission that a FLASK policy must give for it (`xen/xsm/flask/hooks.c`).
    pub fn permission(self) -> &'static str {
        self.facts().1
    }

    fn facts(self) -> (&'static str, &'static str) {
        match self {
            Self::Info => ("reading the domain's state", "domain { getdomaininfo }"),
            Self::MaxGfn => ("reading the domain's size", "mmu { stat }"),
            Self::FrameTypes => ("finding the guest's RAM", "mmu { pageinfo }"),
            Self::MapRead => ("reading guest memory", "mmu { map_read }"),
            Self::MapWrite => ("writing guest memory", "mmu { map_read map_write }"),
            Self::Lend => ("borrowing the guest's pages from dom0", "grant { map_write }"),
            Self::CopyGranted => ("copying guest memory", "grant { copy }"),
            Self::DirtyLog => ("the dirty log", "shadow { logdirty }"),
            Self::DirtyLogOff => ("turning the dirty log off", "shadow { disable }"),
            Self::Pause => ("pausing the guest", "domain { pause }"),
            Self::Unpause => ("unpausing the guest", "domain { unpause }"),
            Self::Resume => ("resuming the guest", "domain { resume }"),
            Self::Destroy => ("destroying the guest", "domain { destroy }"),
            Self::GetVcpu => ("reading vCPU registers", "domain { getvcpucontext }"),
            Self::SetVcpu => ("changing vCPU registers", "domain { setvcpucontext }"),
            Self::GetHvmContext => ("reading the HVM context", "hvm { gethvmc }"),
            Self::SetHvmContext => ("loading the HVM context", "hvm { sethvmc }"),
            Self::GetParam => ("reading an HVM parameter", "hvm { getparam }"),
            Self::SetParam => ("setting an HVM parameter", "hvm { setparam }"),
            Self::GetCpuPolicy => ("reading the CPU policy", "domain2 { get_cpu_policy }"),
            Self::SetCpuPolicy => ("setting the CPU policy", "domain2 { set_cpu_policy }"),
            Self::GetTsc => ("reading the TSC mode", "domain2 { gettsc }"),
            Self::SetTsc => ("setting the TSC mode", "domain2 { settsc }"),
            Self::Populate => ("allocating guest memory", "mmu { adjust }"),
            Self::Claim => ("reserving the guest's memory", "domain2 { setclaim }"),
            Self::GrantTableSize => ("reading the size of the grant table", "grant { query }"),
            Self::GrantTable => ("reaching the grant table", "domain2 { resource_map }"),
            Self::PagerRing => ("demand paging", "domain2 { vm_event }"),
            Self::PagerChannel => ("the pager's event channel", "event { create } and { bind } on both channel types"),
            Self::Paging => ("making pages absent", "domain2 { mem_paging }"),
            Self::MemoryType => ("completing pages", "hvm { dm }"),
            Self::GetMemoryType => ("finding absent pages", "hvm { hvmctl }"),
            Self::AskPolicy => ("asking what the policy allows", "security { compute_av }"),
            Self::FindLabel => ("looking up a label", "security { check_context }"),
            Self::Relabel => ("relabelling the guest", "domain2 { relabelfrom relabelto }, domain { transition }"),
        }
    }

    /// Turns a failed hypercall into an [`Error`].
    pub(super) fn error(self, errno: Errno) -> Error {
        Error::Xen { operation: self, errno }
    }
}
