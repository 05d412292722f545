//! What all rings that are shared with another domain have in common.

/// The other side's counter makes no sense: the ring is not to be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenRing;
