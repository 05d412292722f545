//! Scheduling of the calling virtual CPU (`sched.h`).

/// Lets others go first.
pub const SCHEDOP_YIELD: u32 = 0;
/// Stops the domain.
pub const SCHEDOP_SHUTDOWN: u32 = 2;
/// Waits for an event or a time.
pub const SCHEDOP_POLL: u32 = 3;

/// Most ports that one [`Poll`] takes.
pub const POLL_PORTS: usize = 128;

/// `struct sched_poll`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Poll {
    /// Array of ports (`u32`).
    pub ports: *const u32,
    /// Its length, at most [`POLL_PORTS`].
    pub nr_ports: u32,
    /// System time to wait until, in nanoseconds; 0 waits for ever.
    pub timeout: u64,
}

/// `struct sched_shutdown`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Shutdown {
    /// One of the `SHUTDOWN_` reasons.
    pub reason: u32,
}

/// The domain is done.
pub const SHUTDOWN_POWEROFF: u32 = 0;
/// The domain is ready to be saved.
pub const SHUTDOWN_SUSPEND: u32 = 2;
/// The domain failed.
pub const SHUTDOWN_CRASH: u32 = 3;
