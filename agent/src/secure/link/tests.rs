use alloc::vec;

use embassy_futures::join::join;

use super::super::{Preamble, Protection, SessionName};
use super::*;
use crate::error::VersionMismatch;
use crate::testing::{Pair, pass, take};
use crate::wire::ConnectionRole;

const PREAMBLE: Preamble =
    Preamble { protection: Protection::Sealed, role: ConnectionRole::Bulk, session: SessionName([7; 16]) };

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
fn an_agent_of_another_version_is_heard_on_a_plain_connection_too() {
    let (mut pair, [here, there]) = Pair::plain();
    let mut answer = Preamble::other_version();
    answer[4] = 3;
    pair.finish(there.connection().write_all(&answer)).unwrap();
    let mismatch = VersionMismatch { theirs: 3, ours: 7 };
    assert_eq!(pair.finish(here.read(&mut Heard::default())), Err(LinkError::Version(mismatch)));
    // Whatever else is no record says nothing.
    pair.finish(here.connection().write_all(&[0; 8])).unwrap();
    assert_eq!(pair.finish(there.read(&mut Heard::default())), Err(LinkError::Lost));
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
