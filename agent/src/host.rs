//! What all sessions of a host share.

pub(crate) mod budget;
pub(crate) mod claim;
pub(crate) mod listener;
pub(crate) mod note;
pub(crate) mod peers;
pub(crate) mod pending;
pub(crate) mod toolstack;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::ToString;
use core::cell::RefCell;

use common::control::{SessionToken, State};
use embassy_futures::select::{Either, select};

use crate::config::Config;
use crate::datagram::DatagramPort;
use crate::error::SessionError;
use crate::net::Net;
use crate::platform::Platform;
use crate::tasks::Timer;
use budget::{Budget, Reservation, Want};
use claim::Domains;
use peers::Peers;
use pending::PendingSessions;
use toolstack::Toolstack;

/// What all sessions share.
pub(crate) struct Host<P> {
    pub(crate) platform: Rc<RefCell<P>>,
    pub(crate) net: Rc<RefCell<Net>>,
    pub(crate) pending: Rc<PendingSessions>,
    pub(crate) datagram_port: Rc<DatagramPort>,
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
pub(crate) async fn turn<P: Platform>(
    host: &Host<P>,
    toolstack: &Toolstack,
    want: Want,
) -> Result<Reservation, SessionError> {
    let turn = host.budget.queue(want)?;
    if let Some(lack) = turn.lacks() {
        toolstack.state(State::Waiting { reason: lack.to_string() });
    }
    match select(host.timer.wait_for(|| turn.take()), cancelled(&host.timer, toolstack)).await {
        Either::First(reservation) => Ok(reservation),
        Either::Second(()) => Err(SessionError::Cancelled),
    }
}

/// Waits until the toolstack gives up.
pub(crate) async fn cancelled(timer: &Timer, toolstack: &Toolstack) {
    timer.wait_for(|| toolstack.cancelled().then_some(())).await;
}
