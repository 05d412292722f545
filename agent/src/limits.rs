//! How long anybody waits for anybody, and how often something is done or tried again, each with its reason.

use core::time::Duration;

/// How long it may take to tell the other agent why a session ends, or to hear why it has: a round trip, and the session is over
/// either way.
pub(crate) const LAST_WORD: Duration = Duration::from_secs(1);

// Connections.

/// How long a caller may take to say who it is: two round trips and the arithmetic of a handshake. Others wait for its place.
pub(crate) const INTRODUCTION_WAIT: Duration = Duration::from_secs(5);
/// How often a silent peer is asked whether it is there, at least: a fifth of a patience that is shorter than five of these.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a closed connection may go on delivering what it still holds: packets lost again and again take that long, and it keeps
/// memory.
pub(crate) const LINGER: Duration = Duration::from_secs(30);
/// How often a caller that was turned away is worth a line: anybody can call, and fill the log.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How often an address is announced (RFC 5227, section 1.1: ANNOUNCE_INTERVAL).
pub(crate) const ANNOUNCE_EVERY: Duration = Duration::from_secs(2);
/// How soon to look again when the network device takes no more for now: some packets leave meanwhile.
pub(crate) const DEVICE_FULL: Duration = Duration::from_micros(500);
/// How much of a window leaves in one burst: what a switch takes that is a little slower. Timers are not much finer.
pub(crate) const BURST: Duration = Duration::from_millis(2);
/// How long what is sent may wait in queues of the network: each end, and what is between, may be busy with something else for as
/// long, and the guest's own traffic finds its place between.
pub(crate) const QUEUED_FOR: Duration = Duration::from_millis(50);
/// How long a smaller packet size is kept before a further connection tries large packets again (RFC 8201, section 4).
pub(crate) const PATH_MTU_KEPT: Duration = Duration::from_secs(600);

/// How long the other agent may say nothing, or take nothing, on each connection of a session.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) control: Duration,
    pub(crate) bulk: Duration,
}

/// Before the commit.
pub(crate) const UNCOMMITTED: Patience = Patience { control: PEER_WAIT, bulk: BULK_WAIT };
/// From `Ready` and the commit on.
pub(crate) const COMMITTED: Patience = Patience { control: CONTROL_LOST, bulk: BULK_LOST };

// Before the commit: whoever takes longer than this ends the migration, and the guest stays.

/// How long the other agent may take to call, to answer, or to build: libxl builds the domain first, on a dom0 that is busy.
pub(crate) const PEER_WAIT: Duration = Duration::from_secs(30);
/// How long nothing may arrive on the bulk connection. The peer's death shows on the control connection much sooner; here
/// packets lost again and again may make smoltcp wait for up to 60 s before it sends one once more.
pub(crate) const BULK_WAIT: Duration = Duration::from_secs(120);
/// How often the source is told that a call will come, while it would give up waiting for one: four times in its patience.
pub(crate) const POSTPONE_EVERY: Duration = Duration::from_millis(7_500);
/// How long to wait before calling again where nobody answers yet: the other toolstack starts in the same second.
pub(crate) const REDIAL_AFTER: Duration = Duration::from_millis(250);
/// How long a guest may stay paused before it is refused: a tool that looks at it pauses it for a moment, and `xl destroy` pauses
/// it first.
pub(crate) const PAUSE_GRACE: Duration = Duration::from_secs(1);
/// How long the toolstack may take to suspend the guest: libxl itself gives a guest that long.
pub(crate) const SUSPEND_WAIT: Duration = Duration::from_secs(60);
/// How often to look whether the guest has suspended, or stage 1 has arrived. It is part of the downtime.
pub(crate) const SUSPEND_POLL: Duration = Duration::from_millis(5);
/// How long the target may take to be ready: it loads the machine state, and compares all memory if that is asked for. The guest
/// stands still meanwhile.
pub(crate) const READY_WAIT: Duration = Duration::from_secs(60);

// Stages 1 and 2, which take turns with the guest's own traffic.

/// How often stage 1 is looked at, at the most: a look reads all of the dirty log.
pub(crate) const PEEK_EVERY: Duration = Duration::from_millis(50);
/// How long sending recently dirtied pages ahead may take: it is part of the downtime.
pub(crate) const AHEAD: Duration = Duration::from_millis(10);

// From `Ready` and the commit on: nothing ends the migration, connections are made anew.

/// How long nothing may arrive on the control connection before both are given up: vCPUs wait for pages meanwhile, and a lost
/// packet or two take less.
pub(crate) const CONTROL_LOST: Duration = Duration::from_secs(10);
/// The same on the bulk connection, where packets that are lost again and again make smoltcp wait.
pub(crate) const BULK_LOST: Duration = Duration::from_secs(30);
/// How long the target waits before it calls again: a link that is down comes back no sooner for more calls.
pub(crate) const RECALL_AFTER: Duration = Duration::from_secs(1);
/// The same of a target whose guest does not depend on the call, at most: it calls less and less often.
pub(crate) const EPILOGUE_RECALL: Duration = Duration::from_secs(60);
/// How long a session may take to let go of a guest that it only keeps: an operator waits for the answer.
pub(crate) const LET_GO: Duration = Duration::from_secs(1);

// The machine.

/// How long to wait before reading or filling pages again that could not be read or filled: a backend has them for a moment.
pub(crate) const PAGE_RETRY: Duration = Duration::from_millis(50);
/// How long to wait before asking the hypervisor again for what it refused after the commit: what it lacks comes back no sooner for
/// more questions.
pub(crate) const XEN_RETRY: Duration = Duration::from_secs(1);
/// How often to look whether a guest or its domain is still there: each look is a hypercall, and nobody waits for it.
pub(crate) const WATCH: Duration = Duration::from_secs(1);
/// The same of a guest that the toolstack is about to start: its downtime ends then.
pub(crate) const WATCH_START: Duration = Duration::from_millis(20);

// What is lost on the way, and noticed before TCP's timer does.

/// What a round trip is taken to be before one has been measured: more than most are, so that nothing is asked for twice.
pub(crate) const FIRST_RTT: Duration = Duration::from_millis(10);
/// What may come on top of round trips: the ends do other things as well.
pub(crate) const RTT_SLACK: Duration = Duration::from_millis(2);
/// How much longer packets take now and then though nothing queues: the ends have turns of their own.
pub(crate) const UNEVEN: Duration = Duration::from_millis(1);
/// What an acknowledgement takes at most, for all we know: whatever took longer has waited in queues, and may do so no more.
pub(crate) const LONGEST_ACK: Duration = Duration::from_millis(100);
/// How long packets must be lost again and again before they may be too large, and how often to look.
pub(crate) const TOO_LARGE_EVERY: Duration = Duration::from_secs(1);
/// How often the round trip of datagrams is measured: it changes with what queues.
pub(crate) const PROBE_EVERY: Duration = Duration::from_millis(20);
/// The same before the first has come back, so that it is known when the guest resumes.
pub(crate) const PROBE_AGAIN: Duration = Duration::from_millis(10);
/// The same once none seems to come through: they may later.
pub(crate) const PROBE_SELDOM: Duration = Duration::from_secs(1);
/// What an echo takes at most, for all we know.
pub(crate) const LONGEST_ECHO: Duration = Duration::from_secs(1);
/// The longest time between two requests for a page: a vCPU waits for it, however often they were lost.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// How long after some pages were asked for others may be, so that those share a datagram.
pub(crate) const REQUEST_EVERY: Duration = Duration::from_millis(1);
/// How often one more page may be asked for by datagram, once a burst has been: 20 MB/s of pages that nothing else holds back.
pub(crate) const PAGE_EVERY: Duration = Duration::from_micros(200);

// The toolstack.

/// Progress is not written more often than this: each time costs dom0 several turns of xenstored and of who reads it.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_secs(1);
