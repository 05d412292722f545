//! What only the fuzzer reaches of this crate (`fuzz/fuzz_targets`): an agent's ends of everything that comes over the
//! network, against somebody who says whatever comes to the fuzzer's mind.

mod network;

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddrV4;
use std::boxed::Box;
use std::sync::OnceLock;

use common::PublicKey;
use common::control::SessionToken;
use embassy_futures::select::{Either, select};

use crate::command_line::AgentOptions;
use crate::datagram::{DatagramPort, End};
use crate::error::LinkError;
use crate::host::listener::Listener;
use crate::host::note::Note;
use crate::host::pending::PendingSessions;
use crate::messages::Inlet;
use crate::net::{Buffers, Connection};
use crate::secure::handshake::{self, Entropy};
use crate::secure::record::{Direction, Key};
use crate::secure::{Heard, Identity, Link, Preamble, Protection, Security, SessionName};
use crate::source::inbox::HEARD;
use crate::target::{BULKS, CONTROLS};
use crate::tasks::poll_once;
use crate::testing::{ADDRESS, Pair, identity, take};
use crate::wire::{ConnectionRole, Kind, Purpose, Rescue};

pub use network::network;

const SESSION: SessionToken = SessionToken([7; 16]);
/// More than any input.
const LARGE: Buffers = Buffers { receive: 16 << 10, send: 16 << 10 };

/// One end of what two agents say to each other; the first byte chooses which.
pub fn channel(bytes: &[u8]) {
    let Some((scene, bytes)) = bytes.split_first() else { return };
    match scene {
        // Seldom: they compute for long.
        0 => call_of_a_stranger(bytes),
        1 => answer_of_a_stranger(bytes),
        scene => match scene % 4 {
            0 => records_of_a_stranger(bytes),
            1 => messages(bytes),
            2 => datagrams(bytes),
            _ => note(bytes),
        },
    }
}

/// Somebody calls who has heard an agent call once, and has no key: nobody is let in, whatever is changed about that call,
/// or follows it.
fn call_of_a_stranger(bytes: &[u8]) {
    let mut pair = Pair::new();
    let pending = Rc::new(PendingSessions::default());
    let [_, callee] = agents();
    let options = AgentOptions::parse("ip=10.0.0.1/24 port=7").expect("a command line");
    let config = Rc::new(options.config([2; 6], 0, Security::Sealed(callee.clone())));
    let mut listener = Listener::new(pair.net.clone(), pair.timer.clone(), pending.clone(), config, entropy);
    let invitation = pending.expect(SESSION, Purpose::Begin, None);
    let (net, timer) = (pair.net.clone(), pair.timer.clone());
    listener.poll();
    let stranger = pair.finish(Connection::connect(&net, &timer, peer(), LARGE)).expect("a place");
    pair.finish(stranger.write_all(&changed(heard_once(), bytes))).expect("room");
    drop(stranger);
    pair.finish(async {
        for _ in 0..16 {
            listener.poll();
            timer.yield_now().await;
        }
    });
    assert!(poll_once(Box::pin(invitation.asked(&timer))).is_pending());
}

/// Somebody answers who does not have the key that is called for.
fn answer_of_a_stranger(bytes: &[u8]) {
    let mut pair = Pair::new();
    let [here, there] = pair.connect();
    let [caller, callee] = agents();
    let call = handshake::call(here, caller, callee.public_key(), preamble(), entropy());
    let answer = async {
        take(&there, handshake::CALL).await;
        let _ = there.write_all(bytes).await;
        drop(there);
        core::future::pending::<()>().await;
    };
    assert!(matches!(pair.finish(select(call, answer)), Either::First(Err(_))));
}

/// The input changes a record on its way, and adds to it: it opens if nothing was changed.
fn records_of_a_stranger(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first() else { return };
    let (mut pair, link, there, mut out) = link();
    let record = sealed(&mut out, &vec![*length; 1 + usize::from(*length)]);
    let said = changed(&record, bytes);
    pair.finish(there.write_all(&said)).expect("room");
    drop(there);
    let mut heard = Heard::default();
    let first = pair.finish(link.read(&mut heard));
    assert_eq!(first.is_ok(), said.starts_with(&record), "{first:?}");
    if first.is_ok() {
        assert!(matches!(pair.finish(link.read(&mut heard)), Err(LinkError::Changed | LinkError::Lost)));
    }
}

/// An agent that is trusted says what no agent says: records of its choice, in any order.
fn messages(bytes: &[u8]) {
    let Some((kinds, mut bytes)) = bytes.split_first() else { return };
    let kinds: &[Kind] = [&[Kind::Hello][..], &HEARD, &CONTROLS, &BULKS][usize::from(kinds % 4)];
    let (mut pair, link, there, mut out) = link();
    let mut said = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (payload, rest) = rest.split_at(rest.len().min(u16::from_le_bytes(*length).into()));
        said.extend(sealed(&mut out, payload));
        bytes = rest;
    }
    let said = &said[..said.len().min(LARGE.receive)];
    pair.finish(there.write_all(said)).expect("room");
    drop(there);
    let mut inlet = Inlet::new(link, kinds);
    while pair.finish(inlet.next()).is_ok() {}
}

/// Datagrams: of anybody, or of the agent at the other end, which says what it wants. A byte says which, another how long.
fn datagrams(mut bytes: &[u8]) {
    const HOME: &str = "10.0.0.1:7077";
    let home: SocketAddrV4 = HOME.parse().expect("an address");
    let (mut pair, link, _there, out) = link();
    let there = Link::sealed(connected(&mut pair), PublicKey([1; 32]), [0; 32], [out, Direction::new(&key(1))]);
    let there = there.datagrams();
    let datagram_port = Rc::new(DatagramPort::new(pair.net.clone(), pair.timer.clone(), home.port()));
    let mut line = datagram_port.open(SESSION, End::Source, link.datagrams(), home);
    let (mut sent, mut read) = (0, 0);
    while let Some(([from, length], rest)) = bytes.split_first_chunk() {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(*length) * 8));
        bytes = rest;
        let mut datagram = body.to_vec();
        if from % 2 == 0 {
            let name = SessionName::of(SESSION).0;
            let counter = there.seal(&name, &mut datagram);
            datagram.splice(..0, name.into_iter().chain(counter.to_le_bytes()));
            sent += u32::from(Rescue::parse(body).is_ok());
        }
        pair.net.borrow_mut().send_datagram(home, [&datagram, &[]]);
        let timer = pair.timer.clone();
        pair.finish(async {
            timer.yield_now().await;
            timer.yield_now().await;
        });
        datagram_port.poll();
        while line.receive(|_, _, _| read += 1) {}
    }
    assert!(read <= sent, "{read} were read of {sent}");
}

/// A note of an earlier life: changed, or of another agent; and what a note may say once it has opened.
fn note(bytes: &[u8]) {
    if let Ok(text) = core::str::from_utf8(bytes) {
        let [agent, _] = agents();
        for security in [Security::Plain, Security::Sealed(agent.clone())] {
            assert!(Note::open(&security, text).is_err());
        }
    }
    if let Ok(note) = Note::parse(bytes) {
        let mut again = Vec::new();
        note.emit(&mut again);
        assert_eq!(Note::parse(&again), Ok(note));
    }
}

/// What agents say first that call for the session.
fn preamble() -> Preamble {
    Preamble { protection: Protection::Sealed, role: ConnectionRole::Control, session: SessionName::of(SESSION) }
}

/// Agents 1 and 2, which know each other.
fn agents() -> &'static [Identity; 2] {
    static AGENTS: OnceLock<[Identity; 2]> = OnceLock::new();
    AGENTS.get_or_init(|| [identity(1, &[2]), identity(2, &[1])])
}

/// What agent 1 said when it called agent 2.
fn heard_once() -> &'static [u8] {
    static HEARD: OnceLock<Vec<u8>> = OnceLock::new();
    HEARD.get_or_init(|| {
        let mut pair = Pair::new();
        let [here, there] = pair.connect();
        let [caller, callee] = agents();
        let call = handshake::call(here, caller, callee.public_key(), preamble(), entropy());
        let Either::Second(call) = pair.finish(select(call, take(&there, handshake::CALL))) else {
            unreachable!("nobody answers")
        };
        [&preamble().emit()[..], &call].concat()
    })
}

fn entropy() -> Entropy {
    Entropy::new([9; 32])
}

/// `genuine` with the bits of `bytes` turned over, and what is left of `bytes` behind it.
fn changed(genuine: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut said = genuine.to_vec();
    said.iter_mut().zip(bytes).for_each(|(said, bit)| *said ^= bit);
    said.extend(bytes.iter().skip(genuine.len()));
    said
}

fn key(number: u8) -> Key {
    Key::new([number; 32])
}

fn peer() -> SocketAddrV4 {
    ADDRESS.parse().expect("an address")
}

/// A connection in the interface's own network, with the other end to the listener.
fn connected(pair: &mut Pair) -> Connection {
    let there = Connection::listen(&pair.net, &pair.timer, 7, LARGE).expect("a socket");
    let (net, timer) = (pair.net.clone(), pair.timer.clone());
    let here = pair.finish(Connection::connect(&net, &timer, peer(), LARGE)).expect("a connection");
    drop(there);
    here
}

/// An agent's link, the connection at its other end, and the keys for what comes from there.
fn link() -> (Pair, Link, Connection, Direction) {
    let mut pair = Pair::new();
    let there = Connection::listen(&pair.net, &pair.timer, 7, LARGE).expect("a socket");
    let (net, timer) = (pair.net.clone(), pair.timer.clone());
    let here = pair.finish(Connection::connect(&net, &timer, peer(), LARGE)).expect("a connection");
    pair.finish(there.accepted()).expect("a connection");
    there.linger();
    let directions = [Direction::new(&key(1)), Direction::new(&key(2))];
    let link = Link::sealed(here, PublicKey([2; 32]), [0; 32], directions);
    (pair, link, there, Direction::new(&key(2)))
}

/// A record as it goes over the wire.
fn sealed(out: &mut Direction, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_le_bytes();
    let mut record = [&length[..], payload].concat();
    let tag = out.seal(&length, &mut record[length.len()..]);
    record.extend(tag);
    record
}
