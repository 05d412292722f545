//! A network cable with a rate, a delay and losses, on a virtual clock.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::num::{NonZeroU16, NonZeroUsize};
use std::ops::Range;
use std::rc::Rc;

use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket, TcpSeqNumber};

use super::random::Random;

/// An Ethernet header.
const ETHERNET: usize = 14;

/// How the cable behaves.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    pub bytes_per_second: u64,
    pub delay_ns: u64,
    /// Frames lost in a thousand.
    pub lost_per_mille: u64,
    /// The devices at both ends: bytes of an IP packet that they carry, and whether they cut longer ones of TCP.
    pub mtu: usize,
    pub cuts: bool,
    /// Bytes of an IP packet that a hop on the way carries; it drops longer ones without a word.
    pub hop: usize,
    /// Bytes that a switch on the way holds before it drops what comes on top; without one the sender has to wait.
    pub switch: Option<u64>,
}

impl Default for Quality {
    fn default() -> Self {
        Self {
            bytes_per_second: 50_000_000,
            delay_ns: 100_000,
            lost_per_mille: 0,
            mtu: 9000,
            cuts: false,
            hop: 9000,
            switch: None,
        }
    }
}

/// Frames that a direction of the cable holds before the sender has to wait, if no switch queues them on their way.
const QUEUE: usize = 64;

/// One direction.
pub struct Direction {
    clock: Rc<Cell<u64>>,
    quality: Quality,
    random: Random,
    frames: VecDeque<(u64, Vec<u8>)>,
    free_at: u64,
    queue: usize,
    pub cut: bool,
    /// Frames sent so far.
    sent: u64,
    /// Bytes of the longest.
    longest: usize,
    /// What each connection has sent, by the ports of its two ends.
    flows: BTreeMap<[u16; 2], Flow>,
    /// Those of them that get lost, whatever else happens.
    doomed: Range<u64>,
    no_datagrams: bool,
    only_datagrams: bool,
    /// The next packet of at least this length is changed on its way.
    change: Option<usize>,
    /// What somebody who listens has heard.
    overheard: Option<Vec<Vec<u8>>>,
    /// Somebody else who gets all that is sent.
    tap: Option<Rc<RefCell<Direction>>>,
    /// What every preamble, and every answer to one, gives for its sender's version.
    version: Option<u8>,
    /// A byte is wrong behind each of these, once.
    wrong_behind: Vec<[u8; 8]>,
}

/// What a connection has sent in one direction.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    end: TcpSeqNumber,
    /// Bytes, and what of them had been sent before.
    pub sent: u64,
    pub again: u64,
}

impl Direction {
    fn new(clock: &Rc<Cell<u64>>, quality: Quality, seed: u64) -> Rc<RefCell<Self>> {
        let (clock, random, frames) = (clock.clone(), Random::new(seed), VecDeque::new());
        let (doomed, wrong_behind) = (0..0, Vec::new());
        Rc::new(RefCell::new(Self {
            clock,
            quality,
            random,
            frames,
            free_at: 0,
            queue: if quality.switch.is_some() { usize::MAX } else { QUEUE },
            cut: false,
            sent: 0,
            longest: 0,
            flows: BTreeMap::new(),
            doomed,
            no_datagrams: false,
            only_datagrams: false,
            change: None,
            overheard: None,
            tap: None,
            version: None,
            wrong_behind,
        }))
    }

    fn full(&self) -> bool {
        self.frames.iter().filter(|(at, _)| *at > self.clock.get() + self.quality.delay_ns).count() >= self.queue
    }

    fn send(&mut self, mut frame: Vec<u8>) {
        if self.change.is_some_and(|length| frame.len() >= length && !is_datagram(&frame)) {
            self.change = None;
            frame.last_mut().into_iter().for_each(|byte| *byte ^= 1);
        }
        if let Some(version) = self.version
            && let Some(at) = frame.windows(5).position(|bytes| bytes.starts_with(b"TSMC"))
        {
            frame[at + 4] = version;
        }
        if let Some(overheard) = &mut self.overheard {
            overheard.push(frame.clone());
        }
        self.wrong_behind.retain(|mark| {
            let mark = frame.windows(mark.len()).position(|bytes| bytes == mark);
            let byte = mark.and_then(|at| frame.get_mut(at + 100));
            byte.map(|byte| *byte ^= 1).is_none()
        });
        if let Some(tap) = &self.tap {
            tap.borrow_mut().send(frame.clone());
        }
        self.count(&frame);
        let now = self.clock.get();
        let queued = self.free_at.saturating_sub(now) * self.quality.bytes_per_second / 1_000_000_000;
        let overflows = self.quality.switch.is_some_and(|holds| queued + frame.len() as u64 > holds);
        if !overflows {
            let takes = frame.len() as u64 * 1_000_000_000 / self.quality.bytes_per_second;
            self.free_at = self.free_at.max(now) + takes;
        }
        let lost = self.random.below(1000) < self.quality.lost_per_mille || self.doomed.contains(&self.sent);
        let denied = if is_datagram(&frame) { self.no_datagrams } else { self.only_datagrams };
        let lost = lost || overflows || denied || frame.len() > ETHERNET + self.quality.hop;
        self.longest = self.longest.max(frame.len());
        self.sent += 1;
        if !lost && !self.cut {
            self.frames.push_back((self.free_at + self.quality.delay_ns, frame));
        }
    }

    fn count(&mut self, frame: &[u8]) {
        let Ok(ip) = Ipv4Packet::new_checked(&frame[ETHERNET..]) else { return };
        let Some(Ok(tcp)) = (ip.next_header() == IpProtocol::Tcp).then(|| TcpPacket::new_checked(ip.payload())) else {
            return;
        };
        let (first, length) = (tcp.seq_number(), tcp.payload().len());
        let flow = Flow { end: first, sent: 0, again: 0 };
        let flow = self.flows.entry([tcp.src_port(), tcp.dst_port()]).or_insert(flow);
        flow.sent += length as u64;
        if first < flow.end {
            flow.again += (flow.end.min(first + length) - first) as u64;
        }
        flow.end = flow.end.max(first + length);
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let due = self.frames.front().is_some_and(|(at, _)| *at <= self.clock.get());
        let frame = if due { self.frames.pop_front() } else { None };
        frame.filter(|_| !self.cut).map(|(_, frame)| frame)
    }
}

fn is_datagram(frame: &[u8]) -> bool {
    let frame = EthernetFrame::new_unchecked(frame);
    frame.ethertype() == EthernetProtocol::Ipv4
        && Ipv4Packet::new_unchecked(frame.payload()).next_header() == IpProtocol::Udp
}

/// Cuts a TCP packet into ones that carry so many bytes each, as a backend does.
fn cut(frame: &[u8], segment: usize) -> impl Iterator<Item = Vec<u8>> {
    let ip = Ipv4Packet::new_checked(&frame[ETHERNET..]).expect("IP");
    let tcp = TcpPacket::new_checked(ip.payload()).expect("TCP");
    let headers = frame.len() - tcp.payload().len();
    let (first, last) = (tcp.seq_number(), tcp.payload().len().div_ceil(segment) - 1);
    tcp.payload().chunks(segment).enumerate().map(move |(index, payload)| {
        let mut piece = [&frame[..headers], payload].concat();
        let mut ip = Ipv4Packet::new_unchecked(&mut piece[ETHERNET..]);
        ip.set_total_len((headers - ETHERNET + payload.len()) as u16);
        let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
        tcp.set_seq_number(first + index * segment);
        tcp.set_fin(tcp.fin() && index == last);
        tcp.set_psh(tcp.psh() && index == last);
        piece
    })
}

/// Both directions.
#[derive(Clone)]
pub struct Cable([Rc<RefCell<Direction>>; 2]);

impl Cable {
    pub fn new(clock: &Rc<Cell<u64>>, quality: Quality, seed: u64) -> Self {
        Self(std::array::from_fn(|side| Direction::new(clock, quality, seed ^ side as u64)))
    }

    /// One more end, beside host 1's: it gets what host 0 sends, and sends to host 0.
    pub fn tap(&self) -> End {
        let [there, back] = &self.0;
        let mut direction = there.borrow_mut();
        let tap = Direction::new(&direction.clock, direction.quality, 0);
        direction.tap = Some(tap.clone());
        End { out: back.clone(), into: tap }
    }

    /// The two ends.
    pub fn ends(&self) -> [End; 2] {
        let [there, back] = &self.0;
        [End { out: there.clone(), into: back.clone() }, End { out: back.clone(), into: there.clone() }]
    }

    /// Changes the next packet of at least this length that one end sends.
    pub fn change(&self, from: usize, length: usize) {
        self.0[from].borrow_mut().change = Some(length);
    }

    /// Each end takes the other for an agent of this version of the protocol.
    pub fn speak(&self, version: u8) {
        self.0.iter().for_each(|direction| direction.borrow_mut().version = Some(version));
    }

    /// Listens to what one end sends.
    pub fn overhear(&self, from: usize) {
        self.0[from].borrow_mut().overheard = Some(Vec::new());
    }

    /// What was heard since.
    pub fn overheard(&self, from: usize) -> Vec<Vec<u8>> {
        self.0[from].borrow_mut().overheard.take().unwrap_or_default()
    }

    /// Whether that has happened.
    pub fn changed(&self, from: usize) -> bool {
        self.0[from].borrow().change.is_none()
    }

    /// Cuts or mends it.
    pub fn cut(&self, cut: bool) {
        self.0.iter().for_each(|direction| direction.borrow_mut().cut = cut);
    }

    /// Loses those of the next frames that host `from` sends, counted from 0.
    pub fn lose(&self, from: usize, next: Range<u64>) {
        let direction = &mut *self.0[from].borrow_mut();
        direction.doomed = direction.sent + next.start..direction.sent + next.end;
    }

    /// What host `from` sends crawls from now on, through a switch that queues all of it.
    pub fn crawl(&self, from: usize, bytes_per_second: u64) {
        let direction = &mut *self.0[from].borrow_mut();
        direction.quality.bytes_per_second = bytes_per_second;
        direction.queue = usize::MAX;
    }

    /// That switch has gone, with all that was in it.
    pub fn hurry(&self, from: usize, bytes_per_second: u64) {
        let direction = &mut *self.0[from].borrow_mut();
        direction.frames.clear();
        direction.free_at = direction.clock.get();
        direction.quality.bytes_per_second = bytes_per_second;
        direction.queue = QUEUE;
    }

    /// Loses so many frames in a thousand from now on, in both directions.
    pub fn set_loss(&self, per_mille: u64) {
        self.0.iter().for_each(|direction| direction.borrow_mut().quality.lost_per_mille = per_mille);
    }

    /// Lets no UDP through from now on.
    pub fn deny_datagrams(&self) {
        self.0.iter().for_each(|direction| direction.borrow_mut().no_datagrams = true);
    }

    /// Of what host `from` sends, nothing but UDP gets through from now on, or again all.
    pub fn only_datagrams(&self, from: usize, only: bool) {
        self.0[from].borrow_mut().only_datagrams = only;
    }

    /// Bytes of the longest IP packet that host `from` has sent.
    pub fn longest(&self, from: usize) -> usize {
        self.0[from].borrow().longest - ETHERNET
    }

    /// From here on the longest is another one.
    pub fn forget_longest(&self, from: usize) {
        self.0[from].borrow_mut().longest = 0;
    }

    /// Frames that host `from` has sent.
    pub fn sent(&self, from: usize) -> u64 {
        self.0[from].borrow().sent
    }

    /// From here on they have sent nothing.
    pub fn forget_flows(&self, from: usize) {
        self.0[from].borrow_mut().flows.values_mut().for_each(|flow| (flow.sent, flow.again) = (0, 0));
    }

    /// What each connection has sent from host `from`, the one that has sent the most first.
    pub fn flows(&self, from: usize) -> Vec<Flow> {
        let mut flows: Vec<Flow> = self.0[from].borrow().flows.values().copied().collect();
        flows.sort_by_key(|flow| Reverse(flow.sent));
        flows
    }

    /// Sends a wrong byte behind each of these, once.
    pub fn spoil(&self, marks: &[[u8; 8]]) {
        self.0.iter().for_each(|direction| direction.borrow_mut().wrong_behind = marks.to_vec());
    }

    /// Marks behind which no wrong byte has been sent.
    pub fn unspoilt(&self) -> usize {
        self.0.iter().map(|direction| direction.borrow().wrong_behind.len()).min().unwrap_or(0)
    }

    /// When the next frame arrives somewhere.
    pub fn next_event(&self) -> Option<u64> {
        let next = |direction: &Rc<RefCell<Direction>>| {
            let direction = direction.borrow();
            let now = direction.clock.get();
            direction.frames.iter().map(|(at, _)| *at).find(|at| *at > now)
        };
        self.0.iter().filter_map(next).min()
    }
}

/// One end: a network device.
pub struct End {
    out: Rc<RefCell<Direction>>,
    into: Rc<RefCell<Direction>>,
}

pub struct Received(Vec<u8>);
pub struct Sending(Rc<RefCell<Direction>>, Option<NonZeroU16>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Sending {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        let mut out = self.0.borrow_mut();
        match self.1 {
            Some(segment) => cut(&frame, segment.get().into()).for_each(|frame| out.send(frame)),
            None => out.send(frame),
        }
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.1 = meta.segmentation_offload_size;
    }
}

impl Device for End {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending)> {
        let frame = self.into.borrow_mut().receive()?;
        Some((Received(frame), Sending(self.out.clone(), None)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending> {
        (!self.out.borrow().full()).then(|| Sending(self.out.clone(), None))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        let quality = self.out.borrow().quality;
        capabilities.max_transmission_unit = ETHERNET + quality.mtu;
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(65535).filter(|_| quality.cuts);
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities
    }
}
