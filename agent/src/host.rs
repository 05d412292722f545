//! What all sessions of a host share.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::ToString;
use core::cell::RefCell;

use common::control::{SessionToken, State};
use embassy_futures::select::{Either, select};

use crate::budget::{Budget, Reservation, Want};
use crate::claim::Domains;
use crate::config::Config;
use crate::datagram::Post;
use crate::desk::Desk;
use crate::error::SessionError;
use crate::lobby::Lobby;
use crate::net::Net;
use crate::peers::Peers;
use crate::platform::Platform;
use crate::tasks::Timer;

/// What all sessions share.
pub(crate) struct Host<P> {
    pub(crate) platform: Rc<RefCell<P>>,
    pub(crate) net: Rc<RefCell<Net>>,
    pub(crate) lobby: Rc<Lobby>,
    pub(crate) post: Rc<Post>,
    pub(crate) timer: Timer,
    pub(crate) config: Rc<Config>,
    pub(crate) budget: Budget,
    pub(crate) domains: Domains,
    /// The agents that guests leave for; the budget knows those that they come from.
    pub(crate) peers: Peers,
    /// Sessions that are over, about which a target may still ask.
    pub(crate) epilogues: RefCell<VecDeque<SessionToken>>,
}

/// Waits for its turn, and says for what. The toolstack may give up meanwhile.
pub(crate) async fn turn<P: Platform>(host: &Host<P>, desk: &Desk, want: Want) -> Result<Reservation, SessionError> {
    let turn = host.budget.queue(want)?;
    if let Some(lack) = turn.lacks() {
        desk.state(State::Waiting { reason: lack.to_string() });
    }
    match select(host.timer.wait_for(|| turn.take()), cancelled(&host.timer, desk)).await {
        Either::First(reservation) => Ok(reservation),
        Either::Second(()) => Err(SessionError::Cancelled),
    }
}

/// Waits until the toolstack gives up.
pub(crate) async fn cancelled(timer: &Timer, desk: &Desk) {
    timer.wait_for(|| desk.cancelled().then_some(())).await;
}
