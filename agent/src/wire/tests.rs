use alloc::vec;
use alloc::vec::Vec;
use std::collections::BTreeSet;

use super::*;
use crate::digest::{Digest, ZERO_PAGE};
use crate::error::WireError;
use common::control::SessionToken;
use common::{Content, Features, Gfn, PageMask, PageSet, Span};
use proptest::prelude::*;

fn there_and_back(message: Message<'_>) {
    let mut body = Vec::new();
    let kind = message.emit(&mut body);
    let header = Header { kind, length: body.len() };
    assert_eq!(Header::parse(&header.emit()), Ok(header));
    assert_eq!(Message::parse(kind, &body), Ok(message));
}

proptest! {
    #[test]
    fn messages_survive_the_wire(
        session in any::<[u8; 16]>(),
        pages in any::<u64>(), frames in any::<u64>(), blob in proptest::collection::vec(any::<u8>(), 0..200),
        gfns in proptest::collection::vec(any::<u64>(), 1..64), reason in "[ -~]{0,512}", can_page in any::<bool>(),
    ) {
        let binding = std::array::from_fn(|at| session[at % 16] ^ at as u8);
        for (role, purpose) in [
            (ConnectionRole::Control, Purpose::Begin),
            (ConnectionRole::Bulk, Purpose::Recover),
            (ConnectionRole::Control, Purpose::Postpone),
        ] {
            let session = SessionToken(session);
            there_and_back(Message::Hello(Hello { role, purpose, session, binding, window: pages as u32 }));
        }
        there_and_back(Message::Welcome(Welcome { pages, frames, uuid: session, verify: can_page, config: &blob }));
        let demand: Vec<u8> = gfns.iter().flat_map(|gfn| gfn.to_le_bytes()).collect();
        prop_assert!(Message::demanded(&demand).flat_map(|demanded| demanded.emit()).eq(demand.iter().copied()));
        prop_assert!(Message::demanded(&demand).map(|demanded| demanded.gfn.0).eq(gfns.iter().map(|gfn| gfn << 1 >> 1)));
        let simple =
            [Message::Switch, Message::Ready, Message::Commit, Message::Complete, Message::Revoked, Message::Nudge];
        let features = Features { paging: can_page, labels: session[0] % 2 == 0 };
        let others =
            [Message::Built(features), Message::State(&blob), Message::Demand(&demand), Message::Abort(&reason)];
        simple.into_iter().chain(others).for_each(there_and_back);
    }

    #[test]
    fn sets_survive_the_wire_in_their_smallest_form(
        runs in proptest::collection::vec((0..33000u64, 1..400u64), 0..40),
        singles in proptest::collection::vec(0..33000u64, 0..2000),
        first in 0..40u64, count in 1..32768u64,
    ) {
        let mut set = PageSet::new(33000);
        set.extend(singles.into_iter().map(Gfn));
        runs.iter().for_each(|(start, len)| set.extend((*start..start + len).map(Gfn)));
        let mut body = Vec::new();
        let span = Span { first: Gfn(first), count };
        Set::emit(&set, span, &mut body);
        prop_assert!(body.len() <= 16 + count.div_ceil(8) as usize);
        prop_assert!(body.len() <= Kind::Dirty.limit());
        let back = Set::parse(&body).unwrap();
        prop_assert_eq!((back.first(), back.count()), (Gfn(first), count));
        prop_assert!(back.gfns().eq(set.range(span)));
    }

    #[test]
    fn pages_survive_the_wire(
        gfns in proptest::collection::btree_set(0..100_000u64, 1..=64), zero in any::<u64>(), base in any::<u32>(),
    ) {
        let gfns: Vec<Gfn> = gfns.into_iter().map(|gfn| Gfn(gfn + u64::from(base))).collect();
        let zero = PageMask(zero) & PageMask::first(gfns.len());
        let pages = Pages { cause: Cause::Push, gfns: &gfns, zero };
        let mut body = Vec::new();
        pages.emit(&mut body);
        for (index, gfn) in gfns.iter().enumerate().filter(|(index, _)| !zero.contains(*index)) {
            body.extend_from_slice(&[gfn.0 as u8 ^ index as u8; PAGE_SIZE]);
        }
        prop_assert_eq!(body.len(), pages.body_len());
        let back = Arriving::parse(&body).unwrap();
        prop_assert_eq!(back.zeros(), zero.count() as u64);
        prop_assert!(back.gfns().eq(gfns.iter().copied()));
        for (index, (gfn, content)) in back.contents().enumerate() {
            match content {
                Content::Zero => prop_assert!(zero.contains(index)),
                Content::Bytes(page) => prop_assert_eq!(page, &[gfn.0 as u8 ^ index as u8; PAGE_SIZE]),
            }
        }
        // One byte short and one too many are refused.
        prop_assert_eq!(Arriving::parse(&body[..body.len() - 1]), Err(WireError::Truncated));
        body.push(0);
        prop_assert_eq!(Arriving::parse(&body), Err(WireError::Trailing));
    }

    #[test]
    fn digests_survive_the_wire(
        block in 0..1000u64, told in proptest::collection::btree_map(0..64u64, (0..4u8, 1..u64::MAX), 1..=64),
    ) {
        let told: Vec<_> = told.into_iter().map(|(bit, (form, digest))| {
            let digest = match form {
                0 => None,
                1 => Some(ZERO_PAGE),
                _ => Digest::new(digest),
            };
            (Gfn(block * 64 + bit), digest)
        }).collect();
        let mut body = Vec::new();
        Digests::emit(&told, &mut body);
        prop_assert!(body.len() <= Kind::Digests.limit());
        prop_assert!(Digests::parse(&body).unwrap().each().eq(told));
        prop_assert!(Digests::parse(&body[..body.len() - 1]).is_err());
        body.push(0);
        prop_assert!(Digests::parse(&body).is_err());
    }

    #[test]
    fn no_bytes_make_a_parser_panic(
        header in any::<[u8; Header::LEN]>(), kind in prop_oneof![1..=14u16, Just(17u16)], body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = Header::parse(&header);
        let kind = Kind::from_number(kind).unwrap();
        match Message::parse(kind, &body) {
            Ok(Message::Ram(set) | Message::Hints(set) | Message::Dirty(set)) => {
                let members: Vec<_> = set.gfns().collect();
                prop_assert!(members.is_sorted_by(|a, b| a < b));
                prop_assert!(members.iter().all(|gfn| (set.first().0..set.first().0 + set.count()).contains(&gfn.0)));
            }
            Ok(Message::Pages(pages)) => prop_assert!(pages.contents().count() <= 64),
            Ok(Message::Digests(digests)) => prop_assert!(digests.each().count() <= 64),
            _ => {}
        }
    }

    #[test]
    fn datagrams_survive_the_wire(
        number in any::<u64>(), wanted in proptest::collection::vec((any::<u64>(), 1..1u8 << PIECES), 1..=64),
        index in 0..PIECES, byte in any::<u8>(),
    ) {
        let mut asked = Vec::new();
        let wanted: Vec<_> = wanted.iter().map(|(gfn, bits)| (Gfn(*gfn), PieceMask::from_bits(*bits).unwrap())).collect();
        wanted.iter().for_each(|(gfn, pieces)| Rescue::want(&mut asked, *gfn, *pieces));
        prop_assert!(Rescue::wanted(&asked).eq(wanted.iter().copied()));
        let piece = Rescue::Piece { gfn: Gfn(number), index, bytes: &[byte; PIECE] };
        let others = [Rescue::Probe(number), Rescue::Echo(number), Rescue::Zero(Gfn(number)), Rescue::Ask(&asked)];
        for rescue in others.into_iter().chain([piece]) {
            let mut body = Vec::new();
            rescue.emit(&mut body);
            prop_assert!(body.len() <= RESCUE_LIMIT);
            prop_assert_eq!(Rescue::parse(&body), Ok(rescue));
            prop_assert!(Rescue::parse(&body[..body.len() - 1]).is_err());
            body.push(0);
            prop_assert!(Rescue::parse(&body).is_err());
        }
    }

    #[test]
    fn datagrams_of_any_bytes_are_refused_or_within_bounds(
        kind in 0..7u8, body in proptest::collection::vec(any::<u8>(), 0..1100),
    ) {
        let body = [&[kind][..], &body].concat();
        match Rescue::parse(&body) {
            Ok(Rescue::Ask(wanted)) => {
                prop_assert!((1..=64).contains(&Rescue::wanted(wanted).count()));
                prop_assert_eq!(Rescue::wanted(wanted).count() * 9, wanted.len(), "each with some pieces, and no others");
            }
            Ok(Rescue::Piece { index, .. }) => prop_assert!(index < PIECES),
            _ => {}
        }
    }

    #[test]
    fn sets_of_any_bytes_are_refused_or_in_range(
        form in 0..4u8, count in 0..200u32, tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut body = vec![7, 0, 0, 0, 0, 0, 0, 0];
        body.extend_from_slice(&count.to_le_bytes());
        body.extend_from_slice(&[form, 0, 0, 0]);
        body.extend_from_slice(&tail);
        if let Ok(set) = Set::parse(&body) {
            let members: BTreeSet<_> = set.gfns().map(|gfn| gfn.0).collect();
            prop_assert_eq!(members.len(), set.gfns().count());
            prop_assert!(members.iter().all(|gfn| (7..7 + u64::from(count)).contains(gfn)));
        }
    }
}

#[test]
fn malformed_headers_are_refused() {
    let good = Header { kind: Kind::Demand, length: 512 }.emit();
    let with = |at: usize, value: u8| {
        let mut bytes = good;
        bytes[at] = value;
        Header::parse(&bytes)
    };
    assert_eq!(with(0, 0), Err(WireError::Magic));
    assert_eq!(with(4, 99), Err(WireError::UnknownKind(99)));
    assert_eq!(with(4, 0), Err(WireError::UnknownKind(0)));
    assert_eq!(with(6, 1), Err(WireError::Reserved));
    assert_eq!(with(8, 1), Err(WireError::TooLong { kind: Kind::Demand as u16, length: 513 }));
    assert_eq!(with(11, 0xff), Err(WireError::TooLong { kind: Kind::Demand as u16, length: 0xff00_0200 }));
}

#[test]
fn a_reason_cannot_carry_line_breaks() {
    assert_eq!(Message::parse(Kind::Abort, b"no\nroom"), Err(WireError::Value("reason")));
}
