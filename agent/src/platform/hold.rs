//! Who may run a guest, and end it.

use common::Gfn;

use super::Result;

/// The hold on a guest that leaves.
///
/// Dropping it undoes whatever is undone easily: the dirty log goes off, the agent's pause count is given back.
/// It does *not* undo [`SourceHold::retain`]: after the commit only [`SourceHold::destroy`] ends the guest.
pub trait SourceHold {
    /// What a later life of the agent must know to adopt this guest, opaque to the agent. It may be another one once the guest is
    /// retained.
    fn memo(&self) -> u64;
    /// Whether this guest is retained: the commit has happened.
    fn is_retained(&self) -> bool;
    /// The commit: from here on nobody but the agent can run or destroy the guest on this host. Fails, and changes nothing,
    /// if the guest has not stood still since `SaveMachine::machine_state`.
    fn retain(&mut self) -> Result<()>;
    /// Gives the guest back: the dirty log goes off, the agent's pause count is returned, and a guest that has
    /// suspended is resumed and told that the suspend was cancelled. Valid at any time before [`SourceHold::retain`], also
    /// without `SaveMachine::machine_state`. After it, valid only when the target has said that the guest never ran
    /// there; it undoes the retaining first.
    fn give_back(&mut self) -> Result<()>;
    /// Clears and frees up to [`BATCH`](common::BATCH) pages, those of them that are there. Only valid after
    /// [`SourceHold::retain`], when nobody will want them any more.
    fn free(&mut self, gfns: &[Gfn]) -> Result<()>;
    /// Ends the guest and frees its memory. Only valid after [`SourceHold::retain`].
    fn destroy(&mut self) -> Result<()>;
}

/// The hold on a guest that arrives.
///
/// Dropping it before [`TargetHold::let_run`] gives back the pager and the pause count; the toolstack destroys the domain.
pub trait TargetHold {
    /// Gives back the agent's pause count: the guest runs as soon as the toolstack wants it to.
    fn let_run(&mut self) -> Result<()>;
    /// Whether the guest has run at all on this host. Also answers, and for good, when the domain is dying.
    fn has_run(&mut self) -> Result<bool>;
}
