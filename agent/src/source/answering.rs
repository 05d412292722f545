//! The source answers what a target asks for by datagram.

use alloc::boxed::Box;
use core::future::poll_fn;
use core::net::SocketAddrV4;
use core::pin::pin;

use common::{Gfn, PAGE_SIZE, Page, PageMask, PageSet};

use super::is_zero;
use crate::datagram::DatagramSocket;
use crate::limits::PAGE_EVERY;
use crate::platform::SourceMemory;
use crate::tasks::{Instant, Timer};
use crate::wire::{PIECE, PieceMask, Rescue};

/// Datagrams that are looked at before others get a turn.
const PER_TURN: usize = 16;
/// Pages that may be asked for at once, and after that one in each [`PAGE_EVERY`]: so many and no more are read and sent,
/// however often a peer asks.
const BURST: u32 = 64;

/// Answers what the target asks for by datagram.
pub(crate) struct Answering {
    socket: DatagramSocket,
    timer: Timer,
    /// The guest stands still here, and what is read is what the target must get.
    settled: bool,
    allowance: Allowance,
    page: Box<[Page; 1]>,
}

/// How much may be read and sent.
#[derive(Default)]
struct Allowance {
    /// When the last page would have been sent, had each come at its time.
    paid_until: Instant,
}

impl Allowance {
    /// Takes one page out of it; whether there was one.
    fn take(&mut self, now: Instant) -> bool {
        let due = self.paid_until.max(now) + PAGE_EVERY;
        let may = due <= now + PAGE_EVERY * BURST;
        if may {
            self.paid_until = due;
        }
        may
    }
}

impl Answering {
    pub(crate) fn new(socket: DatagramSocket, timer: Timer) -> Self {
        Self { socket, timer, settled: false, allowance: Allowance::default(), page: Box::new([[0; PAGE_SIZE]]) }
    }

    /// Answers from here on: after the commit.
    pub(crate) fn begin(&mut self) {
        self.settled = true;
    }

    /// Does `work`, and answers meanwhile.
    pub(crate) async fn beside<S: SourceMemory, T>(
        &mut self,
        source: &mut S,
        ram: &PageSet,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.turn(source, ram);
            work.as_mut().poll(context)
        })
        .await
    }

    fn turn<S: SourceMemory>(&mut self, source: &mut S, ram: &PageSet) {
        if !self.settled {
            return;
        }
        let Self { socket, timer, allowance, page, .. } = self;
        for _ in 0..PER_TURN {
            let read = |socket: &mut DatagramSocket, from: SocketAddrV4, rescue: Rescue<'_>| match rescue {
                Rescue::Probe(stamp) => _ = socket.send_to(from, &Rescue::Echo(stamp)),
                Rescue::Ask(wanted) => {
                    for (gfn, pieces) in Rescue::wanted(wanted).filter(|(gfn, _)| ram.contains(*gfn)) {
                        if !allowance.take(timer.now()) {
                            break;
                        }
                        if source.read(&[gfn], &mut page[..]) == Ok(PageMask::first(1)) {
                            send_pieces(socket, from, gfn, &page[0], pieces);
                        }
                    }
                }
                // What a source says.
                Rescue::Echo(_) | Rescue::Zero(_) | Rescue::Piece { .. } => {}
            };
            if !socket.receive(read) {
                return;
            }
        }
        timer.nudge();
    }
}

fn send_pieces(socket: &mut DatagramSocket, to: SocketAddrV4, gfn: Gfn, page: &Page, pieces: PieceMask) {
    if is_zero(page) {
        socket.send_to(to, &Rescue::Zero(gfn));
        return;
    }
    for (index, bytes) in page.as_chunks::<PIECE>().0.iter().enumerate() {
        if pieces.contains(index) {
            socket.send_to(to, &Rescue::Piece { gfn, index, bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::tasks::ns;

    #[test]
    fn who_asks_without_end_gets_a_burst_and_then_a_page_at_a_time() {
        let (mut allowance, second) = (Allowance::default(), Duration::from_secs(1));
        let at = |span: Duration| Instant::default() + span;
        let granted = (0..10_000).filter(|_| allowance.take(at(second))).count();
        assert_eq!(granted as u32, BURST);
        // Asked for every microsecond of a second.
        let granted = (0..1_000_000).filter(|us| allowance.take(at(second + Duration::from_micros(*us)))).count();
        assert_eq!(granted as u64, ns(second) / ns(PAGE_EVERY) - 1);
        assert_eq!((0..10_000).filter(|_| allowance.take(at(second * 10))).count() as u32, BURST);
    }
}
