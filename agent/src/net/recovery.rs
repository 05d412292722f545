//! What TCP sends again because it takes it for lost, and what it should.
//!
//! smoltcp 0.14 sends a packet again when three acknowledgements repeat the last one (RFC 5681, section 3.2). Where more than one of
//! a window was lost, the acknowledgement of that packet tells of the next (RFC 6582), but smoltcp waits for its timer then, a
//! second and more, and sends all of the window again. So it is shown that acknowledgement three times more. It is shown the third
//! one, too, since it does not count those that also tell of room at the peer.

use core::cell::{Cell, RefCell};
use core::net::SocketAddrV4;

use smoltcp::wire::{Ipv4Packet, TcpPacket, TcpSeqNumber};

use super::frame::{ETHERNET, Packet, packet};

/// Connections of which it is known how far they have sent: more than are open at once.
const FLOWS: usize = 32;
/// Acknowledgements that repeat another and prove that something was lost.
const PROOF: u8 = 3;
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

/// One direction of a connection.
struct Flow {
    port: u16,
    to: SocketAddrV4,
    /// Behind the last byte that has been sent, and the last that was acknowledged.
    end: TcpSeqNumber,
    acknowledged: TcpSeqNumber,
    /// How often that was repeated.
    repeated: u8,
    /// What was lost is made up for when all before this is acknowledged.
    until: Option<TcpSeqNumber>,
    /// All before this is sent again because the timer ran out, whether it was lost or not.
    timed_out: Option<TcpSeqNumber>,
    /// Bytes that were sent again because they were lost.
    again: u64,
    /// One packet is sent again in case it was.
    prompted: bool,
    /// The last acknowledgement.
    last: Acknowledgement,
}

impl Recovery {
    /// Bytes that the connection from `port` to there has sent again.
    pub(crate) fn sent_again(&self, port: u16, to: SocketAddrV4) -> u64 {
        self.find(port, to, |flow| flow.again).unwrap_or(0)
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

    /// A frame with this segment has come.
    pub(crate) fn received(&self, frame: &[u8], ip: &Ipv4Packet<&[u8]>, tcp: &TcpPacket<&[u8]>) {
        if !tcp.ack() || tcp.rst() || tcp.segment_len() > 0 {
            return;
        }
        let to = SocketAddrV4::new(ip.src_addr(), tcp.src_port());
        self.find(tcp.dst_port(), to, |flow| {
            flow.last = Acknowledgement::from_slice(frame).unwrap_or_default();
            if flow.acknowledge(tcp.ack_number()) {
                self.show_again(flow);
            }
        });
    }

    /// Nothing has come for so long that the first packet may be lost that is not acknowledged.
    pub(crate) fn prompt(&self, port: u16, to: SocketAddrV4) {
        self.find(port, to, |flow| {
            flow.prompted = true;
            self.show_again(flow);
        });
    }

    fn show_again(&self, flow: &Flow) {
        if !flow.last.is_empty() {
            self.repeated.borrow_mut().clone_from(&flow.last);
            self.times.set(PROOF);
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
        self.times.set(self.times.get().saturating_sub(1));
        read(&self.repeated.borrow())
    }
}

impl Flow {
    fn new(port: u16, to: SocketAddrV4, first: TcpSeqNumber, length: usize) -> Self {
        let (repeated, until, timed_out, again, prompted, last) = Default::default();
        let end = first + length;
        Self { port, to, end, acknowledged: first, repeated, until, timed_out, again, prompted, last }
    }

    fn send(&mut self, first: TcpSeqNumber, length: usize) {
        let end = first + length;
        if first < self.end {
            if !core::mem::take(&mut self.prompted) {
                self.again += (self.end.min(end) - first) as u64;
            }
            // One packet behind the other.
            if first > self.acknowledged {
                (self.until, self.timed_out) = (None, self.timed_out.or(Some(self.end)));
            }
        }
        self.end = self.end.max(end);
    }

    /// Whether that tells of a loss that is to be made up for.
    fn acknowledge(&mut self, number: TcpSeqNumber) -> bool {
        if number > self.end {
            return false;
        }
        let is_news = number > self.acknowledged;
        if is_news {
            (self.acknowledged, self.repeated, self.prompted) = (number, 0, false);
            [&mut self.until, &mut self.timed_out].into_iter().for_each(|end| *end = end.filter(|end| number < *end));
        } else if number == self.acknowledged && number < self.end && self.timed_out.is_none() {
            self.repeated = self.repeated.saturating_add(1);
        }
        let is_proven = self.repeated == PROOF && self.until.is_none();
        if is_proven {
            self.until = Some(self.end);
        }
        is_proven || is_news && self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that has sent ten segments of 100 bytes, the first of which is number 0.
    fn flow() -> Flow {
        let mut flow = Flow::new(8, SocketAddrV4::new([10, 0, 0, 1].into(), 7), TcpSeqNumber(0), 100);
        (1..10).for_each(|index| flow.send(TcpSeqNumber(100 * index), 100));
        flow
    }

    #[test]
    fn each_packet_that_was_lost_is_told_of_once() {
        let mut flow = flow();
        // Of ten, the second, the fifth and the sixth are lost.
        let told = [100, 100, 100, 100, 100, 400, 500, 1000].map(|number| flow.acknowledge(TcpSeqNumber(number)));
        assert_eq!(told, [false, false, false, true, false, true, true, false]);
        assert_eq!(flow.again, 0);
        flow.send(TcpSeqNumber(1000), 100);
        assert!(!flow.acknowledge(TcpSeqNumber(1100)), "all has been made up for");
        assert!((0..9).all(|_| !flow.acknowledge(TcpSeqNumber(1100))), "nothing is on its way");
        assert!(!flow.acknowledge(TcpSeqNumber(1200)) && flow.acknowledged == TcpSeqNumber(1100), "that was not sent");
    }

    #[test]
    fn what_the_timer_sends_again_tells_of_no_loss() {
        let mut flow = flow();
        [100; 4].into_iter().for_each(|number| _ = flow.acknowledge(TcpSeqNumber(number)));
        (1..10).for_each(|index| flow.send(TcpSeqNumber(100 * index), 100));
        assert_eq!(flow.again, 900);
        let told = [400, 400, 400, 400, 400, 900, 1000].map(|number| flow.acknowledge(TcpSeqNumber(number)));
        assert_eq!(told, [false; 7]);
        flow.send(TcpSeqNumber(1000), 200);
        let told = [1000, 1000, 1000, 1100].map(|number| flow.acknowledge(TcpSeqNumber(number)));
        assert_eq!(told, [false, false, true, true], "afterwards it is as before");
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
        for _ in 0..PROOF {
            assert!(recovery.repeats());
            recovery.repeat(|frame| assert_eq!(frame, [1, 2, 3]));
        }
        assert!(!recovery.repeats());
    }
}
