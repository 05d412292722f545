//! Pages that come when they are touched.

use common::{Content, Fault, Gfn, PageMask};

use super::Result;

/// Serves the faults of a guest whose pages are still under way.
///
/// What it keeps of the pages that it has made absent takes no more memory than a [`PageSet`](common::PageSet): the agent
/// has that reserved.
pub trait Pager {
    /// Whether faults can be served for this guest. Valid after `LoadMachine::build`.
    fn can_page(&self) -> bool;
    /// Makes up to [`BATCH`](common::BATCH) populated pages absent, so that a touch becomes a [`Fault`]; the mask says
    /// which are armed now. A page the hypervisor uses itself cannot be armed and must be written before the guest runs.
    fn arm(&mut self, gfns: &[Gfn]) -> Result<PageMask>;
    /// The next fault on a page that is armed, if there is one. Never waits. A fault on a page that has been filled
    /// meanwhile is answered by the platform itself and not returned; so is one on a page that was never armed.
    fn next_fault(&mut self) -> Result<Option<Fault>>;
    /// Writes up to [`BATCH`](common::BATCH) armed pages, makes them present and wakes whoever waits for them.
    /// A page that the guest replaced or dropped counts as done.
    fn fill(&mut self, pages: &[(Gfn, Content<'_>)]) -> Result<PageMask>;
    /// Ends paging for this guest; every page must be present.
    fn finish(&mut self) -> Result<()>;
}
