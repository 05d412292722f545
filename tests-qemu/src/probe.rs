//! Downtime, measured from a third place on the bridge.
//!
//! A guest that was suspended cannot say for how long: its clocks stood still for part of it. So something else sends it
//! an ICMP echo every 10 ms and notes when each answer came. The guest was away for as long as no answer arrived. (The
//! arithmetic is [`gaps`].)
//!
//! The prober's own neighbour table must not add to the measure: give the guest's address a permanent entry there.

pub mod gaps;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

pub use gaps::{Outage, Outcome};
use gaps::{Reply, outcome};

/// Time between two probes.
pub const INTERVAL: Duration = Duration::from_millis(10);
/// How long answers are waited for after the last probe.
const LAST_ANSWERS: Duration = Duration::from_millis(200);
/// How long a silent guest is probed on when the prober is told to stop.
const LAST_CHANCE: Duration = Duration::from_secs(15);

/// A prober at work. Dropping it stops it.
pub struct Prober {
    begun: Instant,
    order: Arc<Order>,
    thread: Option<JoinHandle<Record>>,
}

impl Prober {
    /// Starts to probe `guest`, from the calling thread's network namespace. Needs the right to open raw sockets.
    pub fn start(guest: Ipv4Addr) -> io::Result<Prober> {
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(ipproto::ICMP),
        )?;
        rustix::net::connect(&socket, &SocketAddrV4::new(guest, 0))?;
        let begun = Instant::now();
        let order = Arc::new(Order::default());
        let given = order.clone();
        let thread = std::thread::Builder::new().name("prober".to_owned()).spawn(move || {
            // Two emulated hosts keep the processors busy; the clock here must not wait for them.
            let _ = rustix::process::setpriority_process(None, -20);
            Record::take(&socket, begun, &given)
        })?;
        Ok(Prober { begun, order, thread: Some(thread) })
    }

    /// The time that the outcome's times count from.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// Stops, and says what was seen. `xl migrate` is done before the guest's network is up again, so this first waits
    /// for the answer to a probe that was sent after the call, for at most 15 s.
    pub fn stop(mut self) -> Outcome {
        self.join(Order::AFTER_ANSWER).map(Record::outcome).unwrap_or_default()
    }

    fn join(&mut self, order: u8) -> Option<Record> {
        self.order.0.store(order, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

/// What the prober's thread has been told.
#[derive(Default)]
struct Order(AtomicU8);

impl Order {
    const GO_ON: u8 = 0;
    const AFTER_ANSWER: u8 = 1;
    const NOW: u8 = 2;
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.join(Order::NOW);
    }
}

/// When probes were sent and answered, since the beginning.
#[derive(Default)]
struct Record {
    sent: Vec<Duration>,
    replies: Vec<Reply>,
    end: Duration,
}

impl Record {
    fn take(socket: &OwnedFd, begun: Instant, order: &Order) -> Record {
        let mut record = Record::default();
        let echo = Echo { identifier: std::process::id() as u16 };
        let mut next = Duration::ZERO;
        // When the order to stop came, and the number of the first probe after it.
        let mut told = None;
        loop {
            match order.0.load(Ordering::Relaxed) {
                Order::GO_ON => {}
                Order::AFTER_ANSWER => {
                    let (at, first) = *told.get_or_insert((begun.elapsed(), record.sent.len()));
                    let answered = record.replies.last().is_some_and(|reply| reply.probe >= first);
                    if answered || begun.elapsed() > at + LAST_CHANCE {
                        break;
                    }
                }
                _ => break,
            }
            if begun.elapsed() >= next {
                record.sent.push(begun.elapsed());
                // While the guest is away, sending may fail for want of a route: that probe is lost like any other.
                let request = echo.request(record.sent.len() as u64 - 1);
                let _ = rustix::net::send(socket, &request, SendFlags::empty());
                next += INTERVAL;
            }
            record.receive_until(next, socket, begun, echo);
        }
        let last = begun.elapsed() + LAST_ANSWERS;
        record.end = begun.elapsed();
        while begun.elapsed() < last && record.replies.len() < record.sent.len() {
            record.receive_until(last, socket, begun, echo);
        }
        record
    }

    /// Notes answers until the time `until`.
    fn receive_until(&mut self, until: Duration, socket: &OwnedFd, begun: Instant, echo: Echo) {
        let mut packet = [0; 256];
        loop {
            let left = until.saturating_sub(begun.elapsed());
            let timeout = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let now = begun.elapsed();
            let Ok((len, _)) = rustix::net::recv(socket, &mut packet, RecvFlags::empty()) else { return };
            if let Some(probe) = echo.answered(&packet[..len]).filter(|probe| *probe < self.sent.len() as u64) {
                self.replies.push(Reply { probe: probe as usize, at: now });
            }
        }
    }

    fn outcome(self) -> Outcome {
        outcome(&self.sent, &self.replies, self.end)
    }
}

/// ICMP echo messages of one prober.
#[derive(Clone, Copy)]
struct Echo {
    identifier: u16,
}

impl Echo {
    const REPLY: u8 = 0;
    const REQUEST: u8 = 8;
    /// Type, code, checksum, identifier, sequence, and the number of the probe.
    const LEN: usize = 16;

    fn request(self, probe: u64) -> [u8; Echo::LEN] {
        let mut bytes = [0; Echo::LEN];
        bytes[0] = Echo::REQUEST;
        bytes[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        bytes[6..8].copy_from_slice(&(probe as u16).to_be_bytes());
        bytes[8..].copy_from_slice(&probe.to_be_bytes());
        let sum: u32 = bytes.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
        let folded = (sum & 0xFFFF) + (sum >> 16);
        let folded = (folded & 0xFFFF) + (folded >> 16);
        bytes[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        bytes
    }

    /// The number of the probe that an IPv4 packet answers, if it answers one of ours.
    fn answered(self, packet: &[u8]) -> Option<u64> {
        let header = usize::from(packet.first()? & 15) * 4;
        let message = packet.get(header..header + Echo::LEN)?;
        let identifier = u16::from_be_bytes([message[4], message[5]]);
        let number = message[8..].try_into().map(u64::from_be_bytes).ok()?;
        (message[0] == Echo::REPLY && identifier == self.identifier).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_packet(message: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet.extend(message);
        packet
    }

    #[test]
    fn only_answers_to_our_own_probes_count() {
        let echo = Echo { identifier: 77 };
        let mut message = echo.request(70_000);
        assert_eq!(echo.answered(&as_packet(&message)), None);
        message[0] = Echo::REPLY;
        assert_eq!(echo.answered(&as_packet(&message)), Some(70_000));
        assert_eq!(Echo { identifier: 78 }.answered(&as_packet(&message)), None);
        assert_eq!(echo.answered(&as_packet(&message[..12])), None);
        assert_eq!(echo.answered(&[]), None);
    }

    #[test]
    fn a_request_has_a_valid_checksum() {
        let sum: u32 = Echo { identifier: 0xFFFF }
            .request(0xFFFF_FFFF_FFFF)
            .as_chunks::<2>()
            .0
            .iter()
            .map(|pair| u32::from(u16::from_be_bytes(*pair)))
            .sum();
        assert_eq!(sum % 0xFFFF, 0);
    }

    #[test]
    fn the_loopback_interface_is_always_there() {
        let Ok(prober) = Prober::start(Ipv4Addr::LOCALHOST) else { return };
        std::thread::sleep(Duration::from_millis(300));
        let outcome = prober.stop();
        assert!(outcome.sent >= 5, "{outcome:?}");
        assert_eq!(outcome.answered, outcome.sent);
    }
}
