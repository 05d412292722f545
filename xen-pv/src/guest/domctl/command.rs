//! The commands of the domctl interface. Only this table makes them: none goes with another's structure or version.

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, Ordering};

use common::DomId;
use xen_abi::Errno;
use xen_abi::domctl::{
    self as abi, CpuPolicy, Domctl, GetDomainInfo, GetPageFrameInfo3, HvmContext, Plain, ShadowOp, TscInfo,
    VcpuContext, VmEventOp,
};

use crate::guest::call;
use crate::hypercall;

/// A command: its number, and the structure that it takes and gives back.
#[derive(Clone, Copy)]
pub struct Command<T>(u32, PhantomData<T>);

pub const DESTROYDOMAIN: Command<()> = Command::new(abi::DESTROYDOMAIN);
pub const PAUSEDOMAIN: Command<()> = Command::new(abi::PAUSEDOMAIN);
pub const UNPAUSEDOMAIN: Command<()> = Command::new(abi::UNPAUSEDOMAIN);
pub const RESUMEDOMAIN: Command<()> = Command::new(abi::RESUMEDOMAIN);
pub const GETDOMAININFO: Command<GetDomainInfo> = Command::new(abi::GETDOMAININFO);
pub const GETPAGEFRAMEINFO3: Command<GetPageFrameInfo3> = Command::new(abi::GETPAGEFRAMEINFO3);
pub const SHADOW_OP: Command<ShadowOp> = Command::new(abi::SHADOW_OP);
pub const GETVCPUCONTEXT: Command<VcpuContext> = Command::new(abi::GETVCPUCONTEXT);
pub const SETVCPUCONTEXT: Command<VcpuContext> = Command::new(abi::SETVCPUCONTEXT);
pub const GETHVMCONTEXT: Command<HvmContext> = Command::new(abi::GETHVMCONTEXT);
pub const SETHVMCONTEXT: Command<HvmContext> = Command::new(abi::SETHVMCONTEXT);
pub const GETTSCINFO: Command<TscInfo> = Command::new(abi::GETTSCINFO);
pub const SETTSCINFO: Command<TscInfo> = Command::new(abi::SETTSCINFO);
pub const GET_CPU_POLICY: Command<CpuPolicy> = Command::new(abi::GET_CPU_POLICY);
pub const SET_CPU_POLICY: Command<CpuPolicy> = Command::new(abi::SET_CPU_POLICY);
pub const VM_EVENT_OP: Command<VmEventOp> = Command::new(abi::VM_EVENT_OP);

impl<T: Plain> Command<T> {
    const fn new(number: u32) -> Self {
        Self(number, PhantomData)
    }

    /// The command as the hypervisor takes it.
    pub fn on(self, domain: DomId, structure: T) -> Domctl<T> {
        let Self(cmd, _) = self;
        Domctl::new(VERSION.load(Ordering::Relaxed), cmd, domain, structure)
    }

    /// Does it: `structure` goes in, what Xen left in its place comes out.
    ///
    /// # Safety
    /// Pointers in `structure` must be valid for what the command reads and writes through them.
    pub unsafe fn call(self, domain: DomId, mut structure: T) -> Result<T, Errno> {
        // SAFETY: the caller's promise.
        unsafe { self.call_on(domain, &mut structure) }?;
        Ok(structure)
    }

    /// The same with a structure in which Xen may say what was wrong.
    ///
    /// # Safety
    /// As for [`Command::call`].
    pub unsafe fn call_on(self, domain: DomId, structure: &mut T) -> Result<(), Errno> {
        let mut domctl = self.on(domain, *structure);
        // SAFETY: a complete domctl; its pointers are the caller's promise.
        let outcome = unsafe { call::domctl(domctl.cmd, domain, &mut domctl) };
        *structure = domctl.u.structure();
        outcome.map(drop)
    }
}

pub use abi::NOBODY;

/// The version of the interface, once it is found.
static VERSION: AtomicU32 = AtomicU32::new(*abi::INTERFACE_VERSIONS.start());

/// The hypervisor has another version of the interface than those that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownVersion(Option<u32>);

/// Finds the version of the hypervisor's interface, which all commands have from here on.
pub fn find_version() -> Result<u32, UnknownVersion> {
    let known = abi::INTERFACE_VERSIONS.clone().find(|&version| has_version(version));
    let version = known.ok_or_else(|| UnknownVersion((0..LAST_VERSION).find(|&version| has_version(version))))?;
    VERSION.store(version, Ordering::Relaxed);
    Ok(version)
}

/// Where the search for a name of an unknown version ends: Xen has counted to 23 in twenty years.
const LAST_VERSION: u32 = 256;

fn has_version(version: u32) -> bool {
    let mut question = abi::version_question(version);
    // SAFETY: a complete domctl without pointers, which changes nothing.
    let answer = unsafe { hypercall::domctl(&mut question) };
    answer == Err(Errno::ESRCH)
}

impl fmt::Display for UnknownVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(version) => write!(f, "this hypervisor's domctl interface has version {version:#x}")?,
            None => f.write_str("this hypervisor's domctl interface has no version that could be found")?,
        }
        let (first, last) = (abi::INTERFACE_VERSIONS.start(), abi::INTERFACE_VERSIONS.end());
        write!(f, "; the agent knows {first:#x} to {last:#x}, of Xen 4.17 to 4.22")
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;
    use crate::hypercall::fake;

    /// A hypervisor that has one version of the interface, if any.
    fn has(theirs: Option<u32>) {
        fake::stand_in(move |_, [domctl, ..]| {
            // SAFETY: the caller's structure.
            let domctl = unsafe { &*(domctl as *const Domctl<TscInfo>) };
            let errno = if Some(domctl.interface_version) == theirs { Errno::ESRCH } else { Errno::EACCES };
            -i64::from(errno.0)
        });
    }

    #[test]
    fn the_version_of_the_interface_is_found_and_another_one_is_named_beside_the_known_ones() {
        for version in abi::INTERFACE_VERSIONS {
            has(Some(version));
            assert_eq!(find_version(), Ok(version));
            assert_eq!(PAUSEDOMAIN.on(NOBODY, ()).interface_version, version);
        }
        has(Some(0x19));
        let said = find_version().expect_err("another version").to_string();
        assert!(said.contains("version 0x19;") && said.contains("knows 0x15 to 0x18"), "{said}");
        has(None);
        assert_eq!(find_version(), Err(UnknownVersion(None)));
    }
}
