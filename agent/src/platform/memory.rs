//! Guests' memory.

use common::{Content, Gfn, Page, PageMask, Span};

use super::{Guest, Result};

/// The memory of a guest that leaves.
pub trait SourceMemory: Guest {
    /// Frames that the guest may have by now: its highest guest frame number in use, and one.
    fn frames(&mut self) -> Result<u64>;
    /// Sets bit `g` of `ram` (little-endian words, bit 0 of word 0 is guest frame 0) for every frame of `span` that holds RAM
    /// to migrate; clears it for the others. Special pages that `LoadMachine::build` makes on the other side and that need no
    /// content are not RAM to migrate.
    fn find_ram(&mut self, span: Span, ram: &mut [u64]) -> Result<()>;
    /// Whether the policy keeps dom0 from reading it.
    fn is_private(&mut self) -> Result<bool>;
    /// Whether all of up to [`BATCH`](common::BATCH) frames hold RAM.
    fn are_ram(&mut self, gfns: &[Gfn]) -> Result<bool>;
    /// Copies up to [`BATCH`](common::BATCH) pages out of the guest; the mask says which could be read.
    fn read(&mut self, gfns: &[Gfn], into: &mut [Page]) -> Result<PageMask>;
    /// Whether this page's content shows that the hypervisor maps it when the guest resumes: such a page must be
    /// at the target before the guest runs.
    fn is_pinned(&self, page: &Page) -> bool;
}

/// The memory of a guest that arrives.
pub trait TargetMemory: Guest {
    /// Allocates the frames of a span. Frames that exist already, because `LoadMachine::build` made them, are left as they are.
    fn populate(&mut self, span: Span) -> Result<()>;
    /// Clears up to [`BATCH`](common::BATCH) populated frames and takes them away again, armed or not. Only valid before
    /// `TargetHold::let_run`.
    fn free(&mut self, gfns: &[Gfn]) -> Result<()>;
    /// Writes up to [`BATCH`](common::BATCH) populated pages that are not armed, or armed and not faulted on; the mask says
    /// which were written.
    fn write(&mut self, pages: &[(Gfn, Content<'_>)]) -> Result<PageMask>;
    /// Copies up to [`BATCH`](common::BATCH) pages out that are present; the mask says which could be read.
    fn read(&mut self, gfns: &[Gfn], into: &mut [Page]) -> Result<PageMask>;
}
