//! The way of a page through both ends, on a host without Xen, for `agent/benches` and nobody else.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::num::NonZeroUsize;
use core::pin::Pin;
use core::task::Poll;

use embassy_futures::join::join;
use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::channel::{Inlet, Outlet};
use crate::config::Config;
use crate::net::{Buffers, Connection, IN_FLIGHT_BULK, Net, SPARE};
use crate::platform::{BATCH, Content, Gfn, PAGE_SIZE, Page, PageMask};
use crate::secure::record::{Direction, Key, LENGTH, MAX_PAYLOAD, TAG};
use crate::secure::{Link, PublicKey, Security};
use crate::session::sending;
use crate::tasks::{Timer, poll_once};
use crate::wire::{Cause, Kind, Message};

/// The longest packet that netback takes.
const LONGEST: NonZeroUsize = NonZeroUsize::new(65535).expect("it is not 0");
/// An Ethernet header, and what a network carries behind it.
const FRAME: usize = 14 + 1500;
/// As agents have them: the source sends, the target receives.
const BUFFERS: Buffers = Buffers { receive: IN_FLIGHT_BULK + SPARE, send: IN_FLIGHT_BULK };

/// Which of up to [`BATCH`] pages are zero.
pub fn zero_mask(pages: &[Page]) -> PageMask {
    pages.iter().enumerate().fold(0, |mask, (index, page)| mask | PageMask::from(sending::is_zero(page)) << index)
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
    net: Rc<RefCell<Net>>,
    cable: Cable,
    outlet: Outlet,
    inlet: Inlet,
    stream: [Connection; 2],
    batch: Vec<Page>,
}

impl Ends {
    /// Two ends that are connected; what they say is sealed, or in clear.
    pub fn new(sealed: bool) -> Self {
        let mut cable = Cable::default();
        let config = Config::from_command_line("ip=10.0.0.1/24 port=7", [2, 0, 0, 0, 0, 1], 0, Security::Plain);
        let net = Net::new(&config.expect("it is whole"), &mut cable, 1, 0);
        let net = Rc::new(RefCell::new(net));
        let stream = connect(&net, &mut cable);
        let messages = connect(&net, &mut cable).map(|connection| match sealed {
            true => Link::sealed(connection, PublicKey([0; 32]), [0; 32], directions()),
            false => Link::plain(connection),
        });
        let [here, there] = messages;
        let (outlet, inlet) = (Outlet::new(here), Inlet::new(there, &[Kind::Pages]));
        Self { net, cable, outlet, inlet, stream, batch: vec![[0; PAGE_SIZE]; BATCH] }
    }

    /// Sends the pages `from` as stage 1 does, and places them into `to`.
    pub fn migrate(&mut self, from: &[Page], to: &mut [Page]) {
        let Self { net, cable, outlet, inlet, batch, .. } = self;
        let sending = async {
            for (index, pages) in from.chunks(BATCH).enumerate() {
                let first = (index * BATCH) as u64;
                let gfns: sending::Batch = (first..first + pages.len() as u64).map(Gfn).collect();
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
        finish(net, cable, Box::pin(join(sending, placing)));
    }

    /// Sends `bytes` by TCP alone, and takes them in at the other end.
    pub fn stream(&mut self, bytes: &[u8], into: &mut [u8]) {
        let [here, there] = &self.stream;
        let moving = join(here.write_all(bytes), there.read_exact(into));
        let (sent, read) = finish(&self.net, &mut self.cable, Box::pin(moving));
        sent.and(read).expect("it arrives");
    }
}

/// One more connection: the end that called, the end that was called.
fn connect(net: &Rc<RefCell<Net>>, cable: &mut Cable) -> [Connection; 2] {
    let timer = Timer::new(|| 0);
    let there = Connection::listen(net, &timer, 7, BUFFERS).expect("the port is free");
    let peer = "10.0.0.1:7".parse().expect("it is an address");
    let calling = join(Connection::connect(net, &timer, peer, BUFFERS), there.accepted());
    let (here, accepted) = finish(net, cable, Box::pin(calling));
    accepted.expect("somebody calls");
    [here.expect("somebody listens"), there]
}

/// Runs `future` to its end, and the packets meanwhile.
fn finish<T>(net: &RefCell<Net>, cable: &mut Cable, mut future: Pin<Box<impl Future<Output = T>>>) -> T {
    loop {
        if let Poll::Ready(value) = poll_once(&mut future) {
            return value;
        }
        net.borrow_mut().poll(cable, 0);
    }
}

/// A network of memory: what is sent is received.
#[derive(Clone, Default)]
struct Cable(Rc<RefCell<Packets>>);

#[derive(Default)]
struct Packets {
    queue: VecDeque<Vec<u8>>,
    /// Packets that were received, for those to come.
    spare: Vec<Vec<u8>>,
}

struct Received(Cable, Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        let result = take(&self.1);
        self.0.0.borrow_mut().spare.push(self.1);
        result
    }
}

impl phy::TxToken for Cable {
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
    type TxToken<'a> = Self;

    fn receive(&mut self, _: Instant) -> Option<(Received, Self)> {
        let packet = self.0.borrow_mut().queue.pop_front()?;
        Some((Received(self.clone(), packet), self.clone()))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self> {
        Some(self.clone())
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
