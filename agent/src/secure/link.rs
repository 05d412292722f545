//! An established connection to a peer that has proved its key: records are sealed and opened here.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use common::PublicKey;

use super::Preamble;
use super::datagram::Datagrams;
use super::record::{Direction, LENGTH, MAX_PAYLOAD, TAG};
use crate::error::LinkError;
use crate::net::Connection;

/// One secured connection. Messages go in through [`Outlet`](crate::messages::Outlet) and come out of
/// [`Inlet`](crate::messages::Inlet); here they are cut into records.
///
/// A message begins with a record of its own, so that the receiver can put its records one after the other and has it
/// whole, without copying.
#[derive(Clone)]
pub(crate) struct Link(Rc<Inner>);

struct Inner {
    connection: Connection,
    proof: Option<Proof>,
    datagrams: Datagrams,
    out: RefCell<Out>,
    into: RefCell<Option<Direction>>,
    /// What sealing and opening took, since somebody asked.
    sealing: Cell<Duration>,
    opening: Cell<Duration>,
}

/// What sealing and opening took.
pub(crate) struct Spent {
    pub(crate) seal: Duration,
    pub(crate) open: Duration,
}

/// What a handshake leaves besides keys.
struct Proof {
    peer: PublicKey,
    hash: [u8; 32],
}

/// The record that is being gathered, or handed over.
#[derive(Default)]
struct Out {
    direction: Option<Direction>,
    record: Vec<u8>,
    /// Bytes of a sealed record, and how many of them have been handed over; 0 of 0 while one is gathered.
    sealed: usize,
    handed: usize,
    /// A message has been begun and not ended.
    open: bool,
}

impl Out {
    /// Takes as many of `bytes` as the record holds.
    fn gather(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(LENGTH + MAX_PAYLOAD - self.record.len());
        self.record.extend_from_slice(&bytes[..count]);
        count
    }

    fn seal(&mut self) {
        let (length, payload) = self.record.split_at_mut(LENGTH);
        let count = (payload.len() as u32).to_le_bytes();
        length.copy_from_slice(&count);
        if let Some(direction) = &mut self.direction {
            let tag = direction.seal(&count, payload);
            self.record.extend_from_slice(&tag);
        }
        self.sealed = self.record.len();
    }

    fn begin_record(&mut self) {
        (self.sealed, self.handed) = (0, 0);
        self.record.clear();
        self.record.resize(LENGTH, 0);
    }
}

/// Payloads of records, one behind the other. They are written over the bytes of earlier ones: clearing those first would
/// cost about as much as copying.
#[derive(Default)]
pub(crate) struct Heard {
    bytes: Vec<u8>,
    length: usize,
}

impl Heard {
    /// What was heard since [`Heard::clear`].
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Forgets it.
    pub(crate) fn clear(&mut self) {
        self.length = 0;
    }

    /// Takes no more memory than `length` bytes need, which are to come.
    pub(crate) fn expect(&mut self, length: usize) {
        self.bytes.reserve_exact((length + TAG).saturating_sub(self.bytes.len()));
    }

    fn room(&mut self, count: usize) -> &mut [u8] {
        let end = self.length + count;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.length..end]
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Link {
    /// A connection without cipher, whose peer is whoever it says.
    pub(crate) fn plain(connection: Connection) -> Self {
        Self::new(connection, None, Datagrams::new(None), Out::default(), None)
    }

    /// A connection after a handshake with `peer`: its hash, and the directions out and in.
    pub(crate) fn sealed(connection: Connection, peer: PublicKey, hash: [u8; 32], [out, into]: [Direction; 2]) -> Self {
        let datagrams = Datagrams::new(Some([out.datagrams(), into.datagrams()]));
        let out = Out { direction: Some(out), ..Out::default() };
        Self::new(connection, Some(Proof { peer, hash }), datagrams, out, Some(into))
    }

    fn new(
        connection: Connection,
        proof: Option<Proof>,
        datagrams: Datagrams,
        out: Out,
        into: Option<Direction>,
    ) -> Self {
        let (out, into) = (RefCell::new(out), RefCell::new(into));
        let (sealing, opening) = Default::default();
        Self(Rc::new(Inner { connection, proof, datagrams, out, into, sealing, opening }))
    }

    /// What sealing and opening took since this was asked last.
    pub(crate) fn take_spent(&self) -> Spent {
        Spent { seal: self.0.sealing.take(), open: self.0.opening.take() }
    }

    /// Does `work`, and counts the time that it took.
    fn spend<T>(&self, spent: &Cell<Duration>, work: impl FnOnce() -> T) -> T {
        let mut sum = spent.get();
        let done = self.0.connection.timer().spend(&mut sum, work);
        spent.set(sum);
        done
    }

    /// The connection under it.
    pub(crate) fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// Who is at the other end; nobody knows on a plain connection.
    pub(crate) fn peer(&self) -> Option<PublicKey> {
        self.0.proof.as_ref().map(|proof| proof.peer)
    }

    /// What both ends of this connection know, and no other connection has; zeros on a plain one.
    pub(crate) fn binding(&self) -> [u8; 32] {
        self.0.proof.as_ref().map_or([0; 32], |proof| proof.hash)
    }

    /// How datagrams between the same agents are sealed and opened.
    pub(crate) fn datagrams(&self) -> Datagrams {
        self.0.datagrams.clone()
    }

    /// Makes room for the longest records at once, where they will come.
    pub(crate) fn reserve(&self) {
        self.0.out.borrow_mut().record.reserve_exact(LENGTH + MAX_PAYLOAD + TAG);
    }

    /// Begins a message. What is left of the one before goes first; if that was not even ended, nothing more can be said.
    pub(crate) async fn begin(&self) -> Result<(), LinkError> {
        self.flush().await?;
        let out = &mut *self.0.out.borrow_mut();
        if core::mem::replace(&mut out.open, true) {
            return Err(LinkError::Lost);
        }
        out.begin_record();
        Ok(())
    }

    /// Whether the last message has been handed over, and none begun since.
    pub(crate) fn is_between_messages(&self) -> bool {
        let out = self.0.out.borrow();
        !out.open && out.handed == out.sealed
    }

    /// Goes on with a message: as many of `bytes` as the record still holds.
    pub(crate) fn gather(&self, bytes: &[u8]) -> usize {
        self.0.out.borrow_mut().gather(bytes)
    }

    /// Goes on with a message. It waits only when a record is full.
    pub(crate) async fn write(&self, mut bytes: &[u8]) -> Result<(), LinkError> {
        loop {
            let count = self.gather(bytes);
            bytes = &bytes[count..];
            if bytes.is_empty() {
                return Ok(());
            }
            self.spend(&self.0.sealing, || self.0.out.borrow_mut().seal());
            self.flush().await?;
            self.0.out.borrow_mut().begin_record();
        }
    }

    /// Ends a message and hands it over. Dropped meanwhile, the rest goes before the next message.
    pub(crate) async fn end(&self) -> Result<(), LinkError> {
        {
            let out = &mut *self.0.out.borrow_mut();
            self.spend(&self.0.sealing, || out.seal());
            out.open = false;
        }
        self.flush().await
    }

    async fn flush(&self) -> Result<(), LinkError> {
        let connection = &self.0.connection;
        loop {
            let hand_over = || {
                let out = &mut *self.0.out.borrow_mut();
                if out.handed == out.sealed {
                    return Some(Ok(true));
                }
                let count = connection.write_some(&out.record[out.handed..out.sealed]);
                out.handed += count.unwrap_or(0);
                match count {
                    Ok(0) => None,
                    Ok(_) => Some(Ok(out.handed == out.sealed)),
                    Err(error) => Some(Err(error)),
                }
            };
            if connection.patiently(hand_over).await? {
                return Ok(());
            }
        }
    }

    /// Appends the payload of the next record to `into`, once it is known to be what the other end sent.
    pub(crate) async fn read(&self, into: &mut Heard) -> Result<(), LinkError> {
        let mut length = [0; LENGTH];
        self.fill(&mut length).await?;
        let count = u32::from_le_bytes(length) as usize;
        let sealed = self.0.proof.is_some();
        if count == 0 || count > MAX_PAYLOAD {
            return Err(if sealed { LinkError::Changed } else { self.misfit(length).await });
        }
        let end = count + if sealed { TAG } else { 0 };
        let record = into.room(end);
        self.fill(record).await?;
        if let Some(direction) = &mut *self.0.into.borrow_mut()
            && let Some((payload, tag)) = record.split_last_chunk_mut::<TAG>()
        {
            self.spend(&self.0.opening, || direction.open(&length, payload, tag))?;
        }
        into.length += count;
        Ok(())
    }

    /// What somebody says on a plain connection where a record should begin: an agent of another version names that.
    async fn misfit(&self, begin: [u8; LENGTH]) -> LinkError {
        let mut answer = Preamble::other_version();
        answer[..LENGTH].copy_from_slice(&begin);
        match self.fill(&mut answer[LENGTH..]).await {
            Ok(()) => Preamble::mismatch(&answer).map_or(LinkError::Lost, LinkError::Version),
            Err(error) => error,
        }
    }

    /// A connection that ends is never more than lost, wherever it ends: what is final is said in records.
    async fn fill(&self, into: &mut [u8]) -> Result<(), LinkError> {
        self.0.connection.read_exact(into).await.map_err(|error| match error {
            LinkError::Closed => LinkError::Lost,
            other => other,
        })
    }
}

#[cfg(test)]
mod tests;
