//! Yields the processor, or shuts the domain down.

use xen_abi::sched::{SCHEDOP_SHUTDOWN, SCHEDOP_YIELD, SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, Shutdown};

use crate::hypercall;

/// Why the domain stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is done.
    Poweroff,
    /// It failed.
    Crash,
}

/// Stops the domain.
pub fn shutdown(reason: Reason) -> ! {
    let reason = match reason {
        Reason::Poweroff => SHUTDOWN_POWEROFF,
        Reason::Crash => SHUTDOWN_CRASH,
    };
    loop {
        // SAFETY: SHUTDOWN takes this structure and touches nothing else.
        let _ = unsafe { hypercall::sched_op(SCHEDOP_SHUTDOWN, &mut Shutdown { reason }) };
    }
}

/// Lets whoever else waits for this processor go first, once.
pub fn give_way() {
    // SAFETY: this operation takes no structure.
    let _ = unsafe { hypercall::sched_op(SCHEDOP_YIELD, &mut ()) };
}
