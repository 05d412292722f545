//! An interface against frames from anybody.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::SocketAddrV4;
use core::time::Duration;
use std::boxed::Box;

use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};

use super::LARGE;
use crate::command_line::AgentOptions;
use crate::net::{Connection, Net};
use crate::secure::Security;
use crate::tasks::{Instant, Task, Timer, poll_once};

/// Frames from anybody on the network: an interface with a listener, a caller, a port for datagrams and, if the first
/// byte is odd, no address yet. Before each frame there is its length, 2 bytes, and by how much later it comes, in ms.
pub fn network(bytes: &[u8]) {
    let Some((choice, mut bytes)) = bytes.split_first() else { return };
    let line = if choice % 2 == 0 { "ip=10.0.0.1/24 gw=10.0.0.2" } else { "ip=dhcp" };
    let config = AgentOptions::parse(line).expect("a command line").config([2; 6], 0, Security::Plain);
    let (mut frames, clock) = (Frames::default(), Rc::new(RefCell::new(0)));
    let net = Rc::new(RefCell::new(Net::new(&config.network(), &mut frames, 1, Instant::default())));
    let time = clock.clone();
    let timer = Timer::new(move || Instant::from_ns(*time.borrow()));
    net.borrow_mut().open_datagrams(7077);
    let mut tasks = [listening(net.clone(), timer.clone()), calling(net.clone(), timer.clone())];
    net.borrow_mut().poll(&mut frames, Instant::default());
    while let Some(([low, high, later], rest)) = bytes.split_first_chunk() {
        let (frame, rest) = rest.split_at(rest.len().min(u16::from_le_bytes([*low, *high]).into()));
        bytes = rest;
        frames.waiting.push_back(frame.to_vec());
        *clock.borrow_mut() += u64::from(*later) * 1_000_000;
        let now = timer.now();
        for task in &mut tasks {
            let _ = poll_once(task);
        }
        net.borrow_mut().poll(&mut frames, now);
        let _ = net.borrow().address();
        let _ = net.borrow_mut().poll_at(now);
        while net.borrow_mut().receive_datagram(|_, bytes| bytes.len()).is_some() {}
    }
}

/// Listens, and says back what it hears.
fn listening(net: Rc<RefCell<Net>>, timer: Timer) -> Task {
    Box::pin(async move {
        while let Ok(connection) = Connection::listen(&net, &timer, 7077, LARGE) {
            echo(connection).await;
        }
    })
}

/// Calls somebody, and says back what it hears.
fn calling(net: Rc<RefCell<Net>>, timer: Timer) -> Task {
    Box::pin(async move {
        loop {
            let to = SocketAddrV4::new([10, 0, 0, 2].into(), 7077);
            match Connection::connect(&net, &timer, to, LARGE).await {
                Ok(connection) => echo(connection).await,
                Err(_) => timer.sleep(Duration::from_millis(100)).await,
            }
        }
    })
}

async fn echo(connection: Connection) {
    if connection.accepted().await.is_err() {
        return;
    }
    let mut byte = [0];
    while connection.read_exact(&mut byte).await.is_ok() && connection.write_all(&byte).await.is_ok() {}
}

/// A device that gives what it was given, whatever the checksums say: in the image the backend vouches for them. Who
/// sends has heard what was said: the number of a lease is the one that was asked with, and TCP's numbers count from where
/// the agent is.
#[derive(Default)]
struct Frames {
    waiting: VecDeque<Vec<u8>>,
    heard: Rc<RefCell<Said>>,
}

struct Taken(Vec<u8>);

struct Room(Rc<RefCell<Said>>);

/// What the agent said last.
#[derive(Default)]
struct Said {
    asked: u32,
    /// By port: the next of its own numbers, and the next that it expects.
    next: BTreeMap<u16, (u32, u32)>,
}

/// Where a frame without IP options has its ports, and, behind them, TCP's numbers, or the number of a lease.
const FROM: usize = 34;
const TO: usize = 36;
const SEQUENCE: usize = 38;
const ACKNOWLEDGED: usize = 42;
const LEASE: usize = 46;

impl Said {
    fn hear(&mut self, frame: &[u8]) {
        match (frame.get(23), half(frame, FROM)) {
            (Some(17), Some(68)) => self.asked = word(frame, LEASE).unwrap_or_default(),
            (Some(6), Some(port)) => {
                let (Some(sequence), Some(expected)) = (word(frame, SEQUENCE), word(frame, ACKNOWLEDGED)) else {
                    return;
                };
                let (offset, flags) = (u32::from(frame[46] >> 4) * 4, u32::from(frame[47]));
                let length = (frame.len() as u32 - 34).saturating_sub(offset) + (flags & 1) + (flags >> 1 & 1);
                self.next.insert(port, (sequence.wrapping_add(length), expected));
            }
            _ => {}
        }
    }

    fn number(&self, frame: &mut [u8]) {
        let numbers = match (frame.get(23), half(frame, TO)) {
            (Some(17), Some(68)) => [(LEASE, self.asked), (LEASE, 0)],
            (Some(6), Some(port)) => {
                let (next, expected) = self.next.get(&port).copied().unwrap_or_default();
                [(SEQUENCE, expected), (ACKNOWLEDGED, next)]
            }
            _ => return,
        };
        for (at, base) in numbers {
            let Some(number) = word(frame, at) else { return };
            frame[at..at + 4].copy_from_slice(&number.wrapping_add(base).to_be_bytes());
        }
    }
}

fn half(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

fn word(frame: &[u8], at: usize) -> Option<u32> {
    frame.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

impl Device for Frames {
    type RxToken<'a> = Taken;
    type TxToken<'a> = Room;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Taken, Room)> {
        let mut frame = self.waiting.pop_front()?;
        self.heard.borrow().number(&mut frame);
        Some((Taken(frame), Room(self.heard.clone())))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Room> {
        Some(Room(self.heard.clone()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities
    }
}

impl RxToken for Taken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Room {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let written = write(&mut frame);
        self.0.borrow_mut().hear(&frame);
        written
    }
}
