//! A connection whose other end is known.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use common::PublicKey;

use super::datagram::Datagrams;
use super::record::{Changed, Direction, LENGTH, MAX_PAYLOAD, TAG};
use crate::error::LinkError;
use crate::net::Connection;

/// One secured connection. Messages go in through [`Outlet`](crate::channel::Outlet) and come out of
/// [`Inlet`](crate::channel::Inlet); here they are cut into records.
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
    /// Nanoseconds that sealing and opening took, since somebody asked.
    sealing: Cell<u64>,
    opening: Cell<u64>,
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

    /// Nanoseconds that sealing took since this was asked last, and opening.
    pub(crate) fn take_spent(&self) -> [u64; 2] {
        [self.0.sealing.take(), self.0.opening.take()]
    }

    /// Does `work`, and counts the time that it took.
    fn spend<T>(&self, spent: &Cell<u64>, work: impl FnOnce() -> T) -> T {
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
            return Err(if sealed { LinkError::Changed } else { LinkError::Lost });
        }
        let end = count + if sealed { TAG } else { 0 };
        let record = into.room(end);
        self.fill(record).await?;
        if let Some(direction) = &mut *self.0.into.borrow_mut()
            && let Some((payload, tag)) = record.split_last_chunk_mut::<TAG>()
        {
            self.spend(&self.0.opening, || direction.open(&length, payload, tag))
                .map_err(|Changed| LinkError::Changed)?;
        }
        into.length += count;
        Ok(())
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
mod tests {
    use alloc::vec;

    use embassy_futures::join::join;

    use super::super::{Preamble, Protection, SessionName};
    use super::*;
    use crate::testing::{Pair, pass, take};
    use crate::wire::Channel;

    const PREAMBLE: Preamble =
        Preamble { protection: Protection::Sealed, channel: Channel::Bulk, session: SessionName([7; 16]) };

    /// Two agents, and somebody between them.
    struct Scene {
        pair: Pair,
        links: [Link; 2],
        between: [Connection; 2],
    }

    impl Scene {
        fn new() -> Self {
            let mut pair = Pair::new();
            let wire = pair.wire();
            let (links, between) = pair.shake_hands(wire, PREAMBLE);
            Self { pair, links, between }
        }

        /// One end says something; the record is taken off the wire.
        fn said(&mut self, end: usize, what: &[u8]) -> Vec<u8> {
            let (link, between) = (&self.links[end], &self.between[end]);
            let count = LENGTH + what.len() + TAG;
            self.pair.finish(join(say(link, what), take(between, count))).1
        }

        /// Puts bytes on the wire to one end; what that end makes of them.
        fn hears(&mut self, end: usize, bytes: &[u8]) -> Result<Vec<u8>, LinkError> {
            let (link, between) = (&self.links[end], &self.between[end]);
            let mut record = Heard::default();
            let put = async { between.write_all(bytes).await.unwrap() };
            let (heard, ()) = self.pair.finish(join(link.read(&mut record), put));
            heard.map(|()| record.bytes().to_vec())
        }
    }

    async fn say(link: &Link, what: &[u8]) {
        link.begin().await.unwrap();
        link.write(what).await.unwrap();
        link.end().await.unwrap();
    }

    #[test]
    fn records_pass_in_both_directions() {
        let mut scene = Scene::new();
        for what in [&b"one"[..], b"another"] {
            for end in [0, 1] {
                let record = scene.said(end, what);
                assert!(!record.windows(3).any(|window| window == &what[..3]), "it can be read on its way");
                assert_eq!(scene.hears(1 - end, &record), Ok(what.to_vec()));
            }
        }
    }

    #[test]
    fn a_repeated_record_is_found_out() {
        let mut scene = Scene::new();
        let record = scene.said(0, b"once");
        assert!(scene.hears(1, &record).is_ok());
        assert_eq!(scene.hears(1, &record), Err(LinkError::Changed));
    }

    #[test]
    fn records_in_another_order_are_found_out() {
        let mut scene = Scene::new();
        let _first = scene.said(0, b"first");
        let second = scene.said(0, b"second");
        assert_eq!(scene.hears(1, &second), Err(LinkError::Changed));
    }

    #[test]
    fn a_record_sent_back_to_its_sender_is_found_out() {
        let mut scene = Scene::new();
        let record = scene.said(0, b"whose");
        assert_eq!(scene.hears(0, &record), Err(LinkError::Changed));
    }

    #[test]
    fn a_record_of_another_connection_between_the_same_agents_is_found_out() {
        let (mut one, mut other) = (Scene::new(), Scene::new());
        let record = one.said(0, b"where");
        assert_eq!(other.hears(1, &record), Err(LinkError::Changed));
    }

    #[test]
    fn a_record_of_any_length_that_was_made_up_is_found_out() {
        for length in [0, 1, MAX_PAYLOAD as u32, MAX_PAYLOAD as u32 + 1, u32::MAX] {
            let mut scene = Scene::new();
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.resize(LENGTH + TAG + (length as usize).min(MAX_PAYLOAD), 0);
            let mut record = Heard::default();
            let between = &scene.between[1];
            let put = async { _ = between.write_all(&bytes).await };
            let heard = embassy_futures::select::select(scene.links[1].read(&mut record), async {
                put.await;
                core::future::pending::<()>().await;
            });
            let heard = scene.pair.finish(heard);
            let changed = matches!(heard, embassy_futures::select::Either::First(Err(LinkError::Changed)));
            assert!(changed, "{length}");
        }
    }

    #[test]
    fn a_connection_that_is_cut_anywhere_is_lost_and_not_ended() {
        let whole = LENGTH + 3 + TAG;
        for passed in [0, 1, LENGTH, LENGTH + 2, whole - 1, whole] {
            let mut scene = Scene::new();
            let record = scene.said(0, b"cut");
            let [_, between] = scene.between;
            scene.pair.finish(between.write_all(&record[..passed])).unwrap();
            drop(between);
            let mut heard = Heard::default();
            if passed == whole {
                assert_eq!(scene.pair.finish(scene.links[1].read(&mut heard)), Ok(()));
            }
            assert_eq!(scene.pair.finish(scene.links[1].read(&mut heard)), Err(LinkError::Lost), "{passed}");
        }
    }

    #[test]
    fn a_long_message_takes_as_few_records_as_it_can() {
        let mut scene = Scene::new();
        let what = vec![5; 2 * MAX_PAYLOAD + 1];
        let Scene { pair, links: [here, there], between: [first, second] } = &mut scene;
        let mut heard = Heard::default();
        let hear = async {
            let mut lengths = Vec::new();
            for _ in 0..3 {
                let before = heard.bytes().len();
                there.read(&mut heard).await.unwrap();
                lengths.push(heard.bytes().len() - before);
            }
            lengths
        };
        let on = pass_on(first, second, what.len() + 3 * (LENGTH + TAG));
        let ((), lengths) = pair.finish(join(say(here, &what), async { join(hear, on).await.0 }));
        assert_eq!(lengths, [MAX_PAYLOAD, MAX_PAYLOAD, 1]);
        assert!(heard.bytes() == what);
    }

    /// Passes on as it comes: the wire holds less.
    async fn pass_on(from: &Connection, to: &Connection, count: usize) {
        for _ in 0..count {
            pass(from, to, 1).await;
        }
    }
}
