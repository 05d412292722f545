//! What is the same of every ring that is shared with somebody else.

/// The other side's counter makes no sense: the ring is not to be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenRing;
