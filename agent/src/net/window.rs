//! How much connections may have on their way.
//!
//! What fills a path is its rate times its round trip: a third of a megabyte in most data centres, many times as much between
//! two of them. Both ends hold that much: the sender until it is acknowledged, the receiver until what was lost before it has
//! come. So a pool is kept for the paths that need more, and a connection takes at most a quarter of what is left of it.

use core::time::Duration;

use smoltcp::socket::Socket;

use super::Net;
use crate::tasks::share;

/// Bytes that a source has on their way at once, at most, on each of its connections, unless [`Net::window`] gives more.
///
/// Together they stay within the 512 KiB that Linux's netback queues for one interface: what comes on top of that in one
/// burst it drops, and the sender notices only after a second (smoltcp's shortest retransmission timeout). And each
/// stays below what the target can hold: a receiver that says "no room" while a packet of it is lost makes smoltcp 0.14
/// forget to send that packet again, for ever (it takes the window probe's timer for the retransmission's).
pub(crate) const IN_FLIGHT_BULK: usize = 320 << 10;
/// See [`IN_FLIGHT_BULK`].
pub(crate) const IN_FLIGHT_CONTROL: usize = 128 << 10;
/// What a target can hold beyond that.
pub(crate) const SPARE: usize = 64 << 10;
/// Bytes of the larger buffer of a socket without a wide window.
pub(super) const USUAL: usize = IN_FLIGHT_BULK + SPARE;
/// The share of what is left of the pool that a connection gets at most.
const SHARE: usize = 4;
/// Bytes a second that a connection is to be able to carry: 4 Gbit/s.
const FASTEST: u64 = 500_000_000;

/// Bytes that a connection may hold for the application, per direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffers {
    pub(crate) receive: usize,
    pub(crate) send: usize,
}

impl Buffers {
    /// Both.
    pub(crate) const fn size(self) -> usize {
        self.receive + self.send
    }
}

impl Net {
    /// Bytes that a new connection for bulk may have on their way, if a round trip takes so long.
    pub(crate) fn window(&self, round_trip: Duration) -> usize {
        let fills = share(FASTEST, round_trip, Duration::from_secs(1)) as usize;
        let left = self.windows.saturating_sub(self.wide());
        fills.clamp(IN_FLIGHT_BULK, IN_FLIGHT_BULK + left / SHARE)
    }

    /// Bytes of the pool that connections have.
    fn wide(&self) -> usize {
        let each = self.sockets.iter().map(|(_, socket)| match socket {
            Socket::Tcp(socket) => (socket.recv_capacity() + socket.send_capacity()).saturating_sub(USUAL),
            _ => 0,
        });
        each.sum()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::net::Connection;
    use crate::testing::Pair;

    const POOL: usize = 16 << 20;

    #[test]
    fn a_path_gets_what_fills_it_and_leaves_most_of_the_pool_to_others() {
        let pair = Pair::with_windows(POOL);
        let window = |millis| pair.net.borrow().window(Duration::from_millis(millis));
        assert_eq!([window(0), window(2), window(1000)], [IN_FLIGHT_BULK, 1_000_000, IN_FLIGHT_BULK + POOL / SHARE]);
        let wide = |send| Buffers { receive: SPARE, send };
        let listen = |send| Connection::listen(&pair.net, &pair.timer, 7, wide(send)).unwrap();
        let taken: Vec<_> = (0..8).map(|_| listen(window(1000))).collect();
        let left = window(1000) - IN_FLIGHT_BULK;
        assert!((1 << 18..POOL / SHARE / 4).contains(&left), "{left}");
        drop(taken);
        assert_eq!(window(1000), IN_FLIGHT_BULK + POOL / SHARE);
    }

    #[test]
    fn without_a_pool_there_is_one_window() {
        assert_eq!(Pair::with_windows(0).net.borrow().window(Duration::from_secs(1000)), IN_FLIGHT_BULK);
    }
}
