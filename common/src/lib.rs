//! The words that the parts of the image share, and dom0's tools with them. Nothing here calls anything.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bits;
pub mod control;
pub mod cost;
pub mod cursor;
mod guest;
pub mod hex;
mod identity;
mod key;
mod line;
mod page_mask;
mod page_set;
pub mod stream;
pub mod time;

pub use guest::{
    BATCH, Backends, Content, DomId, Fault, Features, Gfn, Hold, PAGE_SIZE, Page, Rings, Span, XenVersion,
};
pub use identity::{IdentityError, Keys};
pub use key::PublicKey;
pub use line::{Line, ParseError};
pub use page_mask::PageMask;
pub use page_set::PageSet;
