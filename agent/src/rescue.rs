//! Asks by datagram for pages that a virtual CPU waits for and that a lost packet delays on TCP.
//!
//! TCP brings every page in the end, but smoltcp waits a second before it sends a lost packet once more, then two, then
//! four, and everything behind it on the connection waits as well. So a page that somebody waits for and that has not
//! come within a few round trips is asked for again beside the connections, by datagram, until it is here by whatever way.
//! That helps alike when the demand is lost, the answer, or a packet of the push that the page was in: the source has every
//! page until all is complete, and the guest stands still there, so what it reads now is what it sent before.
//!
//! A rescue is a retransmission, not a send: it changes nothing in what TCP carries. The page that comes second is ignored
//! because it is armed no more. Where datagrams do not get through, all works as it would without this.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::time::Duration;

use common::{BATCH, Content, Gfn, PAGE_SIZE, Page};
use embassy_futures::select::select;

use crate::datagram::DatagramSocket;
use crate::limits::{
    FIRST_RTT, LONGEST_ECHO, LONGEST_PAUSE, PROBE_AGAIN, PROBE_EVERY, PROBE_SELDOM, REQUEST_EVERY, RTT_SLACK,
};
use crate::platform::{Pager, TargetMemory};
use crate::target::faults::Waiting;
use crate::target::{Arrival, RESCUED};
use crate::tasks::{Instant, ns};
use crate::wire::{PIECE, PieceMask, Rescue};

/// After so many probes without an echo, one is tried only now and then.
const PROBES: u32 = 20;

/// Asks for pages that are late. Never ends.
pub(crate) async fn ask<T: TargetMemory + Pager>(arrival: &Arrival<T>, socket: &mut DatagramSocket) -> Infallible {
    let timer = arrival.timer();
    let mut asking = Asking::new(timer.now());
    loop {
        while socket.receive(|_, _, rescue| asking.take(arrival, &rescue)) {}
        asking.probe(socket, timer.now());
        asking.request(arrival, socket, timer.now());
        let due = asking.due(arrival);
        let sooner = timer.wait_for(|| (socket.has_mail() || asking.due(arrival) < due).then_some(()));
        select(sooner, timer.sleep_until(due)).await;
        arrival.summary_mut().rescue_refused = socket.refused;
    }
}

struct Asking {
    /// The round trip, smoothed.
    rtt: Option<Duration>,
    /// The shortest: what it is when nothing queues.
    least: Duration,
    unanswered: u32,
    next_probe: Instant,
    next_round: Instant,
    partial: heapless::Vec<Partial, RESCUED>,
}

/// A page of which pieces have come.
struct Partial {
    gfn: Gfn,
    pieces: PieceMask,
    page: Box<Page>,
}

impl Asking {
    fn new(now: Instant) -> Self {
        Self {
            rtt: None,
            least: FIRST_RTT,
            unanswered: 0,
            next_probe: now,
            next_round: now,
            partial: heapless::Vec::new(),
        }
    }

    fn round_trip(&self) -> Duration {
        self.rtt.unwrap_or(FIRST_RTT)
    }

    /// Whether datagrams do not get through.
    fn is_deaf(&self) -> bool {
        self.rtt.is_none() && self.unanswered >= PROBES
    }

    fn probe(&mut self, socket: &mut DatagramSocket, now: Instant) {
        if now < self.next_probe {
            return;
        }
        socket.send(&Rescue::Probe(now.ns()));
        self.unanswered = self.unanswered.saturating_add(1);
        if self.unanswered == PROBES && self.rtt.is_none() {
            log::warn!(
                "no datagram comes through from {}: a lost packet may make the guest wait for a second",
                socket.peer()
            );
        }
        let pause = match self.rtt {
            _ if self.unanswered >= PROBES => PROBE_SELDOM,
            Some(_) => PROBE_EVERY,
            None => PROBE_AGAIN,
        };
        self.next_probe = now + pause;
    }

    /// When a page is to be asked for: the first time after a wait that TCP needs only when something was lost. Once
    /// TCP has been late it is not waited for, until it brings a page again.
    fn due_of(&self, wait: &Waiting, tcp_is_late: bool) -> Instant {
        let rtt = self.round_trip();
        match wait.asked() {
            None if tcp_is_late => wait.since(),
            None => wait.since() + rtt * 2 + RTT_SLACK,
            Some(asked) => {
                // Four at this pace, then ever more seldom.
                let pause = (self.least * 2 + RTT_SLACK) * (1 << (wait.asks() / 4).min(8));
                asked + pause.min(LONGEST_PAUSE.max(rtt * 2))
            }
        }
    }

    /// When there is something to do.
    fn due<T>(&self, arrival: &Arrival<T>) -> Instant {
        if self.is_deaf() {
            return self.next_probe;
        }
        let late = arrival.faults().tcp_is_late();
        let first = arrival.faults().waiting().iter().map(|wait| self.due_of(wait, late)).min();
        first.map_or(self.next_probe, |due| due.max(self.next_round).min(self.next_probe))
    }

    /// Asks for those pages that are late.
    fn request<T>(&mut self, arrival: &Arrival<T>, socket: &mut DatagramSocket, now: Instant) {
        if self.is_deaf() || now < self.next_round {
            return;
        }
        let mut waiting = arrival.faults().waiting();
        self.partial.retain(|partial| waiting.iter().any(|wait| wait.gfn() == partial.gfn));
        let late = arrival.faults().tcp_is_late();
        let mut wanted = Vec::new();
        for wait in waiting.iter_mut().filter(|wait| self.due_of(wait, late) <= now).take(RESCUED) {
            let partial = self.partial.iter().find(|partial| partial.gfn == wait.gfn());
            let have = partial.map(|partial| partial.pieces).unwrap_or_default();
            Rescue::want(&mut wanted, wait.gfn(), have.others());
            wait.ask(now);
            arrival.summary_mut().rescue_asked += 1;
        }
        if !wanted.is_empty() {
            socket.send(&Rescue::Ask(&wanted));
            self.next_probe = now;
            self.probe(socket, now);
            self.next_round = now + REQUEST_EVERY;
        }
    }

    fn take<T: TargetMemory + Pager>(&mut self, arrival: &Arrival<T>, rescue: &Rescue<'_>) {
        match *rescue {
            Rescue::Echo(stamp) => {
                let took =
                    (arrival.timer().now() - Instant::from_ns(stamp)).clamp(Duration::from_nanos(1), LONGEST_ECHO);
                let rtt = self.rtt.map_or(took, |rtt| (rtt * 3 + took) / 4);
                self.rtt = Some(rtt);
                self.least = self.least.min(took);
                self.unanswered = 0;
                arrival.summary_mut().rescue_rtt_us = ns(rtt) / 1000;
            }
            Rescue::Zero(gfn) => arrival.place_rescued(gfn, Content::Zero),
            Rescue::Piece { gfn, index, bytes } => self.put_together(arrival, gfn, index, bytes),
            // What a target says.
            Rescue::Probe(_) | Rescue::Ask(_) => {}
        }
    }

    fn put_together<T: TargetMemory + Pager>(
        &mut self,
        arrival: &Arrival<T>,
        gfn: Gfn,
        index: usize,
        bytes: &[u8; PIECE],
    ) {
        if !arrival.faults().waiting().iter().any(|wait| wait.gfn() == gfn && wait.asked().is_some()) {
            return;
        }
        let place = match self.partial.iter().position(|partial| partial.gfn == gfn) {
            Some(place) => place,
            None => {
                let fresh = Partial { gfn, pieces: PieceMask::default(), page: Box::new([0; PAGE_SIZE]) };
                if self.partial.push(fresh).is_err() {
                    return;
                }
                self.partial.len() - 1
            }
        };
        let partial = &mut self.partial[place];
        partial.page[index * PIECE..][..PIECE].copy_from_slice(bytes);
        partial.pieces.insert(index);
        if partial.pieces == PieceMask::WHOLE {
            let Partial { gfn, page, .. } = self.partial.swap_remove(place);
            arrival.place_rescued(gfn, Content::Bytes(&page));
        }
    }
}

const _: () = assert!(RESCUED <= BATCH);
