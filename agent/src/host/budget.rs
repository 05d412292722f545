//! The agent's memory, and whose turn it is: a session that does not fit yet waits, one that never will is refused.
//!
//! A guest takes memory at both ends of its migration, and the source keeps its part while the target waits for its own. So
//! that hosts that migrate to each other do not wait for each other for ever, departures leave room for one arrival as large as
//! the largest of them. Of the hosts in a circle, the one with the largest departure then has room for what the circle waits for,
//! and an arrival that has been let in has all that it needs.
//!
//! Otherwise the first to ask is the first to begin, whichever way its guest goes: a large one is not passed by small ones for
//! ever. What does not depend on that room alone waits for whoever came before.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

use common::control::Size;
use common::{PublicKey, cost};

use crate::error::{Refusal, SessionError};
use crate::host::peers::{AT_ONCE, Peers, Seat};
use crate::tasks::Timer;

/// How many times what a session was promised it may come to have. Without a limit one peer that says that its guest is huge
/// would have all the memory that others need.
const GROWTH: usize = 2;

/// What is not promised to any session yet, and who waits for it.
#[derive(Clone)]
pub(crate) struct Budget(Rc<Inner>);

struct Inner {
    timer: Timer,
    total: usize,
    /// Bytes of the agent's domain that no session may have.
    beside: usize,
    /// The agents that guests come from.
    sources: Peers,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Bytes promised.
    used: [usize; 2],
    /// Sessions that have had their turn.
    running: [usize; 2],
    /// What an arrival of each guest would take that departs.
    mirrors: Vec<usize>,
    /// Who waits, the first to ask first.
    waiting: Vec<Queued>,
    last: u64,
}

/// Which way a guest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Out = 0,
    In = 1,
}

/// What a session needs to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    way: Way,
    size: Size,
    /// At an arrival, the source's agent.
    peer: Option<PublicKey>,
    /// An earlier life of this agent had it in hand: it goes before all others.
    again: bool,
}

/// A session in the queue.
#[derive(Clone, Copy)]
struct Queued {
    number: u64,
    want: Want,
    /// Bytes, at this end; and an arrival's of the same guest.
    bytes: usize,
    mirror: usize,
    /// Bytes that it may come to have, as its guest grows.
    limit: usize,
}

impl Queued {
    /// Bytes without which it can never begin.
    fn needs(&self) -> usize {
        self.bytes.saturating_add(self.mirror)
    }
}

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Memory of the agent that others have, or wait for.
    Memory,
    /// The end of one of so many migrations of the same way.
    Place,
    /// The end of one of so many from the same host.
    Peer,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory of this host's agent, which other migrations have",
            Self::Place => "the end of one of the migrations that this host's agent serves already",
            Self::Peer => "the end of one of the migrations from the same host",
        })
    }
}

impl Want {
    /// To send a guest away.
    pub(crate) fn to_leave(size: Size) -> Self {
        Self { way: Way::Out, size, peer: None, again: false }
    }

    /// To take a guest in from `peer`.
    pub(crate) fn to_arrive(size: Size, peer: Option<PublicKey>) -> Self {
        Self { way: Way::In, size, peer, again: false }
    }

    /// The same of a guest that an earlier life of this agent had in hand.
    pub(crate) fn again(self) -> Self {
        Self { again: true, ..self }
    }

    /// The same without a promise for digests: they find room at the switch, or not.
    fn unverified(self) -> Self {
        Self { size: Size { digests: 0, ..self.size }, ..self }
    }
}

impl Budget {
    /// `total` bytes for sessions, in a domain that has `beside` more.
    pub(crate) fn new(total: usize, beside: usize, timer: Timer) -> Self {
        Self(Rc::new(Inner { timer, total, beside, sources: Peers::default(), state: RefCell::default() }))
    }

    /// Queues for what `want` says. Refused at once if it would never fit.
    pub(crate) fn queue(&self, want: Want) -> Result<Turn, SessionError> {
        let mut queued = self.priced(want);
        if queued.needs() > self.0.total {
            queued = Queued { limit: queued.limit, ..self.priced(want.unverified()) };
        }
        if queued.needs() > self.0.total {
            let needed = self.0.beside.saturating_add(queued.needs());
            return Err(SessionError::Refused(Refusal::NeverFits { memory_mib: needed.div_ceil(1 << 20) as u64 }));
        }
        let state = &mut *self.0.state.borrow_mut();
        state.last += 1;
        queued.number = state.last;
        let place = if want.again { 0 } else { state.waiting.len() };
        state.waiting.insert(place, queued);
        Ok(Turn { budget: self.clone(), number: state.last })
    }

    /// Promises `bytes` to something small, until what is returned is dropped, if there is room now.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<Reservation, SessionError> {
        let mut reservation = self.promise(Way::Out, 0, usize::MAX);
        reservation.add(bytes)?;
        Ok(reservation)
    }

    /// Frames of the largest guest that fits: it can leave, and arrive at the same time.
    pub(crate) fn largest(&self) -> u64 {
        let fits = |frames| self.priced(Want::to_leave(Size { frames, digests: 0 })).needs() <= self.0.total;
        let (mut fitting, mut too_many) = (0u64, 1u64 << 40);
        while fitting + 1 < too_many {
            let middle = fitting.midpoint(too_many);
            *(if fits(middle) { &mut fitting } else { &mut too_many }) = middle;
        }
        fitting
    }

    fn priced(&self, want: Want) -> Queued {
        let arrival = cost::arrival(&want.size);
        let (bytes, mirror) = match want.way {
            Way::Out => (cost::departure(&want.size), arrival),
            Way::In => (arrival, 0),
        };
        Queued { number: 0, want, bytes, mirror, limit: bytes.saturating_mul(GROWTH) }
    }

    /// What the session lacks that waits under this number.
    fn lacks(&self, number: u64) -> Option<Lack> {
        let Inner { total, sources, state, .. } = &*self.0;
        let state = &*state.borrow();
        let Queued { want, bytes, mirror, .. } = state.waiting.iter().find(|other| other.number == number)?;
        let has_place = |want: &Want| state.running[want.way as usize] < AT_ONCE;
        let has_seat = |want: &Want| want.again || want.way == Way::Out || sources.has_room(want.peer);
        if !has_seat(want) {
            return Some(Lack::Peer);
        }
        if !has_place(want) {
            return Some(Lack::Place);
        }
        // Who waits for something else is passed.
        let older = || {
            let older = state.waiting.iter().take_while(|other| other.number != number);
            older.filter(|older| has_seat(&older.want) && has_place(&older.want))
        };
        let ([leaving, arriving], kept) = (state.used, state.kept());
        let may = match want.way {
            Way::Out => older().next().is_none() && leaving + bytes + arriving.max(kept).max(*mirror) <= *total,
            Way::In if older().next().is_none() && leaving + arriving + bytes <= *total => true,
            // What is kept for arrivals waits for no departure, nor for an arrival that does.
            Way::In => {
                let leaves = older().next().is_some_and(|first| first.want.way == Way::Out);
                let waits = |first: &Queued| leaves || leaving + first.bytes > *total;
                older().find(|older| older.want.way == Way::In).is_none_or(waits) && arriving + bytes <= kept
            }
        };
        (!may).then_some(Lack::Memory)
    }

    fn promise(&self, way: Way, bytes: usize, limit: usize) -> Reservation {
        self.0.state.borrow_mut().used[way as usize] += bytes;
        Reservation { budget: self.clone(), way, bytes, unused: bytes, limit, begun: None }
    }
}

impl State {
    /// What is kept for arrivals.
    fn kept(&self) -> usize {
        self.mirrors.iter().copied().max().unwrap_or(0)
    }
}

/// A place in the queue, until dropped.
pub(crate) struct Turn {
    budget: Budget,
    number: u64,
}

impl Turn {
    /// What it still waits for.
    pub(crate) fn lacks(&self) -> Option<Lack> {
        self.budget.lacks(self.number)
    }

    /// Begins, if it is its turn.
    pub(crate) fn take(&self) -> Option<Reservation> {
        if self.lacks().is_some() {
            return None;
        }
        let Inner { sources, state, .. } = &*self.budget.0;
        let Queued { want, bytes, mirror, limit, .. } = {
            let state = &mut *state.borrow_mut();
            let place = state.waiting.iter().position(|other| other.number == self.number)?;
            let queued = state.waiting.remove(place);
            state.running[queued.want.way as usize] += 1;
            if queued.want.way == Way::Out {
                state.mirrors.push(queued.mirror);
            }
            queued
        };
        let mut reservation = self.budget.promise(want.way, bytes, limit);
        let seat = (want.way == Way::In).then(|| sources.seat_again(want.peer));
        reservation.begun = Some(Begun { mirror, _seat: seat });
        Some(reservation)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Inner { timer, state, .. } = &*self.budget.0;
        state.borrow_mut().waiting.retain(|other| other.number != self.number);
        timer.nudge();
    }
}

/// Memory that a session may use.
pub(crate) struct Reservation {
    budget: Budget,
    way: Way,
    bytes: usize,
    /// Of those, what nobody has asked for yet.
    unused: usize,
    limit: usize,
    /// One of the sessions that may run at once.
    begun: Option<Begun>,
}

struct Begun {
    mirror: usize,
    _seat: Option<Seat>,
}

impl Reservation {
    /// Promises `bytes`: of what the session was promised when it began, or more if there is room now.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), SessionError> {
        let Inner { total, state, .. } = &*self.budget.0;
        let state = &mut *state.borrow_mut();
        let more = bytes.saturating_sub(self.unused);
        if self.bytes.saturating_add(more) > self.limit {
            return Err(SessionError::Refused(Refusal::Outgrown));
        }
        let [leaving, arriving] = state.used;
        let others = match self.way {
            Way::Out => leaving + arriving.max(state.kept()),
            Way::In => leaving + arriving,
        };
        if more > 0 && others.saturating_add(more) > *total {
            return Err(SessionError::Refused(Refusal::NoMemory));
        }
        self.unused = self.unused.saturating_sub(bytes);
        self.bytes += more;
        state.used[self.way as usize] += more;
        Ok(())
    }

    /// Promises what `sets` page sets over `frames` frames take.
    pub(crate) fn add_sets(&mut self, frames: u64, sets: usize) -> Result<(), SessionError> {
        self.add(cost::sets(frames, sets))
    }

    /// Promises what `sets` page sets take more once they grow, and, until what is returned is dropped, what growing takes: a
    /// set is in two places for a moment, and its old one is too small for the next.
    pub(crate) fn grow_sets(&mut self, from: u64, to: u64, sets: usize) -> Result<Self, SessionError> {
        let mut moving = self.budget.promise(self.way, 0, self.limit);
        moving.add(cost::sets(to, 2))?;
        self.add(cost::sets(to, sets).saturating_sub(cost::sets(from, sets)))?;
        Ok(moving)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Inner { timer, state, .. } = &*self.budget.0;
        let state = &mut *state.borrow_mut();
        state.used[self.way as usize] -= self.bytes;
        if let Some(Begun { mirror, .. }) = &self.begun {
            state.running[self.way as usize] -= 1;
            if let Some(place) = state.mirrors.iter().position(|other| other == mirror) {
                state.mirrors.swap_remove(place);
            }
        }
        // Somebody may have waited for it.
        timer.nudge();
    }
}

#[cfg(test)]
mod tests;
