//! Why an agent will not move a guest.

use thiserror::Error;

use super::VersionMismatch;

/// Why this agent will not move this guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Pages of it are still elsewhere.
    #[error("pages of the guest have not arrived here from an earlier migration")]
    PagedOut,
    /// Another session has it in hand.
    #[error("an earlier migration of the guest has not ended here; see 'tsmc status'")]
    InHand,
    /// The other agent has as many sessions here as one may have.
    #[error("the other host's agent has as many migrations with this one as one host may have")]
    ManySessions,
    /// This agent's memory will never hold what it would have to know of it.
    #[error(
        "the memory of this host's agent is too small for a guest of this size: memory = {memory_mib} in its xl.cfg would do"
    )]
    NeverFits {
        /// The domain's memory that would do, in MiB.
        memory_mib: u64,
    },
    /// It does not hold what has come to be known of it meanwhile.
    #[error("the agent has too little memory left for what the guest has grown to")]
    NoMemory,
    /// A session may have twice the memory that it was let in with.
    #[error("the guest is more than twice as large as it was when its migration began; try again")]
    Outgrown,
    /// It does not hold the digests that verifying takes.
    #[error("the agent has too little memory left to verify a guest of this size; migrate without")]
    NoMemoryToVerify,
    /// The toolstack said that it could not suspend it.
    #[error("the guest did not suspend")]
    NotSuspended,
    /// It crashed, shut down or rebooted by itself.
    #[error("the guest crashed, shut down or rebooted before it had left")]
    Stopped,
    /// Somebody has paused it.
    #[error("the guest is paused, and cannot suspend: 'xl unpause' it first, unless it is being destroyed")]
    Paused,
    /// What it has dirtied would take too long to send while it stands still.
    #[error(
        "the guest would stand still for some {would_ms} ms until the {pages} pages that it has dirtied are there, and {most_ms} ms are \
         allowed: let it write less, or allow more"
    )]
    TooDirty {
        /// Dirty pages after the last round.
        pages: u64,
        /// What they would take.
        would_ms: u64,
        /// What is allowed.
        most_ms: u64,
    },
    /// It does not exist, or no more.
    #[error("the guest is gone")]
    Gone,
    /// What was kept of a guest that has left was destroyed before the target had all of it.
    #[error("what was kept of the guest is gone: somebody destroyed it before the other host had all of it")]
    Lost,
    /// An operator says that the target will never get the rest of it.
    #[error("an operator has discarded what was kept of the guest")]
    Discarded,
    /// It was to be withdrawn, and has run.
    #[error("the guest has run here")]
    HasRun,
    /// Pages of it cannot be read.
    #[error("pages of the guest cannot be read")]
    Unreadable,
    /// A page of it cannot be written.
    #[error("pages of the guest cannot be written")]
    Unwritable,
    /// A page would have been sent a third time.
    #[error("internal error: a page was about to be sent a third time")]
    ThirdSend,
    /// dom0 here cannot read it, and the other host's could.
    #[error(
        "dom0 of the other host could read this guest, as the policy here forbids dom0: that host's hypervisor has no security \
         policy (FLASK)"
    )]
    Exposed,
    /// The other agent's key is not in this one's list.
    #[error("the other host's agent has a key that is not in this agent's list")]
    UnknownPeer,
    /// The other agent is of another version.
    #[error("{0}")]
    Version(VersionMismatch),
    /// Two agents have called for the guest.
    #[error("two hosts' agents have called for this guest, and only one can be meant")]
    Contested,
    /// The other agent's connections are plain, this one's are sealed.
    #[error("the other host's agent does not encrypt ('plain'), and this one does")]
    PeerIsPlain,
    /// The other agent's connections are sealed, this one's are plain.
    #[error("the other host's agent encrypts, and this one does not ('plain')")]
    PeerIsSealed,
    /// The other agent sends another guest than the toolstack expects here.
    #[error("the other host's agent sends another guest than the one that is expected here")]
    OtherGuest,
    /// The domain that was to be filled is gone before the guest could run in it.
    #[error("the domain on the other host is gone")]
    GoneThere,
    /// The agent was restarted in the middle.
    #[error("the agent was restarted")]
    Restarted,
    /// The same, and the guest had not left.
    #[error("the guest has not left: it runs here")]
    NotLeft,
    /// The commit was undone: the target's copy had never run.
    #[error("the guest never ran on the other host; it is back")]
    Revoked,
    /// The note of an earlier life is not from this agent, or was changed.
    #[error("the note was not written by an agent with this agent's key, or it was changed")]
    Note,
    /// The domain is gone, and nobody knows whether the guest ran in it.
    #[error("the domain is gone, and it is not known whether the guest ran in it: the other host keeps its copy")]
    Unknown,
}
