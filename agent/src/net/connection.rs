//! A TCP connection, as a session sees it.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::net::SocketAddrV4;
use core::task::Poll;
use core::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use super::congestion::{CongestionWindow, Room, Sent};
use super::window::{Buffers, SPARE, USUAL};
use super::{Net, endpoint};
use crate::error::LinkError;
use crate::limits::{KEEP_ALIVE, LINGER};
use crate::net::path_mtu::Mark;
use crate::net::recovery::Losses;
use crate::tasks::{Instant, Timer};

/// One TCP connection. Dropping it closes it, after what was written has been delivered if it lingers.
pub(crate) struct Connection {
    net: Rc<RefCell<Net>>,
    timer: Timer,
    handle: SocketHandle,
    received: Cell<u64>,
    sent: Cell<u64>,
    in_flight: Cell<usize>,
    /// What its first round trip took.
    round_trip: Cell<Duration>,
    congestion: RefCell<CongestionWindow>,
    patience: Cell<Option<Duration>>,
    /// When smoltcp is told of a patience that has become shorter.
    shorter_from: Cell<Option<Instant>>,
    /// Whether what was written is still delivered when this is dropped.
    lingers: Cell<bool>,
}

impl Connection {
    fn new(net: &Rc<RefCell<Net>>, timer: &Timer, buffers: Buffers) -> Self {
        let mut socket = tcp::Socket::new(buffer(buffers.receive), buffer(buffers.send));
        let in_flight = Cell::new(socket.send_capacity());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let handle = {
            let net = &mut *net.borrow_mut();
            net.path.hope(timer.now());
            net.sockets.add(socket)
        };
        Self {
            net: net.clone(),
            timer: timer.clone(),
            handle,
            received: Cell::new(0),
            sent: Cell::new(0),
            in_flight,
            round_trip: Cell::default(),
            congestion: RefCell::default(),
            patience: Cell::new(None),
            shorter_from: Cell::new(None),
            lingers: Cell::new(false),
        }
    }

    /// A connection that waits for a peer; see [`Connection::accepted`].
    pub(crate) fn listen(
        net: &Rc<RefCell<Net>>,
        timer: &Timer,
        port: u16,
        buffers: Buffers,
    ) -> Result<Self, LinkError> {
        let connection = Self::new(net, timer, buffers);
        connection.socket(|socket| socket.listen(port)).map_err(|_| LinkError::Full)?;
        Ok(connection)
    }

    /// Waits until somebody has begun to connect.
    pub(crate) async fn approached(&self) {
        let listens = || self.socket(|socket| socket.state() == tcp::State::Listen);
        self.timer.wait_for(|| (!listens()).then_some(())).await;
    }

    /// Lets what is written be delivered even after this is dropped, and the peer take what it has said for heard. For strangers no
    /// memory is kept; and who gives up a call that it has made has heard nothing, whatever TCP has.
    pub(crate) fn linger(&self) {
        self.lingers.set(true);
    }

    /// Waits until a peer has connected.
    pub(crate) async fn accepted(&self) -> Result<(), LinkError> {
        self.established(LinkError::Lost).await
    }

    /// Connects to `peer`.
    pub(crate) async fn connect(
        net: &Rc<RefCell<Net>>,
        timer: &Timer,
        peer: SocketAddrV4,
        buffers: Buffers,
    ) -> Result<Self, LinkError> {
        let connection = Self::new(net, timer, buffers);
        {
            let net = &mut *net.borrow_mut();
            net.next_port = net.next_port.checked_add(1).unwrap_or(49152);
            let socket = net.sockets.get_mut::<tcp::Socket>(connection.handle);
            socket
                .connect(net.interface.context(), (*peer.ip(), peer.port()), net.next_port)
                .map_err(|_| LinkError::NoAnswer(peer))?;
        }
        timer.nudge();
        connection.established(LinkError::NoAnswer(peer)).await?;
        Ok(connection)
    }

    async fn established(&self, otherwise: LinkError) -> Result<(), LinkError> {
        use tcp::State::{Closed, Listen, SynReceived, SynSent};
        let begun = self.timer.now();
        let open = || match self.socket(|socket| socket.state()) {
            Listen | SynSent | SynReceived => None,
            Closed => Some(Err(otherwise)),
            _ => Some(Ok(())),
        };
        self.timer.wait_for(open).await?;
        self.round_trip.set(self.timer.now() - begun);
        Ok(())
    }

    /// What the round trip took that opened it.
    pub(crate) fn round_trip(&self) -> Duration {
        self.round_trip.get()
    }

    /// Bytes that the peer may have on their way to here.
    pub(crate) fn window(&self) -> usize {
        self.socket(|socket| socket.recv_capacity()).saturating_sub(SPARE)
    }

    /// How long the peer may say nothing, or take nothing of what it is sent, before the connection counts as lost; `None`
    /// waits for ever. A shorter patience than before counts from now on: so far the peer was entitled to the longer one.
    pub(crate) fn set_patience(&self, patience: Option<Duration>) {
        let before = self.patience.replace(patience);
        if before == patience {
            return;
        }
        let shorter = patience.filter(|&patience| before.is_none_or(|before| patience < before));
        self.shorter_from.set(shorter.map(|patience| self.timer.now() + patience));
        self.socket(|socket| {
            if shorter.is_none() {
                socket.set_timeout(patience.map(Into::into));
            }
            let often = patience.map_or(KEEP_ALIVE, |patience| KEEP_ALIVE.min(patience / 5));
            socket.set_keep_alive(Some(often.into()));
        });
    }

    /// Lets no more than `bytes` be on their way at once.
    pub(crate) fn limit_in_flight(&self, bytes: usize) {
        self.in_flight.set(self.in_flight.get().min(bytes));
    }

    /// Bytes that may be on their way at once.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Where the other end is, as long as there is one.
    pub(crate) fn peer(&self) -> Option<SocketAddrV4> {
        self.socket(|socket| socket.remote_endpoint()).and_then(endpoint)
    }

    /// Fills `into`.
    pub(crate) async fn read_exact(&self, into: &mut [u8]) -> Result<(), LinkError> {
        let mut done = 0;
        poll_fn(|_| {
            while done < into.len() {
                match self.socket(|socket| socket.recv_slice(&mut into[done..])) {
                    Ok(0) => return Poll::Pending,
                    Ok(count) => {
                        done += count;
                        self.received.set(self.received.get() + count as u64);
                        self.timer.nudge();
                    }
                    Err(tcp::RecvError::Finished) => return Poll::Ready(Err(LinkError::Closed)),
                    Err(tcp::RecvError::InvalidState) => return Poll::Ready(Err(LinkError::Lost)),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Hands all of `bytes` to the connection; they may not have left yet.
    pub(crate) async fn write_all(&self, bytes: &[u8]) -> Result<(), LinkError> {
        let mut done = 0;
        while done < bytes.len() {
            let more = || match self.write_some(&bytes[done..]) {
                Ok(0) => None,
                written => Some(written),
            };
            done += self.patiently(more).await?;
        }
        Ok(())
    }

    /// Waits until `progress` gives something, for as long as the connection has patience. A peer whose TCP is alive may
    /// still never read: the guest must not wait for that.
    pub(crate) async fn patiently<T>(
        &self,
        mut progress: impl FnMut() -> Option<Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        if let Some(made) = progress() {
            return made;
        }
        match self.patience.get() {
            Some(patience) => {
                self.timer.within(patience, self.timer.wait_for(progress)).await.ok_or(LinkError::Lost)?
            }
            None => self.timer.wait_for(progress).await,
        }
    }

    /// Hands over what there is room for now; how many bytes that were.
    pub(crate) fn write_some(&self, bytes: &[u8]) -> Result<usize, LinkError> {
        let mut done = 0;
        while done < bytes.len() {
            let end = done + self.room(bytes.len() - done);
            match self.socket(|socket| socket.send_slice(&bytes[done..end])) {
                Ok(0) => break,
                Ok(count) => {
                    done += count;
                    self.sent.set(self.sent.get() + count as u64);
                    self.timer.nudge();
                }
                Err(tcp::SendError::InvalidState) => return Err(LinkError::Lost),
            }
        }
        Ok(done)
    }

    /// How many of `wanted` bytes may be handed over now.
    fn room(&self, wanted: usize) -> usize {
        let sent = Sent { handed_over: self.sent(), delivered: self.delivered(), losses: self.losses() };
        match self.congestion.borrow_mut().room(self.timer.now(), sent, wanted, self.in_flight.get()) {
            Room::Bytes(bytes) => bytes,
            Room::From(then) => {
                self.timer.wake_at(then);
                0
            }
        }
    }

    fn losses(&self) -> Losses {
        self.ends().map(|(here, there)| self.net.borrow().recovery.losses(here, there)).unwrap_or_default()
    }

    /// Has TCP send the first packet again that is not acknowledged.
    pub(crate) fn prompt(&self) {
        if let Some((here, there)) = self.ends() {
            self.net.borrow().recovery.prompt(here, there);
            self.timer.nudge();
        }
    }

    /// The port here, and the other end.
    fn ends(&self) -> Option<(u16, SocketAddrV4)> {
        self.socket(|socket| Some((socket.local_endpoint()?.port, endpoint(socket.remote_endpoint()?)?)))
    }

    /// Whether it still can be written to.
    pub(crate) fn check(&self) -> Result<(), LinkError> {
        if self.socket(|socket| socket.may_send()) { Ok(()) } else { Err(LinkError::Lost) }
    }

    /// The clock that it waits by.
    pub(crate) fn timer(&self) -> &Timer {
        &self.timer
    }

    /// Bytes written that the peer has not acknowledged.
    pub(crate) fn backlog(&self) -> usize {
        self.socket(|socket| socket.send_queue())
    }

    /// What has been sent and heard so far.
    pub(crate) fn mark(&self) -> Mark {
        self.net.borrow().path.mark()
    }

    /// So many bytes were acknowledged at once.
    pub(crate) fn passed(&self, bytes: u64) {
        self.net.borrow().path.pass(bytes);
    }

    /// Nothing has been acknowledged since. If it is too large, packets get smaller; whether it was.
    pub(crate) fn doubt(&self, since: Mark) -> bool {
        self.net.borrow().path.doubt(since, self.timer.now())
    }

    /// The bytes of the largest packet that is sent.
    pub(crate) fn largest(&self) -> u64 {
        self.net.borrow().path.limit() as u64
    }

    /// Waits until the peer has acknowledged everything written.
    pub(crate) async fn arrived(&self) -> Result<(), LinkError> {
        self.patiently(|| match self.check() {
            Ok(()) if self.backlog() > 0 => None,
            outcome => Some(outcome),
        })
        .await
    }

    /// Bytes handed over by [`Connection::write_some`] so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Those of them that the peer has acknowledged.
    pub(crate) fn delivered(&self) -> u64 {
        self.sent() - self.backlog() as u64
    }

    /// Bytes handed out by [`Connection::read_exact`] so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Ends it at once; the peer sees it break.
    pub(crate) fn abort(&self) {
        self.socket(tcp::Socket::abort);
        self.timer.nudge();
    }

    /// Waits until everything written has been acknowledged and the peer has closed its end; `false` if the connection
    /// ended otherwise.
    pub(crate) async fn finished(&self) -> bool {
        use tcp::State::{Closed, Closing, LastAck, TimeWait};
        self.socket(|socket| socket.close());
        self.timer.nudge();
        // A peer that closed first leaves nothing to wait for after its last acknowledgement.
        let mut has_all = false;
        self.timer
            .wait_for(|| {
                let state = self.socket(|socket| socket.state());
                has_all |= state == TimeWait || matches!(state, Closing | LastAck) && self.backlog() == 0;
                matches!(state, TimeWait | Closed).then_some(has_all)
            })
            .await
    }

    fn socket<T>(&self, look: impl FnOnce(&mut tcp::Socket<'static>) -> T) -> T {
        let net = &mut *self.net.borrow_mut();
        let socket = net.sockets.get_mut::<tcp::Socket>(self.handle);
        // smoltcp counts from the last packet that came. One that came since then is young enough.
        if self.shorter_from.get().is_some_and(|from| self.timer.now() >= from) {
            self.shorter_from.set(None);
            socket.set_timeout(self.patience.get().map(Into::into));
        }
        look(socket)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let lingers = self.lingers.get();
        self.socket(|socket| if lingers { socket.close() } else { socket.abort() });
        let deadline = self.timer.now() + LINGER;
        self.net.borrow_mut().linger(self.handle, deadline);
    }
}

/// A socket's buffer of this size, or of the usual one if the heap has no such piece.
fn buffer(size: usize) -> tcp::SocketBuffer<'static> {
    let mut bytes = Vec::new();
    let has_room = bytes.try_reserve_exact(size).is_ok();
    bytes.resize(if has_room { size } else { size.min(USUAL) }, 0);
    tcp::SocketBuffer::new(bytes)
}
