//! The version of the interface, and how it is found.

use core::ops::RangeInclusive;

use common::DomId;

use super::{Domctl, GETTSCINFO, TscInfo};

/// `XEN_DOMCTL_INTERFACE_VERSION` of Xen 4.17 to 4.22: 0x15, 0x16 from 4.18 on, 0x17 from 4.19 on, 0x18 from 4.22 on. What stands here is
/// the same in all of them. A hypervisor answers `-EACCES` to another one than its own, whatever the policy says.
pub const INTERFACE_VERSIONS: RangeInclusive<u32> = 0x15..=0x18;

/// A domain number that no domain has: an operation on it that exists says "no such domain".
pub const NOBODY: DomId = DomId(0x7fef);

/// A question that changes nothing, by which the hypervisor's version is found: the right one is answered with `-ESRCH`. Xen looks at the
/// version before it looks for the domain, and only then at what the caller may do (`do_domctl`).
pub fn version_question(version: u32) -> Domctl<TscInfo> {
    Domctl::new(version, GETTSCINFO, NOBODY, TscInfo::default())
}
