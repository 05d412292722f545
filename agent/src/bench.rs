//! The way of a page through both ends, on a host without Xen, for `agent/benches` and nobody else.

pub mod push;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::num::NonZeroUsize;
use core::pin::Pin;
use core::task::Poll;

use common::{BATCH, Content, Gfn, PAGE_SIZE, Page, PageMask, PublicKey};
use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium};

use crate::command_line::AgentOptions;
use crate::digest::{self, Digest};
use crate::messages::{Inlet, Outlet};
use crate::net::{Buffers, Connection, IN_FLIGHT_BULK, Net, SPARE};
use crate::secure::record::{Direction, Key, LENGTH, MAX_PAYLOAD, TAG};
use crate::secure::{Link, Security};
use crate::source::{Batch, is_zero};
use crate::tasks::{Instant, Timer, poll_once};
use crate::wire::{Cause, Kind, Message};

/// The longest packet that netback takes.
const LONGEST: NonZeroUsize = NonZeroUsize::new(65535).expect("it is not 0");
/// An Ethernet header, and what a network carries behind it.
const FRAME: usize = 14 + 1500;
/// As agents have them: the source sends, the target receives.
const BUFFERS: Buffers = Buffers { receive: IN_FLIGHT_BULK + SPARE, send: IN_FLIGHT_BULK };

/// Which of up to [`BATCH`] pages are zero.
pub fn zero_mask(pages: &[Page]) -> PageMask {
    (0..pages.len()).filter(|index| is_zero(&pages[*index])).collect()
}

/// What is compared of a page at the switch.
pub fn digest(page: &Page) -> Digest {
    digest::of(page)
}

/// The longest record, sealed and opened again and again.
pub struct Record {
    directions: [Direction; 2],
    payload: Vec<u8>,
}

impl Record {
    /// Bytes of its payload.
    pub const LEN: usize = MAX_PAYLOAD;
    const CLEAR: [u8; LENGTH] = (MAX_PAYLOAD as u32).to_le_bytes();

    /// Seals it in place.
    pub fn seal(&mut self) -> [u8; TAG] {
        self.directions[0].seal(&Self::CLEAR, &mut self.payload)
    }

    /// Opens it in place; whether it was as it had been sealed.
    pub fn open(&mut self, tag: &[u8; TAG]) -> bool {
        self.directions[1].open(&Self::CLEAR, &mut self.payload, tag).is_ok()
    }
}

impl Default for Record {
    fn default() -> Self {
        Self { directions: directions(), payload: vec![1; MAX_PAYLOAD] }
    }
}

fn directions() -> [Direction; 2] {
    [(); 2].map(|()| Direction::new(&Key::new([7; 32])))
}

/// Both ends of a connection, in one thread, over a network of memory that does what netfront and netback do: it takes
/// packets that are longer than a frame, and nobody adds up checksums.
pub struct Ends {
    ends: [End; 2],
    clock: fn() -> u64,
    outlet: Outlet,
    inlet: Inlet,
    stream: [Connection; 2],
    batch: Vec<Page>,
}

/// Nanoseconds that the source and the target worked.
pub type Worked = [u64; 2];

impl Ends {
    /// Two ends that are connected; what they say is sealed, or in clear. `clock` gives nanoseconds.
    pub fn new(sealed: bool, clock: fn() -> u64) -> Self {
        let [one, other] = [(); 2].map(|()| Rc::<RefCell<Packets>>::default());
        let source = Cable { into: one.clone(), out: other.clone() };
        let target = Cable { into: other, out: one };
        let mut ends = [End::new(source, 1), End::new(target, 2)];
        let stream = connect(&mut ends);
        let messages = connect(&mut ends).map(|connection| match sealed {
            true => Link::sealed(connection, PublicKey([0; 32]), [0; 32], directions()),
            false => Link::plain(connection),
        });
        let [here, there] = messages;
        let (outlet, inlet) = (Outlet::new(here), Inlet::new(there, &[Kind::Pages]));
        Self { ends, clock, outlet, inlet, stream, batch: vec![[0; PAGE_SIZE]; BATCH] }
    }

    /// Sends the pages `from` as stage 1 does, and places them into `to`.
    pub fn migrate(&mut self, from: &[Page], to: &mut [Page]) -> Worked {
        let Self { ends, clock, outlet, inlet, batch, .. } = self;
        let sending = async {
            for (index, pages) in from.chunks(BATCH).enumerate() {
                let first = (index * BATCH) as u64;
                let gfns: Batch = (first..first + pages.len() as u64).map(Gfn).collect();
                batch[..pages.len()].copy_from_slice(pages);
                let batch = &batch[..pages.len()];
                outlet.send_pages(Cause::Copy, &gfns, batch, zero_mask(batch)).await.expect("it is sent");
            }
        };
        let placing = async {
            let mut left = from.len();
            while left > 0 {
                let Ok(Message::Pages(pages)) = inlet.next().await else { panic!("nothing else was sent") };
                for (gfn, content) in pages.contents() {
                    match content {
                        Content::Zero => to[gfn.0 as usize].fill(0),
                        Content::Bytes(bytes) => to[gfn.0 as usize].copy_from_slice(bytes),
                    }
                    left -= 1;
                }
            }
        };
        work(ends, *clock, Box::pin(sending), Box::pin(placing)).2
    }

    /// Sends `bytes` by TCP alone, and takes them in at the other end.
    pub fn stream(&mut self, bytes: &[u8], into: &mut [u8]) -> Worked {
        let [here, there] = &self.stream;
        let (sending, reading) = (Box::pin(here.write_all(bytes)), Box::pin(there.read_exact(into)));
        let (sent, read, worked) = work(&mut self.ends, self.clock, sending, reading);
        sent.and(read).expect("it arrives");
        worked
    }
}

/// One more connection: the end that called, the end that was called.
fn connect(ends: &mut [End; 2]) -> [Connection; 2] {
    let timer = Timer::new(Instant::default);
    let there = Connection::listen(&ends[1].net, &timer, 7, BUFFERS).expect("the port is free");
    let peer = "10.0.0.2:7".parse().expect("it is an address");
    let net = ends[0].net.clone();
    let calling = Box::pin(Connection::connect(&net, &timer, peer, BUFFERS));
    let (here, accepted, _) = work(ends, || 0, calling, Box::pin(there.accepted()));
    accepted.expect("somebody calls");
    [here.expect("somebody listens"), there]
}

/// Does both ends' work, one after the other, until both are done.
fn work<T, U>(
    ends: &mut [End; 2],
    clock: fn() -> u64,
    mut here: Pin<Box<impl Future<Output = T>>>,
    mut there: Pin<Box<impl Future<Output = U>>>,
) -> (T, U, Worked) {
    let (mut first, mut second, mut worked) = (None, None, [0; 2]);
    loop {
        let begun = clock();
        turn(&mut ends[0], &mut here, &mut first);
        let between = clock();
        turn(&mut ends[1], &mut there, &mut second);
        worked = [worked[0] + (between - begun), worked[1] + (clock() - between)];
        match (first.take(), second.take()) {
            (Some(first), Some(second)) => return (first, second, worked),
            unfinished => (first, second) = unfinished,
        }
    }
}

/// One end does what it can.
fn turn<T>(end: &mut End, work: &mut Pin<Box<impl Future<Output = T>>>, done: &mut Option<T>) {
    end.poll();
    if done.is_none()
        && let Poll::Ready(value) = poll_once(work)
    {
        *done = Some(value);
    }
    end.poll();
}

/// The network stack of one agent.
struct End {
    net: Rc<RefCell<Net>>,
    cable: Cable,
}

impl End {
    fn new(mut cable: Cable, number: u8) -> Self {
        let line = format!("ip=10.0.0.{number}/24 port=7");
        let options = AgentOptions::parse(&line).expect("a command line");
        let config = options.config([2, 0, 0, 0, 0, number], 0, Security::Plain);
        let net = Net::new(&config.network(), &mut cable, u64::from(number), Instant::default());
        Self { net: Rc::new(RefCell::new(net)), cable }
    }

    fn poll(&mut self) {
        self.net.borrow_mut().poll(&mut self.cable, Instant::default());
    }
}

/// One end of a network of memory.
#[derive(Clone)]
struct Cable {
    into: Rc<RefCell<Packets>>,
    out: Rc<RefCell<Packets>>,
}

/// What goes one way.
#[derive(Default)]
struct Packets {
    queue: VecDeque<Vec<u8>>,
    /// Packets that were received, for those to come.
    spare: Vec<Vec<u8>>,
}

struct Received(Rc<RefCell<Packets>>, Vec<u8>);
struct Sending(Rc<RefCell<Packets>>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        let result = take(&self.1);
        self.0.borrow_mut().spare.push(self.1);
        result
    }
}

impl phy::TxToken for Sending {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = self.0.borrow_mut().spare.pop().unwrap_or_default();
        packet.resize(length, 0);
        let result = fill(&mut packet);
        self.0.borrow_mut().queue.push_back(packet);
        result
    }
}

impl Device for Cable {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sending)> {
        let packet = self.into.borrow_mut().queue.pop_front()?;
        Some((Received(self.into.clone(), packet), Sending(self.out.clone())))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sending> {
        Some(Sending(self.out.clone()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities.segmentation.tcpv4 = Some(LONGEST);
        capabilities
    }
}
