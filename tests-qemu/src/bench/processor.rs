//! Who uses a host's processor while a guest migrates: samples of its registers, each attributed to agent, dom0, guest or Xen.

use std::collections::HashSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::monitor::Registers;

/// Where the agent's image lies (`boot/image.ld`).
const AGENT: Range<u64> = 0x4000_0000..0x5000_0000;
/// Kernels have the upper half, programs the lower.
const UPPER_HALF: u64 = 1 << 63;
/// The code segment of Xen (`__HYPERVISOR_CS`), and that of a kernel that is not paravirtual.
const XEN_CS: u64 = 0xe008;
const GUEST_KERNEL_CS: u64 = 0x10;

/// Who has a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The agent.
    Agent,
    /// The hypervisor, for the agent.
    XenForAgent,
    /// dom0's kernel.
    Dom0Kernel,
    /// dom0's programs.
    Dom0Programs,
    /// The hypervisor, for dom0.
    XenForDom0,
    /// The guest.
    Guest,
    /// The hypervisor, for the guest; and its scheduler.
    XenForGuest,
    /// Nobody.
    Nobody,
}

impl User {
    /// All, with what the report calls them.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Agent, "agent"),
        (Self::XenForAgent, "Xen for it"),
        (Self::Dom0Kernel, "dom0's kernel"),
        (Self::Dom0Programs, "its programs"),
        (Self::XenForDom0, "Xen for it"),
        (Self::Guest, "guest"),
        (Self::XenForGuest, "Xen for it"),
        (Self::Nobody, "nobody"),
    ];
}

/// One host's processor: seconds since the migration began, and what it was at then.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Looks(pub Vec<(f64, Registers)>);

impl Looks {
    /// Who had it, at each look. The address space tells for whom Xen works, and which Linux a program belongs to.
    pub fn users(&self) -> Vec<(f64, User)> {
        let spaces = |of: fn(&Registers) -> bool| -> HashSet<u64> {
            self.0.iter().filter(|(_, registers)| of(registers)).map(|(_, registers)| registers.cr3).collect()
        };
        let agent = spaces(|registers| AGENT.contains(&registers.rip));
        let guest = spaces(|registers| registers.cs == GUEST_KERNEL_CS);
        let dom0 = spaces(|registers| ![XEN_CS, GUEST_KERNEL_CS].contains(&registers.cs));
        let user = |registers: &Registers| match registers {
            Registers { halted: true, .. } => User::Nobody,
            Registers { cs: XEN_CS, cr3, .. } if agent.contains(cr3) => User::XenForAgent,
            Registers { cs: XEN_CS, cr3, .. } if dom0.contains(cr3) => User::XenForDom0,
            Registers { cs: XEN_CS, .. } => User::XenForGuest,
            Registers { rip, .. } if AGENT.contains(rip) => User::Agent,
            Registers { cs: GUEST_KERNEL_CS, .. } => User::Guest,
            Registers { rip: UPPER_HALF.., .. } => User::Dom0Kernel,
            Registers { cr3, .. } if guest.contains(cr3) => User::Guest,
            _ => User::Dom0Programs,
        };
        self.0.iter().map(|(at, registers)| (*at, user(registers))).collect()
    }
}

/// Seconds that each of [`User::ALL`] had the processor from `from` to `to`.
pub fn seconds(users: &[(f64, User)], from: f64, to: f64) -> [f64; User::ALL.len()] {
    let within: Vec<User> = users.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, user)| *user).collect();
    User::ALL.map(|(user, _)| {
        let count = within.iter().filter(|other| **other == user).count();
        count as f64 / within.len().max(1) as f64 * (to - from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_space_tells_for_whom_xen_works() {
        let at = |rip, cs, cr3| Registers { rip, cs, cr3, halted: false };
        let looks = [
            at(0x4000_1000, 0xe033, 1),
            at(1 << 47, XEN_CS, 1),
            at(u64::MAX, 0xe033, 2),
            at(1 << 47, XEN_CS, 2),
            at(u64::MAX, GUEST_KERNEL_CS, 3),
            at(0x7f00_0000_0000, 0x33, 3),
            at(0x7f00_0000_0000, 0x33, 4),
            at(1 << 47, XEN_CS, 5),
            Registers { halted: true, ..at(1 << 47, XEN_CS, 2) },
        ];
        let looks = Looks(looks.into_iter().enumerate().map(|(index, look)| (index as f64, look)).collect());
        let users = looks.users();
        let expected = [
            User::Agent,
            User::XenForAgent,
            User::Dom0Kernel,
            User::XenForDom0,
            User::Guest,
            User::Guest,
            User::Dom0Programs,
            User::XenForGuest,
            User::Nobody,
        ];
        assert!(users.iter().map(|(_, user)| *user).eq(expected));
        assert_eq!(seconds(&users, 0.0, 2.0)[..3], [1.0, 1.0, 0.0]);
        assert_eq!(seconds(&users, 20.0, 30.0), [0.0; 8]);
    }
}
