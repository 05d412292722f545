//! The agent's side of the [control protocol](common::control): requests come in, reports go out.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::ops::ControlFlow;
use core::time::Duration;

use common::control::{self, AgentStatus, FailureCause, Progress, Request, RequestId, State, Summary};

use crate::limits::PROGRESS_EVERY;
use crate::platform::Store;
use crate::tasks::{Instant, Timer, rate};

/// Ended sessions whose reports are kept.
const KEPT: usize = 8;
/// Sessions that may run or wait. What a request takes before its turn comes is little.
const SESSIONS: usize = 64;

/// What fails again and again is said ever more seldom: the first time, the second, the fourth, and so on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Complaint(u32);

impl Complaint {
    /// Something of session `id` has failed once more and will be tried again.
    pub(crate) fn about(&mut self, id: &RequestId, error: impl fmt::Display) {
        self.0 = self.0.wrapping_add(1);
        if self.0.is_power_of_two() {
            log::error!("{id}: {error}; trying again ({} times so far)", self.0);
        }
    }
}

/// Does `work` until it has a result, with a `pause` and a [`Complaint`] after each error that may pass.
pub(crate) async fn retry<T, E: fmt::Display>(
    timer: &Timer,
    id: &RequestId,
    pause: Duration,
    mut work: impl FnMut() -> ControlFlow<T, E>,
) -> T {
    let mut complaint = Complaint::default();
    loop {
        match work() {
            ControlFlow::Break(result) => return result,
            ControlFlow::Continue(error) => complaint.about(id, error),
        }
        timer.sleep(pause).await;
    }
}

/// What a session says to the toolstack and hears from it.
pub(crate) struct Toolstack {
    pub(crate) id: RequestId,
    timer: Timer,
    outbox: RefCell<Vec<(String, String)>>,
    suspended: Cell<Option<bool>>,
    cancelled: Cell<bool>,
    ended: Cell<bool>,
    /// The last progress.
    last: Cell<Said>,
}

impl Toolstack {
    pub(crate) fn new(id: RequestId, timer: Timer) -> Self {
        Self {
            id,
            timer,
            outbox: RefCell::default(),
            suspended: Cell::new(None),
            cancelled: Cell::new(false),
            ended: Cell::new(false),
            last: Cell::default(),
        }
    }

    /// Says where the session stands.
    pub(crate) fn state(&self, state: State) {
        log::info!("{}: {state}", self.id);
        self.ended.set(state.is_end());
        if matches!(state, State::Built { .. }) {
            self.queue(self.id.built(), state.to_string());
        }
        self.queue(self.id.state(), state.to_string());
    }

    /// Leaves what a later life of the agent must know; the toolstack keeps it.
    pub(crate) fn note(&self, note: &str) {
        self.queue(self.id.note(), note.to_string());
    }

    /// Says how far the stage is, unless it was said a moment ago. The rate is filled in here.
    pub(crate) fn progress(&self, mut progress: Progress) {
        let now = self.timer.now();
        let Said { at: then, progress: last } = self.last.get();
        let same = last.stage == progress.stage && last.bytes <= progress.bytes;
        let is_end = progress.done == progress.total && last.done != progress.done;
        if same && now < then + PROGRESS_EVERY && !is_end {
            return;
        }
        let moved = if same { progress.bytes - last.bytes } else { 0 };
        progress.rate_kib = rate(moved, now - then) / 1024;
        self.last.set(Said { at: now, progress });
        self.queue(self.id.progress(), progress.to_string());
    }

    /// Leaves the figures of the whole migration.
    pub(crate) fn summary(&self, summary: &Summary) {
        self.queue(self.id.summary(), summary.to_string());
    }

    /// What the toolstack answered to [`State::Suspend`], if it has.
    pub(crate) fn suspended(&self) -> Option<bool> {
        self.suspended.get()
    }

    /// Whether the toolstack wants to give up.
    pub(crate) fn cancelled(&self) -> bool {
        self.cancelled.get()
    }

    /// Takes in a word of the toolstack's.
    fn hear(&self, path: &str, value: &[u8]) {
        if path == self.id.cancel() {
            self.cancelled.set(true);
        } else if path == self.id.suspended() && self.suspended.get().is_none() {
            self.suspended.set(match value {
                b"yes" => Some(true),
                b"no" => Some(false),
                _ => None,
            });
        }
    }

    fn queue(&self, path: String, value: String) {
        self.outbox.borrow_mut().push((path, value));
    }
}

/// Progress, and when it was said.
#[derive(Clone, Copy, Default)]
struct Said {
    at: Instant,
    progress: Progress,
}

/// The sessions that the toolstack has asked for, and the store behind them.
pub(crate) struct Registry<S> {
    store: S,
    timer: Timer,
    open: Vec<Rc<Toolstack>>,
    ended: VecDeque<RequestId>,
    swept: bool,
}

impl<S: Store> Registry<S> {
    pub(crate) fn new(store: S, timer: Timer) -> Self {
        Self { store, timer, open: Vec::new(), ended: VecDeque::new(), swept: false }
    }

    /// Says that the agent can serve.
    pub(crate) fn announce(&mut self, status: &AgentStatus) {
        self.store.write(control::AGENT, &status.to_string());
    }

    /// What the toolstack asked for since the last turn.
    pub(crate) fn next_request(&mut self) -> Option<(Rc<Toolstack>, Request)> {
        if !self.swept {
            self.swept = true;
            self.sweep();
        }
        while let Some((path, value)) = self.store.next_change() {
            let Some(id) = named(&path) else { continue };
            if let Some(toolstack) = self.open.iter().find(|toolstack| toolstack.id == id) {
                toolstack.hear(&path, &value);
            } else if path != id.request() || self.ended.contains(&id) {
                // A word that came after the end, to a request that is tidied away already.
                self.store.remove(&id.request());
            } else if !value.is_empty()
                && let Some(request) = self.open_session(id, &value)
            {
                return Some(request);
            }
        }
        None
    }

    /// Writes what the sessions reported, and forgets those that ended long ago.
    pub(crate) fn flush(&mut self) {
        for toolstack in &self.open {
            for (path, value) in toolstack.outbox.borrow_mut().drain(..) {
                self.store.write(&path, &value);
            }
        }
        let ended: Vec<RequestId> =
            self.open.extract_if(.., |toolstack| toolstack.ended.get()).map(|toolstack| toolstack.id.clone()).collect();
        for id in ended {
            self.store.remove(&id.request());
            self.ended.push_back(id);
        }
        while self.ended.len() > KEPT {
            if let Some(id) = self.ended.pop_front() {
                self.store.remove(&id.session());
            }
        }
    }

    fn open_session(&mut self, id: RequestId, line: &[u8]) -> Option<(Rc<Toolstack>, Request)> {
        let toolstack = Rc::new(Toolstack::new(id, self.timer.clone()));
        let running = self.open.len();
        self.open.push(toolstack.clone());
        let request = core::str::from_utf8(line).ok().map(str::parse::<Request>);
        let reason = match request {
            // What was begun is taken up, and what was left is discarded, however many there are.
            Some(Ok(request)) if running < SESSIONS || !matches!(request, Request::Out { .. } | Request::In { .. }) => {
                return Some((toolstack, request));
            }
            Some(Ok(_)) => format!("the agent already has {running} migrations to see to"),
            Some(Err(error)) => format!("the toolstack's request is malformed: {error}"),
            None => "the toolstack's request is not text".to_string(),
        };
        toolstack.state(State::Failed { cause: FailureCause::Other, reason });
        None
    }

    /// What an earlier life of the agent left behind answers to nobody.
    fn sweep(&mut self) {
        for name in self.store.list(control::REQUESTS) {
            if let Ok(id) = name.parse::<RequestId>() {
                self.store.remove(&id.request());
            }
        }
        for name in self.store.list(control::SESSIONS) {
            if let Ok(id) = name.parse::<RequestId>() {
                self.store.remove(&id.session());
            }
        }
    }
}

/// The request that a changed path belongs to.
fn named(path: &str) -> Option<RequestId> {
    let below = path.strip_prefix(control::REQUESTS)?.strip_prefix('/')?;
    below.split('/').next()?.parse().ok()
}
