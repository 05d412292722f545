//! How long anybody waits for anybody, and how often something is tried again: in nanoseconds, each with its reason.

use crate::tasks::{MS, SECOND};

// Connections.

/// How long a caller may take to say who it is.
pub(crate) const INTRODUCTION_WAIT: u64 = 5 * SECOND;
/// How often a silent peer is asked whether it is there, at least.
pub(crate) const KEEP_ALIVE: u64 = 5 * SECOND;
/// How long a closed connection may go on delivering what it still holds.
pub(crate) const LINGER: u64 = 30 * SECOND;
/// How long a smaller packet size is kept before a further connection tries large packets again.
pub(crate) const PATH_MTU_KEPT: u64 = 600 * SECOND;

// Before the commit: whoever takes longer than this ends the migration, and the guest stays.

/// How long the other agent may take to call, to answer, or to build.
pub(crate) const PEER_WAIT: u64 = 30 * SECOND;
/// How long nothing may arrive on the bulk connection. The peer's death shows on the control connection much sooner; here
/// packets lost again and again may make smoltcp wait for up to 60 s before it sends one once more.
pub(crate) const BULK_WAIT: u64 = 120 * SECOND;
/// How often the source is told that a call will come, while it would give up waiting for one.
pub(crate) const POSTPONE_EVERY: u64 = PEER_WAIT / 4;
/// How long to wait before calling again where nobody answers yet.
pub(crate) const REDIAL_AFTER: u64 = 250 * MS;
/// How long a guest may stay paused: a tool that looks at it pauses it for a moment, and `xl destroy` pauses it first.
pub(crate) const PAUSE_GRACE: u64 = SECOND;
/// How long the toolstack may take to suspend the guest.
pub(crate) const SUSPEND_WAIT: u64 = 60 * SECOND;
/// How often to look whether the guest has suspended, or stage 1 has arrived. It is part of the downtime.
pub(crate) const SUSPEND_POLL: u64 = 5 * MS;
/// How long the target may take to be ready.
pub(crate) const READY_WAIT: u64 = 60 * SECOND;

// From `Ready` and the commit on: nothing ends the migration, connections are made anew.

/// How long nothing may arrive on the control connection before both are given up.
pub(crate) const CONTROL_LOST: u64 = 10 * SECOND;
/// The same on the bulk connection, where packets that are lost again and again make smoltcp wait.
pub(crate) const BULK_LOST: u64 = 30 * SECOND;
/// How long the target waits before it calls again.
pub(crate) const RECALL_AFTER: u64 = SECOND;
/// The same of a target whose guest does not depend on the call, at most.
pub(crate) const EPILOGUE_RECALL: u64 = 60 * SECOND;
/// How long a session may take to let go of a guest that it only keeps.
pub(crate) const LET_GO: u64 = SECOND;

// The machine.

/// How long to wait before reading or filling pages again that could not be read or filled: a backend has them for a moment.
pub(crate) const PAGE_RETRY: u64 = 50 * MS;
/// How long to wait before asking the hypervisor again for what it refused after the commit.
pub(crate) const XEN_RETRY: u64 = SECOND;
/// How often to look whether a guest or its domain is still there.
pub(crate) const WATCH: u64 = SECOND;
/// The same of a guest that the toolstack is about to start.
pub(crate) const WATCH_START: u64 = 20 * MS;
