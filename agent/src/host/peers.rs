//! Limits the sessions that one peer may have per direction, so that a stalled peer cannot use them all.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::SocketAddrV4;

use common::PublicKey;

use crate::platform::ARRIVALS;

/// Sessions that may run at once, each way.
pub(crate) const AT_ONCE: usize = ARRIVALS;
/// Those of them that one agent may have.
const EACH: usize = 4;

/// The agent that is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Callee {
    pub(crate) address: SocketAddrV4,
    /// Its key; nothing if its connections are plain.
    pub(crate) key: Option<PublicKey>,
}

/// The agents at the other ends of sessions.
#[derive(Clone, Default)]
pub(crate) struct Peers(Rc<RefCell<Vec<PublicKey>>>);

/// One session of an agent, until dropped.
pub(crate) struct Seat {
    peers: Peers,
    peer: Option<PublicKey>,
}

impl Peers {
    /// Whether `peer` may have one more. Of plain connections nobody knows whose they are.
    pub(crate) fn has_room(&self, peer: Option<PublicKey>) -> bool {
        self.0.borrow().iter().filter(|other| Some(**other) == peer).count() < EACH
    }

    /// A session with `peer` begins, unless there are many.
    pub(crate) fn seat(&self, peer: Option<PublicKey>) -> Option<Seat> {
        self.has_room(peer).then(|| self.seat_again(peer))
    }

    /// The same, however many there are: an earlier life of this agent began it.
    pub(crate) fn seat_again(&self, peer: Option<PublicKey>) -> Seat {
        self.0.borrow_mut().extend(peer);
        Seat { peers: self.clone(), peer }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let peers = &mut *self.peers.0.borrow_mut();
        if let Some(place) = peers.iter().position(|peer| Some(*peer) == self.peer) {
            peers.swap_remove(place);
        }
    }
}

const _: () = assert!(EACH < AT_ONCE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_so_many_sessions_and_leaves_room_for_others() {
        let (peers, one, other) = (Peers::default(), Some(PublicKey([1; 32])), Some(PublicKey([2; 32])));
        let mut seats: Vec<Seat> = (0..EACH).map(|_| peers.seat(one).unwrap()).collect();
        assert!(peers.seat(one).is_none());
        assert!(peers.seat(other).is_some());
        seats.pop();
        assert!(peers.seat(one).is_some());
        // What an earlier life began is never refused.
        let again = peers.seat_again(one);
        assert!(peers.seat(one).is_none());
        drop((seats, again));
        assert!(peers.0.borrow().is_empty());
    }

    #[test]
    fn plain_agents_are_nobody() {
        let peers = Peers::default();
        let seats: Vec<_> = (0..2 * EACH).map(|_| peers.seat(None)).collect();
        assert!(seats.iter().all(Option::is_some) && peers.0.borrow().is_empty());
    }
}
