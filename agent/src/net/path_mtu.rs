//! How large packets may be on the way to the other agents.
//!
//! Some links drop what is too large for them and tell nobody, a tunnel behind a firewall for one: TCP would send the same
//! packet again until all patience is at an end. So when large packets are lost again and again while small ones are
//! answered, all packets get smaller, one step at a time (as RFC 4821 has it). TCP itself does not hear of it: the device
//! cuts its packets, as it does with those that are larger than the interface carries. A device that does not cut sends
//! what was agreed on when the connection was made.

use alloc::vec;
use core::cell::Cell;
use core::num::NonZeroU16;

use smoltcp::phy::{PacketMeta, TxToken};

use super::MTU;
use super::frame::ETHERNET;
use super::recovery::Recovery;
use crate::limits::PATH_MTU_KEPT;
use crate::tasks::Instant;

/// What is tried, bytes of an IP packet: Ethernet, most tunnels, what IPv6 asks of every link, what IPv4 does.
const STEPS: [usize; 4] = [1500, 1400, 1280, 576];
/// Bytes of what is sent again at once where the device cuts packets.
const SEGMENT: usize = 60 << 10;
/// The longest headers that smoltcp makes: of IP, of TCP, and its option that tells of one piece behind a hole (RFC 2018).
const HEADERS: usize = 20 + 20 + 12;
/// Large packets that must have been sent again for nothing: because others arrived behind the first, for a prompt, or by the timer.
const AGAIN: u64 = 2;

/// What is known of the way.
pub(crate) struct PathMtu {
    /// Bytes of the largest IP packet that the interface carries.
    interface: usize,
    /// Bytes of the largest that is sent if nothing gets lost: the same, unless the network says less.
    ceiling: Cell<usize>,
    /// Whether the device cuts packets.
    cuts: bool,
    /// Bytes of the largest IP packet that is sent.
    limit: Cell<usize>,
    /// When that was last lowered.
    lowered: Cell<Instant>,
    /// Packets sent that the next step would make smaller, since one arrived.
    large: Cell<u64>,
    /// Packets received.
    heard: Cell<u64>,
}

/// What had been sent and heard at some moment.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    large: u64,
    heard: u64,
}

impl PathMtu {
    pub(crate) fn new(interface: usize, cuts: bool) -> Self {
        let (lowered, large, heard) = Default::default();
        let [ceiling, limit] = [interface; 2].map(Cell::new);
        Self { interface, ceiling, cuts, limit, lowered, large, heard }
    }

    /// Bytes of the largest IP packet that smoltcp may make. What it takes for one packet it sends again at once: where the device cuts
    /// packets, much more than one of the path's.
    pub(crate) fn largest(&self) -> usize {
        if self.cuts { self.interface.max(SEGMENT) } else { self.interface }
    }

    /// Bytes of the largest packet that is sent.
    pub(crate) fn limit(&self) -> usize {
        self.limit.get()
    }

    /// The network says how large packets may be.
    pub(crate) fn heed(&self, mtu: u16) {
        self.ceiling.set(usize::from(mtu).clamp(usize::from(*MTU.start()), self.interface));
        self.limit.set(self.ceiling.get());
    }

    /// A packet of the peers' has come.
    pub(crate) fn hear(&self) {
        self.heard.set(self.heard.get() + 1);
    }

    /// What is the case now.
    pub(crate) fn mark(&self) -> Mark {
        Mark { large: self.large.get(), heard: self.heard.get() }
    }

    /// So many bytes have arrived at once.
    pub(crate) fn pass(&self, bytes: u64) {
        if self.next().is_some_and(|step| bytes >= step as u64) {
            self.large.set(0);
        }
    }

    /// A connection has got no further since. If that is because its packets are too large, they get smaller.
    pub(crate) fn doubt(&self, since: Mark, now: Instant) -> bool {
        let too_large = self.cuts && self.large.get() >= since.large + AGAIN && self.heard.get() > since.heard;
        let Some(step) = self.next().filter(|_| too_large) else { return false };
        log::warn!("packets of {} bytes do not arrive: they get no larger than {step}", self.limit.get());
        self.limit.set(step);
        self.lowered.set(now);
        true
    }

    /// A connection is made: after a while the way may have become better.
    pub(crate) fn hope(&self, now: Instant) {
        if self.limit.get() < self.ceiling.get() && now >= self.lowered.get() + PATH_MTU_KEPT {
            self.limit.set(self.ceiling.get());
        }
    }

    fn next(&self) -> Option<usize> {
        STEPS.into_iter().find(|step| *step < self.limit.get())
    }
}

/// Room for a packet that is cut on its way if it is too large for that.
pub(crate) struct Cut<'a, T> {
    pub(crate) token: T,
    pub(crate) path: &'a PathMtu,
    pub(crate) recovery: &'a Recovery,
    pub(crate) meta: PacketMeta,
}

impl<T: TxToken> Cut<'_, T> {
    fn send<R, F: FnOnce(&mut [u8]) -> R>(mut self, length: usize, fill: F) -> R {
        let Self { path, recovery, meta, .. } = &mut self;
        if path.next().is_some_and(|step| length > ETHERNET + step) {
            path.large.set(path.large.get() + (length - ETHERNET).div_ceil(path.limit.get()) as u64);
        }
        let is_large = length > ETHERNET + path.limit.get();
        let segment = NonZeroU16::new((path.limit.get() - HEADERS) as u16).filter(|_| is_large);
        meta.segmentation_offload_size = meta.segmentation_offload_size.filter(|_| is_large).min(segment).or(segment);
        let recovery = *recovery;
        self.token.set_meta(self.meta);
        self.token.consume(length, |frame| {
            let filled = fill(frame);
            recovery.sent(frame);
            filled
        })
    }
}

impl<T: TxToken> TxToken for Cut<'_, T> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let limit = self.path.limit.get();
        if !self.path.cuts || length <= ETHERNET + limit || !self.recovery.resends() {
            return self.send(length, fill);
        }
        // What smoltcp sends again is as long as its packets may be; little of it may have been lost.
        let mut frame = vec![0; length];
        let filled = fill(&mut frame);
        let needed = self.recovery.needed(&mut frame, limit - HEADERS);
        self.send(needed, |into| into.copy_from_slice(&frame[..needed]));
        filled
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// Large packets are sent, and some small ones answered.
    fn sends(path: &PathMtu, large: u64, answers: u64) {
        path.large.set(path.large.get() + large);
        path.heard.set(path.heard.get() + answers);
    }

    #[test]
    fn packets_get_smaller_only_if_large_ones_are_lost_and_small_ones_are_answered() {
        let path = PathMtu::new(1500, true);
        let mark = path.mark();
        sends(&path, 9, 0);
        assert!(!path.doubt(mark, Instant::default()), "nothing at all gets through");
        sends(&path, 0, 1);
        // Another connection's arrive.
        path.pass(1460);
        assert!(!path.doubt(mark, Instant::default()));
        let mark = path.mark();
        sends(&path, 1, 9);
        assert!(!path.doubt(mark, Instant::default()), "one may be lost by chance");
        sends(&path, 1, 0);
        let lowered = Instant::from_ns(5);
        let steps: Vec<usize> = core::iter::from_fn(|| path.doubt(mark, lowered).then(|| path.limit())).collect();
        assert_eq!(steps, [1400, 1280, 576]);
        path.hope(Instant::from_ns(4) + PATH_MTU_KEPT);
        assert_eq!(path.limit(), 576);
        path.hope(lowered + PATH_MTU_KEPT);
        assert_eq!(path.limit(), 1500);
    }

    #[test]
    fn the_network_may_ask_for_smaller_packets_and_not_for_larger_ones() {
        for (said, limit) in [(1400, 1400), (9000, 1500), (0, 576)] {
            let path = PathMtu::new(1500, true);
            path.heed(said);
            path.hope(Instant::default() + PATH_MTU_KEPT);
            assert_eq!((path.limit(), path.interface), (limit, 1500));
        }
    }

    #[test]
    fn packets_stay_as_they_are_if_nobody_cuts_them() {
        let path = PathMtu::new(9000, false);
        let mark = path.mark();
        sends(&path, 9, 9);
        assert!(!path.doubt(mark, Instant::default()));
    }
}
