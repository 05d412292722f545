//! Stage 3: the guest runs at the target; what is missing follows.
//!
//! Three things bring a page. *Demand*: the guest touched it, and waits; it goes out before anything else, on the
//! control connection. *Prepull*: neighbours of a demanded page go with it, as many as have been wanted lately.
//! *Push*: the rest follows in the background, in small batches that begin behind the last fault, on the bulk
//! connection, which is kept so short of data that a page on its way there arrives soon.

use core::convert::Infallible;
use core::time::Duration;

use common::control::{Progress, State};
use common::{BATCH, Gfn, PAGE_SIZE, Span};
use embassy_futures::select::{Either, select};

use crate::datagram::DatagramSocket;
use crate::error::{PeerFault, PlatformError, Refusal, SessionError, Wait};
use crate::host::toolstack::Complaint;
use crate::ledger::Stage;
use crate::limits::{PAGE_RETRY, PEER_WAIT, UNEVEN, XEN_RETRY};
use crate::messages::Inlet;
use crate::platform::{Pager, SourceMemory, TargetMemory};
use crate::rescue;
use crate::source::{Batch, Committed, Departure, Phase};
use crate::target::Arrival;
use crate::tasks::Instant;
use crate::wire::{Cause, Message};

/// Bytes that may be on their way in the background once somebody waits for pages, at least.
const LEAST_BACKLOG: usize = FEW * PAGE_SIZE;
/// Pages pushed in one go, and as long as somebody waits for pages now and then: a demanded page may have to wait for one go.
pub(crate) const PUSH: usize = 16;
const FEW: usize = 4;
/// How many of the last push latencies are kept: their minimum is compared with the lowest of all.
const LATELY: usize = 4;
/// Most neighbours sent along with a demanded page.
const NEIGHBOURS: u64 = 32;
/// Prepulled runs that are remembered, to see whether they were wanted.
const REMEMBERED: usize = 8;

// The source.

/// Sends what is missing over one pair of connections, until they are of no more use. The target says when nothing is
/// missing any more.
pub(crate) async fn serve<S: SourceMemory>(departure: &mut Departure<S>, _: &Committed) -> SessionError {
    match serve_demands(departure).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn serve_demands<S: SourceMemory>(departure: &mut Departure<S>) -> Result<Infallible, SessionError> {
    let (inbox, timer) = (departure.inbox().clone(), departure.timer().clone());
    let recovers = inbox.phase() == Phase::Recovering;
    departure.begin_answering();
    departure.say(Message::Commit).await?;
    if recovers {
        take_stock(departure).await?;
    }
    departure.begin(Stage::DirtyCopy);
    let total = departure.pages().left().count();
    let mut pace = Pace::default();
    let mut prepull = Prepull::default();
    let mut next = Gfn(0);
    loop {
        let demanded = inbox.next_demand();
        let bulk = departure.bulk();
        let ahead = pace.allowed(bulk.delivered(), timer.now(), bulk.in_flight());
        let unsent = !departure.pages().left().is_empty();
        if let Some(gfn) = demanded {
            pace.contended = true;
            next = gfn;
            let urgent = answer(departure, gfn).await?;
            if urgent {
                timer.hurry();
                departure.answering(timer.yield_now()).await;
            }
            let window = prepull.judge(gfn);
            if urgent && !inbox.has_demands() {
                let run = send_neighbours(departure, gfn, window).await?;
                prepull.remember(run);
            }
            departure.summary_mut().prepull_hits = prepull.hits;
        } else if unsent && departure.bulk().backlog() < ahead {
            next = push(departure, next, if pace.contended { FEW } else { PUSH }).await?;
            pace.pushed(departure.bulk().sent(), timer.now());
            departure.answering(timer.yield_now()).await;
        } else {
            departure.wait(unsent.then_some(ahead)).await;
        }
        report(departure, total);
    }
}

/// After the agents lost each other the target says what it has not got.
async fn take_stock<S>(departure: &mut Departure<S>) -> Result<(), SessionError> {
    let (inbox, timer) = (departure.inbox().clone(), departure.timer());
    let missing = timer.within(PEER_WAIT, timer.wait_for(|| inbox.missing())).await;
    let missing = missing.ok_or(SessionError::TimedOut(Wait::Missing))?;
    let resent = departure.pages_mut().take_stock(&missing.borrow())?;
    departure.summary_mut().resent += resent;
    departure.summary_mut().recoveries += 1;
    departure.toolstack().state(State::Committed);
    Ok(())
}

/// Sends a demanded page, unless it is on its way already; whether it was not.
pub(crate) async fn answer<S: SourceMemory>(departure: &mut Departure<S>, gfn: Gfn) -> Result<bool, SessionError> {
    if !departure.pages_mut().take(gfn) {
        if !departure.pages().ram().contains(gfn) {
            return Err(SessionError::Peer(PeerFault::NoSuchPage));
        }
        return Ok(false);
    }
    let sent = send(departure, Cause::Demand, Batch::from_slice(&[gfn]).unwrap_or_default()).await?;
    if !sent {
        departure.inbox().demand_again(gfn);
    }
    Ok(sent)
}

/// Sends the missing pages among the `window` that follow `gfn`; the run of frames that this covers.
async fn send_neighbours<S: SourceMemory>(
    departure: &mut Departure<S>,
    gfn: Gfn,
    window: u64,
) -> Result<Span, SessionError> {
    let run = Span { first: Gfn(gfn.0 + 1), count: window };
    let batch = departure.pages_mut().take_within(run);
    let any = !batch.is_empty() && send(departure, Cause::Prepull, batch).await?;
    Ok(Span { count: if any { window } else { 0 }, ..run })
}

/// Pushes one batch: what was dirtied last first, then on from the last fault. Gives where to go on.
pub(crate) async fn push<S: SourceMemory>(
    departure: &mut Departure<S>,
    from: Gfn,
    count: usize,
) -> Result<Gfn, SessionError> {
    let (batch, next) = departure.pages_mut().take_next(from, count);
    send(departure, Cause::Push, batch).await?;
    Ok(next)
}

/// Sends pages that have been taken out of what is left. After the commit nobody is helped by giving up: pages that
/// cannot be read now go back, and are tried again a little later. Whether all were sent.
async fn send<S: SourceMemory>(
    departure: &mut Departure<S>,
    cause: Cause,
    mut batch: Batch,
) -> Result<bool, SessionError> {
    let committed = departure.inbox().is_committed();
    let wanted = batch.clone();
    let unreadable = match departure.send(cause, &mut batch).await {
        Ok(unreadable) => unreadable,
        Err(SessionError::Here(error)) if committed => {
            departure.complain(error);
            wanted
        }
        Err(error) => return Err(error),
    };
    if unreadable.is_empty() {
        return Ok(true);
    }
    if !committed {
        return Err(SessionError::Refused(Refusal::Unreadable));
    }
    // Nothing can be read any more of a domain that is gone.
    if departure.source().info() == Err(PlatformError::Gone) {
        return Err(SessionError::Refused(Refusal::Gone));
    }
    let (holes, unreadable) = departure.split_holes(unreadable);
    if !holes.is_empty() {
        departure.send_as_zeros(&holes).await?;
    }
    if unreadable.is_empty() {
        return Ok(true);
    }
    departure.pages_mut().put_back(unreadable);
    let timer = departure.timer().clone();
    departure.answering(timer.sleep(PAGE_RETRY)).await;
    Ok(false)
}

fn report<S>(departure: &Departure<S>, total: u64) {
    let done = departure.summary().stage3_pages.min(total);
    departure.report(Progress { stage: 3, done, total, ..Progress::default() });
}

/// How much may be on its way in the background once somebody waits for pages: as much as does not queue. While some of what was
/// pushed lately arrived about as soon as the first little did, or sooner, a little more may follow; when all of it took
/// longer, it waits somewhere, and demanded pages behind it. (The soonest of the last few counts, as in RFC 6817, section
/// 3.4.2: a single one may be late for any reason.)
struct Pace {
    allowed: usize,
    least: Duration,
    lately: heapless::HistoryBuf<Duration, LATELY>,
    pushed: Option<Pushed>,
    /// Somebody has waited for a page: the guest runs.
    contended: bool,
}

/// Something that was pushed.
#[derive(Clone, Copy)]
struct Pushed {
    /// Where it ends, in bytes since the connection began.
    end: u64,
    at: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            allowed: LEAST_BACKLOG,
            least: Duration::MAX,
            lately: heapless::HistoryBuf::new(),
            pushed: None,
            contended: false,
        }
    }
}

impl Pace {
    fn pushed(&mut self, sent: u64, now: Instant) {
        if self.contended {
            self.pushed.get_or_insert(Pushed { end: sent, at: now });
        }
    }

    /// Bytes that may be on their way, now that `delivered` have arrived, if the connection lets so many be: as long as nobody has
    /// waited, those.
    fn allowed(&mut self, delivered: u64, now: Instant, most: usize) -> usize {
        if !self.contended {
            return most;
        }
        if let Some(Pushed { end, at }) = self.pushed
            && delivered >= end
        {
            self.pushed = None;
            self.lately.write(now - at);
            let soonest = self.lately.iter().copied().min().unwrap_or_default();
            self.least = self.least.min(soonest);
            let queues = soonest > self.least / 2 * 3 + UNEVEN;
            let more = (self.allowed / 8).max(FEW * PAGE_SIZE / 2);
            let next = if queues { self.allowed / 4 * 3 } else { self.allowed + more };
            self.allowed = next.min(most).max(LEAST_BACKLOG);
        }
        self.allowed
    }
}

/// How many neighbours pay: twice as many after a hit, half as many after a miss.
struct Prepull {
    window: u64,
    hits: u64,
    runs: heapless::Deque<Span, REMEMBERED>,
}

impl Default for Prepull {
    fn default() -> Self {
        Self { window: 4, hits: 0, runs: heapless::Deque::new() }
    }
}

impl Prepull {
    /// A demand says whether earlier neighbours were wanted: it is for one of them, which then crossed it on the way,
    /// or for the page right behind them, to which the guest came through all of them.
    fn judge(&mut self, gfn: Gfn) -> u64 {
        let wanted = self.runs.iter_mut().find(|run| (run.first..=run.end()).contains(&gfn));
        match wanted {
            Some(run) if run.count != 0 => {
                self.hits += if gfn == run.end() { run.count } else { 1 };
                run.count = 0;
                self.window = (self.window * 2).min(NEIGHBOURS);
            }
            _ => self.window = (self.window / 2).max(1),
        }
        self.window
    }

    fn remember(&mut self, run: Span) {
        if run.count == 0 {
            return;
        }
        if self.runs.is_full() {
            self.runs.pop_front();
        }
        let _ = self.runs.push_back(run);
    }
}

// The target.

/// Takes note of every fault, whatever happens to the connections: one that stalls must not keep a fault from being known,
/// and the hypervisor's ring of faults is small and must not fill up while there is none.
pub(crate) async fn watch_faults<T: TargetMemory + Pager>(arrival: &Arrival<T>) -> Infallible {
    let mut complaint = Complaint::default();
    loop {
        let next = || arrival.target().next_fault().transpose();
        match arrival.timer().wait_for(next).await {
            Ok(fault) if fault.dropped => arrival.forget(fault.gfn),
            Ok(fault) => arrival.note_fault(fault),
            Err(error) => {
                complaint.about(&arrival.toolstack().id, format_args!("no word of faults: {error}"));
                arrival.timer().sleep(XEN_RETRY).await;
            }
        }
    }
}

/// Once the guest may run: demands every page that somebody waits for, at once, and by datagram those that are late.
pub(crate) async fn ask<T: TargetMemory + Pager>(arrival: &Arrival<T>, socket: &mut DatagramSocket) -> SessionError {
    arrival.timer().wait_for(|| arrival.is_running().then_some(())).await;
    match select(say_demands(arrival), rescue::ask(arrival, socket)).await {
        Either::First(error) => error,
        Either::Second(never) => match never {},
    }
}

async fn say_demands<T>(arrival: &Arrival<T>) -> SessionError {
    loop {
        let wanted = arrival.timer().wait_for(|| Some(arrival.take_unsaid()).filter(|wanted| !wanted.is_empty())).await;
        if let Err(error) = arrival.demand(&wanted).await {
            return error;
        }
        arrival.timer().hurry();
    }
}

/// Takes what the source pushes.
pub(crate) async fn take_pushed<T: TargetMemory + Pager>(arrival: &Arrival<T>, bulk: &mut Inlet) -> SessionError {
    loop {
        let placed = match bulk.next().await {
            Ok(Message::Pages(pages)) if pages.cause() == Cause::Push => arrival.place_for_good(&pages).await,
            Ok(Message::Digests(digests)) => arrival.take_digests(&digests),
            Ok(_) => Err(SessionError::Peer(PeerFault::OutOfTurn)),
            Err(error) => Err(error),
        };
        if let Err(error) = placed {
            return error;
        }
        arrival.report(3);
    }
}

const _: () = assert!(FEW <= PUSH && PUSH <= BATCH && NEIGHBOURS <= BATCH as u64);

#[cfg(test)]
mod tests;
