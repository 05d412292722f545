//! What TCP sends again because it takes it for lost, and what it should.
//!
//! smoltcp 0.14 sends one packet again when three acknowledgements repeat the last one (RFC 5681, section 3.2), and all of a window
//! when its timer runs out, a second later and more. What was lost it does not know: it does not read the pieces that the peer says it
//! has (RFC 2018). They are read here. When they prove a loss (RFC 6675, section 2), and when all that was sent again so far has come
//! and more is missing (RFC 6582), smoltcp is shown the last acknowledgement three times; other repetitions it does not see, since
//! something that comes twice is acknowledged twice, too. Where the device cuts packets, what smoltcp takes for one packet is 60 KiB
//! long ([`super::path_mtu`]), and is sent up to the end of the last piece in it that is missing: losses that lie close together are
//! made up for in one round trip.

use core::cell::{Cell, RefCell};
use core::net::SocketAddrV4;

use smoltcp::wire::{IpAddress, Ipv4Packet, TcpPacket, TcpSeqNumber};

use super::frame::{ETHERNET, Packet, packet};

/// Connections of which it is known how far they have sent: more than are open at once.
const FLOWS: usize = 32;
/// Acknowledgements that repeat another and prove that something was lost.
const PROOF: u8 = 3;
/// How often smoltcp sees one: it counts anew from one that tells of other room than the one before.
const SHOWS: u8 = PROOF + 2;
/// Pieces that a peer can have behind what was lost: as many as smoltcp keeps (its feature `assembler-max-segment-count-32`).
const RANGES: usize = 32;
/// Bytes of an Ethernet frame with a TCP segment that carries nothing.
const LONGEST: usize = ETHERNET + 60 + 60;

/// A frame with one.
type Acknowledgement = heapless::Vec<u8, LONGEST>;

/// What connections have sent and what of it was lost.
#[derive(Default)]
pub(crate) struct Recovery {
    flows: RefCell<heapless::Deque<Flow, FLOWS>>,
    /// What is shown to smoltcp again, and how often.
    repeated: RefCell<Acknowledgement>,
    times: Cell<u8>,
}

/// What a connection has lost.
#[derive(Clone, Copy, Default)]
pub(crate) struct Losses {
    /// Bytes that were sent again because they were lost, each time counted.
    pub(crate) again: u64,
    /// Bytes that the peer has of what is not acknowledged.
    pub(crate) there: u64,
}

/// One direction of a connection.
struct Flow {
    port: u16,
    to: SocketAddrV4,
    /// Behind the last byte that has been sent, and the last that was acknowledged.
    end: TcpSeqNumber,
    acknowledged: TcpSeqNumber,
    /// The room that the peer told of last.
    window: u16,
    /// How often that was repeated.
    repeated: u8,
    /// What the peer has of what is not acknowledged: ascending, each from where to where.
    there: heapless::Vec<[TcpSeqNumber; 2], RANGES>,
    /// What was lost is made up for when all before this is acknowledged.
    until: Option<TcpSeqNumber>,
    /// What was lost before this has been sent again.
    resent: TcpSeqNumber,
    /// All before this is sent again because the timer ran out, whether it was lost or not.
    timed_out: Option<TcpSeqNumber>,
    /// Bytes that were sent again because they were lost.
    again: u64,
    /// One packet is sent again in case it was.
    prompted: bool,
    /// smoltcp has been shown that the first packet was lost, and is about to send it again.
    shown: bool,
    /// The last acknowledgement.
    last: Acknowledgement,
}

impl Recovery {
    /// What is known of the connection from `port` to there.
    pub(crate) fn losses(&self, port: u16, to: SocketAddrV4) -> Losses {
        self.find(port, to, |flow| Losses { again: flow.again, there: flow.there_bytes() }).unwrap_or_default()
    }

    /// A frame is sent.
    pub(crate) fn sent(&self, frame: &[u8]) {
        let Some(Packet::Tcp(ip, tcp)) = packet(frame) else { return };
        let (port, to) = (tcp.src_port(), SocketAddrV4::new(ip.dst_addr(), tcp.dst_port()));
        let (first, length) = (tcp.seq_number(), tcp.payload().len());
        // A call, or the answer to one: whoever had these ports before is gone.
        if tcp.syn() {
            self.flows.borrow_mut().retain(|flow| (flow.port, flow.to) != (port, to));
        }
        // One byte asks whether the peer is still there, or has room again. Strangers are sent no more than that.
        if length > 1 && self.find(port, to, |flow| flow.send(first, length)).is_none() {
            let flows = &mut *self.flows.borrow_mut();
            if flows.is_full() {
                flows.pop_front();
            }
            let _ = flows.push_back(Flow::new(port, to, first, length));
        }
    }

    /// A frame with this segment has come; whether smoltcp is to see it.
    pub(crate) fn received(&self, frame: &[u8], ip: &Ipv4Packet<&[u8]>, tcp: &TcpPacket<&[u8]>) -> bool {
        if !tcp.ack() || tcp.rst() || tcp.segment_len() > 0 {
            return true;
        }
        let to = SocketAddrV4::new(ip.src_addr(), tcp.src_port());
        let ranges = tcp.selective_ack_ranges().unwrap_or_default();
        let see = |flow: &mut Flow| {
            let (number, window) = (tcp.ack_number(), tcp.window_len());
            let repeats = number == flow.acknowledged && number < flow.end && window == flow.window;
            flow.window = window;
            if number >= flow.acknowledged {
                flow.last = Acknowledgement::from_slice(frame).unwrap_or_default();
            }
            let is_lost = flow.acknowledge(number, ranges.into_iter().flatten());
            if is_lost {
                self.show_again(flow);
            }
            !repeats
        };
        self.find(tcp.dst_port(), to, see).unwrap_or(true)
    }

    /// Whether something is about to be sent again.
    pub(crate) fn resends(&self) -> bool {
        self.flows.borrow().iter().any(|flow| flow.shown)
    }

    /// The bytes that are needed of a frame that is about to be sent. If it is sent again, these are no more than `least` bytes of TCP's,
    /// or end where the last piece in it does that is missing. Its IP header says so afterwards.
    pub(crate) fn needed(&self, frame: &mut [u8], least: usize) -> usize {
        let Some(Packet::Tcp(ip, tcp)) = packet(frame) else { return frame.len() };
        let (port, to) = (tcp.src_port(), SocketAddrV4::new(ip.dst_addr(), tcp.dst_port()));
        let (first, length) = (tcp.seq_number(), tcp.payload().len());
        let spare = self.find(port, to, |flow| {
            // The end of all that is said has its place behind all of it.
            let is_resent = flow.shown && !tcp.fin() && first == flow.acknowledged && first + length <= flow.end;
            if is_resent { first + length - flow.missing_until(first + length, least) } else { 0 }
        });
        let spare = spare.unwrap_or(0);
        let length = ip.total_len() - spare as u16;
        let mut ip = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
        ip.set_total_len(length);
        ip.fill_checksum();
        ETHERNET + usize::from(length)
    }

    /// Nothing has come for so long that the first packet may be lost that is not acknowledged.
    pub(crate) fn prompt(&self, port: u16, to: SocketAddrV4) {
        self.find(port, to, |flow| {
            flow.prompted = true;
            self.show_again(flow);
        });
    }

    fn show_again(&self, flow: &mut Flow) {
        if !flow.last.is_empty() {
            flow.shown = true;
            self.repeated.borrow_mut().clone_from(&flow.last);
            self.times.set(SHOWS);
        }
    }

    fn find<T>(&self, port: u16, to: SocketAddrV4, look: impl FnOnce(&mut Flow) -> T) -> Option<T> {
        self.flows.borrow_mut().iter_mut().find(|flow| (flow.port, flow.to) == (port, to)).map(look)
    }

    /// Whether there is a frame that is to be seen again.
    pub(crate) fn repeats(&self) -> bool {
        self.times.get() > 0
    }

    /// Lets `read` see it.
    pub(crate) fn repeat<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        let times = self.times.get();
        self.times.set(times.saturating_sub(1));
        let repeated = &mut *self.repeated.borrow_mut();
        // In the first the room is another one, in the second it is as it was.
        if times > PROOF {
            turn_over(repeated);
        }
        read(repeated)
    }
}

/// Changes the room that an acknowledgement tells of, to another and back.
fn turn_over(acknowledgement: &mut [u8]) {
    let Some(Packet::Tcp(ip, tcp)) = packet(acknowledgement) else { return };
    let [source, destination] = [ip.src_addr(), ip.dst_addr()].map(IpAddress::Ipv4);
    let (start, window) = (ETHERNET + usize::from(ip.header_len()), tcp.window_len());
    let mut tcp = TcpPacket::new_unchecked(&mut acknowledgement[start..]);
    tcp.set_window_len(window ^ 1);
    tcp.fill_checksum(&source, &destination);
}

impl Flow {
    fn new(port: u16, to: SocketAddrV4, first: TcpSeqNumber, length: usize) -> Self {
        let (window, repeated, there, until, timed_out) = Default::default();
        let (again, prompted, shown, last) = Default::default();
        let end = first + length;
        Self {
            port,
            to,
            end,
            acknowledged: first,
            window,
            repeated,
            there,
            until,
            resent: first,
            timed_out,
            again,
            prompted,
            shown,
            last,
        }
    }

    fn send(&mut self, first: TcpSeqNumber, length: usize) {
        let end = first + length;
        if first < self.end {
            self.shown = false;
            if !core::mem::take(&mut self.prompted) {
                self.again += (self.end.min(end) - first) as u64;
            }
            if first > self.acknowledged {
                // One packet behind the other.
                (self.until, self.timed_out) = (None, self.timed_out.or(Some(self.end)));
            } else {
                self.resent = self.resent.max(end);
            }
        }
        self.end = self.end.max(end);
    }

    /// Takes in what the peer has up to `number`, and behind it; whether that tells of a loss that is to be made up for now.
    fn acknowledge(&mut self, number: TcpSeqNumber, ranges: impl Iterator<Item = (u32, u32)>) -> bool {
        if number > self.end {
            return false;
        }
        let is_news = number > self.acknowledged;
        if is_news {
            (self.acknowledged, self.repeated, self.prompted, self.shown) = (number, 0, false, false);
            self.resent = self.resent.max(number);
            self.there.retain(|[_, end]| *end > number);
            [&mut self.until, &mut self.timed_out].into_iter().for_each(|end| *end = end.filter(|end| number < *end));
        }
        for (first, end) in ranges {
            self.has([TcpSeqNumber(first as i32), TcpSeqNumber(end as i32)]);
        }
        if !is_news && number == self.acknowledged && !self.there.is_empty() && self.timed_out.is_none() {
            self.repeated = self.repeated.saturating_add(1);
        }
        let is_proven = self.repeated == PROOF && self.until.is_none();
        if is_proven {
            (self.until, self.resent) = (Some(self.end), number);
        }
        is_proven || is_news && self.until.is_some() && number >= self.resent
    }

    fn there_bytes(&self) -> u64 {
        self.there.iter().map(|[first, end]| (*end - *first) as u64).sum()
    }

    /// The peer has this.
    fn has(&mut self, [first, end]: [TcpSeqNumber; 2]) {
        if first <= self.acknowledged || end <= first || end > self.end {
            return;
        }
        let mut all = [first, end];
        self.there.retain(|[other, other_end]| {
            let apart = *other > all[1] || *other_end < all[0];
            if !apart {
                all = [all[0].min(*other), all[1].max(*other_end)];
            }
            apart
        });
        let place = self.there.iter().position(|[other, _]| *other > all[0]).unwrap_or(self.there.len());
        if self.there.is_full() {
            self.there.pop();
        }
        let _ = self.there.insert(place.min(self.there.len()), all);
    }

    /// Where the last piece that is missing ends, of those that begin before `end`; behind the first `least` bytes in any case.
    fn missing_until(&self, end: TcpSeqNumber, least: usize) -> TcpSeqNumber {
        let mut until = (self.acknowledged + least).min(end);
        let mut hole = self.acknowledged;
        for [first, behind] in &self.there {
            if hole < end {
                until = until.max((*first).min(end));
            }
            hole = *behind;
        }
        until
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// A connection that has sent ten segments of 100 bytes, the first of which is number 0.
    fn flow() -> Flow {
        let mut flow = Flow::new(8, SocketAddrV4::new([10, 0, 0, 1].into(), 7), TcpSeqNumber(0), 100);
        (1..10).for_each(|index| flow.send(TcpSeqNumber(100 * index), 100));
        flow
    }

    /// All up to `number` has come, and what is between those; whether something is to be sent again.
    fn tells(flow: &mut Flow, number: i32, there: &[(u32, u32)]) -> bool {
        flow.acknowledge(TcpSeqNumber(number), there.iter().copied())
    }

    #[test]
    fn what_was_lost_is_told_of_once() {
        let mut flow = flow();
        // Of ten, the second, the fifth and the sixth are lost.
        assert!(!tells(&mut flow, 100, &[]));
        let third = [(200, 300), (200, 400), (600, 700)].map(|there| tells(&mut flow, 100, &[there]));
        assert_eq!(third, [false, false, true]);
        assert!((700..=1000).step_by(100).all(|end| !tells(&mut flow, 100, &[(600, end)])));
        assert_eq!(flow.missing_until(TcpSeqNumber(1000), 100), TcpSeqNumber(600));
        assert_eq!(flow.missing_until(TcpSeqNumber(350), 100), TcpSeqNumber(200));
        assert_eq!((flow.missing_until(TcpSeqNumber(550), 10), flow.again), (TcpSeqNumber(550), 0));
        // The first two pieces of it are sent again, and some of the third.
        flow.send(TcpSeqNumber(100), 350);
        assert!(!tells(&mut flow, 400, &[(600, 1000)]), "more of it is on its way");
        assert!(tells(&mut flow, 450, &[(600, 1000)]));
        flow.send(TcpSeqNumber(450), 150);
        assert!(!tells(&mut flow, 1000, &[]) && flow.there.is_empty());
        flow.send(TcpSeqNumber(1000), 100);
        assert!(!tells(&mut flow, 1100, &[]), "all has been made up for");
        assert!((0..9).all(|_| !tells(&mut flow, 1100, &[])), "nothing is on its way");
        assert!(!tells(&mut flow, 1200, &[]) && flow.acknowledged == TcpSeqNumber(1100), "that was not sent");
    }

    #[test]
    fn what_comes_twice_proves_no_loss() {
        let mut flow = flow();
        assert!((0..9).all(|_| !tells(&mut flow, 100, &[])));
        // Nor does what nobody can have.
        for strange in [(50, 80), (300, 200), (900, 1100), (100, 200)] {
            assert!((0..9).all(|_| !tells(&mut flow, 100, &[strange])), "{strange:?}");
        }
    }

    #[test]
    fn no_more_pieces_are_remembered_than_there_is_room_for() {
        let mut flow = Flow::new(8, SocketAddrV4::new([10, 0, 0, 1].into(), 7), TcpSeqNumber(0), 10_000);
        (1..99).rev().for_each(|piece| flow.has([piece * 100, piece * 100 + 50].map(TcpSeqNumber)));
        let first: Vec<i32> = flow.there.iter().map(|[first, _]| first.0).collect();
        assert!(first.iter().copied().eq((1..=RANGES as i32).map(|piece| piece * 100)), "{first:?}");
        flow.has([TcpSeqNumber(120), TcpSeqNumber(9999)]);
        assert_eq!(flow.there.as_slice(), [[TcpSeqNumber(100), TcpSeqNumber(9999)]]);
    }

    #[test]
    fn what_the_timer_sends_again_tells_of_no_loss() {
        let mut flow = flow();
        tells(&mut flow, 100, &[]);
        let lost = [300, 400, 500].map(|end| tells(&mut flow, 100, &[(200, end)]));
        assert_eq!(lost, [false, false, true]);
        (1..10).for_each(|index| flow.send(TcpSeqNumber(100 * index), 100));
        assert_eq!(flow.again, 900);
        let told = [400, 400, 400, 400, 400, 900, 1000].map(|number| tells(&mut flow, number, &[(950, 1000)]));
        assert_eq!(told, [false; 7]);
        (10..15).for_each(|index| flow.send(TcpSeqNumber(100 * index), 100));
        assert!(!tells(&mut flow, 1000, &[]));
        let told = [1200, 1300, 1400].map(|end| tells(&mut flow, 1000, &[(1100, end)]));
        assert_eq!(told, [false, false, true], "afterwards it is as before");
    }

    #[test]
    fn an_acknowledgement_is_shown_as_often_as_it_takes_and_no_more() {
        let (recovery, mut flow) = (Recovery::default(), flow());
        let (port, to) = (flow.port, flow.to);
        flow.last = Acknowledgement::from_slice(&[1, 2, 3]).unwrap();
        let _ = recovery.flows.borrow_mut().push_back(flow);
        recovery.prompt(port + 1, to);
        assert!(!recovery.repeats(), "it is another's");
        recovery.prompt(port, to);
        for _ in 0..SHOWS {
            assert!(recovery.repeats());
            recovery.repeat(|frame| assert_eq!(frame, [1, 2, 3]));
        }
        assert!(!recovery.repeats());
    }
}
