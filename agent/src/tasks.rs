//! Waiting, without threads or interrupts.
//!
//! All futures of the agent are polled again and again by [`Agent::poll`](crate::Agent::poll) until none gets any
//! further. A future that waits for the network, a fault or the store just says "pending": whatever it waits for wakes
//! the image, which polls again. A future that waits for a time leaves that time here, and one that has changed what
//! another waits for asks for one more turn.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

pub(crate) use common::time::{Instant, ns};

/// A span in milliseconds.
pub(crate) const fn ms(span: Duration) -> u64 {
    ns(span) / 1_000_000
}

/// How many of `count` that is a second.
pub(crate) fn rate(count: u64, took: Duration) -> u64 {
    count.saturating_mul(1_000_000) / (ns(took) / 1000).max(1)
}

/// How many of `count` in `whole` come in `part` of it.
pub(crate) fn share(count: u64, part: Duration, whole: Duration) -> u64 {
    let share = u128::from(count) * u128::from(ns(part)) / u128::from(ns(whole).max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// Something that runs beside others until it is done.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The time, and who waits for it.
#[derive(Clone)]
pub(crate) struct Timer(Rc<Inner>);

struct Inner {
    clock: Box<dyn Fn() -> Instant>,
    earliest: Cell<Option<Instant>>,
    again: Cell<bool>,
    hurry: Cell<bool>,
}

impl Timer {
    /// `clock` never runs backwards.
    pub(crate) fn new(clock: impl Fn() -> Instant + 'static) -> Self {
        Self(Rc::new(Inner {
            clock: Box::new(clock),
            earliest: Cell::default(),
            again: Cell::default(),
            hurry: Cell::default(),
        }))
    }

    pub(crate) fn now(&self) -> Instant {
        (self.0.clock)()
    }

    /// Does `work`, and adds to `spent` what it took.
    pub(crate) fn spend<T>(&self, spent: &mut Duration, work: impl FnOnce() -> T) -> T {
        let begun = self.now();
        let done = work();
        *spent += self.now() - begun;
        done
    }

    /// Asks for one more turn of everybody: something changed that another task may wait for.
    pub(crate) fn nudge(&self) {
        self.0.again.set(true);
    }

    /// Whether anybody asked for one more turn since the last call.
    pub(crate) fn take_nudge(&self) -> bool {
        self.0.again.replace(false)
    }

    /// Says that somebody outside waits for what was just done: it leaves with this turn, and whoever carries it goes first.
    pub(crate) fn hurry(&self) {
        self.0.hurry.set(true);
    }

    /// Whether anybody said so since the last call.
    pub(crate) fn take_hurry(&self) -> bool {
        self.0.hurry.replace(false)
    }

    /// The earliest time that somebody waits for, as of the last turn.
    pub(crate) fn take_earliest(&self) -> Option<Instant> {
        self.0.earliest.take()
    }

    /// Waits until `time`.
    pub(crate) async fn sleep_until(&self, time: Instant) {
        poll_fn(|_| {
            if self.now() >= time {
                return Poll::Ready(());
            }
            self.wake_at(time);
            Poll::Pending
        })
        .await;
    }

    /// Gives everybody a turn at `time`; asked for in this turn, since the next forgets it.
    pub(crate) fn wake_at(&self, time: Instant) {
        let earliest = self.0.earliest.get();
        self.0.earliest.set(Some(earliest.map_or(time, |other| other.min(time))));
    }

    /// Waits for so long.
    pub(crate) async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now() + duration).await;
    }

    /// Lets everybody else go on first.
    pub(crate) async fn yield_now(&self) {
        let mut yielded = false;
        poll_fn(|_| {
            if core::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            self.nudge();
            Poll::Pending
        })
        .await;
    }

    /// Waits until `ready` gives something. It is asked every turn.
    pub(crate) async fn wait_for<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        poll_fn(|_| ready().map_or(Poll::Pending, Poll::Ready)).await
    }

    /// What `future` gives, unless `duration` passes first.
    pub(crate) async fn within<T>(&self, duration: Duration, future: impl Future<Output = T>) -> Option<T> {
        let deadline = self.now() + duration;
        match embassy_futures::select::select(future, self.sleep_until(deadline)).await {
            embassy_futures::select::Either::First(value) => Some(value),
            embassy_futures::select::Either::Second(()) => None,
        }
    }
}

/// Polls once; nobody needs to be woken.
pub(crate) fn poll_once<F: Future + Unpin>(mut future: F) -> Poll<F::Output> {
    Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop()))
}
