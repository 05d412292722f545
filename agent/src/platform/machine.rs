//! A guest's machine state: processors, clock, devices of the platform; all but its memory.

use alloc::vec::Vec;

use common::{Gfn, Rings};

use super::Result;

/// Saves the machine of a guest that leaves.
pub trait SaveMachine {
    /// What the target needs to build the guest before its memory arrives: CPU policy, HVM parameters.
    /// Opaque to the agent.
    fn config(&mut self) -> Result<Vec<u8>>;
    /// After the guest suspended: takes the agent's pause count, copies the last of the dirty log, and returns the machine
    /// state (TSC, HVM context), opaque to the agent. From here on a resume means "cancelled" to the guest.
    fn machine_state(&mut self, dirty: &mut [u64]) -> Result<Vec<u8>>;
    /// Valid after [`SaveMachine::machine_state`]: frames that the resuming kernel touches first, best guess, most urgent
    /// first, at most `limit`; among them everything the hypervisor itself touches on behalf of the guest.
    fn first_touched(&mut self, limit: usize) -> Result<Vec<Gfn>>;
}

/// Loads the machine of a guest that arrives.
pub trait LoadMachine {
    /// Builds what the source's [`SaveMachine::config`] describes: CPU policy, parameters, the special pages (allocated and
    /// zeroed), the grants that xenstore and the console need, the pager's ring where there is one.
    fn build(&mut self, config: &[u8]) -> Result<Rings>;
    /// Loads what [`SaveMachine::machine_state`] returned.
    fn load_state(&mut self, state: &[u8]) -> Result<()>;
}
