use alloc::string::ToString;

use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use super::*;
use crate::guest::{Backends, DomId, Features, Gfn};

fn survives<T: fmt::Display + FromStr<Err = ParseError> + PartialEq + fmt::Debug>(value: T) {
    assert_eq!(value.to_string().parse(), Ok(value));
}

#[test]
fn every_line_survives_the_trip_through_text() {
    let session = SessionToken([0xa5; 16]);
    let out = |parameters| Request::Out { domain: DomId(5), parameters };
    let usual = Parameters::default();
    survives(out(Parameters { mode: Mode::Precopy, max_downtime: Some(Duration::from_millis(300)), ..usual }));
    survives(out(Parameters { mode: Mode::Postcopy, ..usual }));
    survives(out(Parameters { verify: true, ..usual }));
    let backends = Backends { store_port: 1, store_domain: DomId(0), console_port: 2, console_domain: DomId(0) };
    let peer = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 11), 7077);
    let size = Size { frames: 1 << 20, digests: 3 };
    for key in [None, Some(PublicKey([0x5a; 32]))] {
        survives(Request::In { domain: DomId(7), peer, key, session, size, backends });
        survives(State::Listening { session, address: *peer.ip(), port: 7077, key, size });
    }
    survives(Request::Recover { note: "00ff".to_string() });
    survives(Request::Discard { domain: DomId(5) });
    let reason = "the FLASK policy must allow shadow { logdirty } key=value".to_string();
    for state in [
        State::Waiting { reason: reason.clone() },
        State::Copying,
        State::Suspend,
        State::Committed,
        State::Built { store: Gfn(0xfeffc), console: Gfn(0xfeffe) },
        State::Ready,
        State::Running,
        State::Complete,
        State::Interrupted { reason: reason.clone() },
        State::Failed { cause: FailureCause::Cancelled, reason: reason.clone() },
        State::Failed { cause: FailureCause::Gone, reason: reason.clone() },
        State::Failed { cause: FailureCause::Back, reason: reason.clone() },
        State::Failed { cause: FailureCause::Other, reason },
    ] {
        survives(state);
    }
    survives(Progress { stage: 1, round: None, done: 5, total: 9, bytes: 77, rate_kib: 3, faults: 2 });
    survives(Progress { stage: 1, round: Some(4), ..Progress::default() });
    survives(Summary { pages: 3, fault_p99_us: 44, load_ms: 9, ..Summary::default() });
    for key in [None, Some(PublicKey([0x5a; 32]))] {
        survives(AgentStatus {
            version: "0.1.0".to_string(),
            address: Ipv4Addr::new(10, 77, 0, 11),
            port: 7077,
            memory_kib: 20000,
            largest_mib: 4096,
            features: Features { paging: key.is_some(), labels: true },
            nic: key.map(|_| Interface::new(InterfaceKind::Pci, ["checksum", "event-index"].into_iter())),
            key,
        });
    }
}

#[test]
fn the_protocol_reads_as_agreed() {
    let request: Request = "out domain=5 mode=tsmc".parse().unwrap();
    assert_eq!(request, Request::Out { domain: DomId(5), parameters: Parameters::default() });
    let failed = |cause| State::Failed { cause, reason: "no room".to_string() };
    assert_eq!(failed(FailureCause::Cancelled).to_string(), "failed cause=cancelled reason=no room");
    let id: RequestId = "out-5".parse().unwrap();
    assert_eq!(id.suspended(), "request/out-5/suspended");
}

#[test]
fn a_failure_of_no_known_cause_is_one_of_any_other() {
    let failed = State::Failed { cause: FailureCause::Other, reason: "cancelled cause=gone".to_string() };
    for line in ["failed reason=cancelled cause=gone", "failed cause=tired reason=cancelled cause=gone"] {
        assert_eq!(line.parse(), Ok(failed.clone()), "{line}");
    }
}

#[test]
fn what_cannot_be_understood_is_refused() {
    assert_eq!("out domain=5".parse::<Request>(), Err(ParseError::Missing("mode")));
    assert_eq!("out domain=x mode=tsmc".parse::<Request>(), Err(ParseError::Bad("domain")));
    assert_eq!("out domain=5 mode=tsmc verify=maybe".parse::<Request>(), Err(ParseError::Bad("verify")));
    assert_eq!("".parse::<Request>(), Err(ParseError::Bad("request")));
    assert_eq!("failed".parse::<State>(), Err(ParseError::Missing("reason")));
    for id in ["", "A", "a/b", "a b", "0123456789012345678901234567890123"] {
        assert!(id.parse::<RequestId>().is_err(), "{id:?}");
    }
    for token in ["", "zz", "+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1"] {
        assert!(token.parse::<SessionToken>().is_err(), "{token:?}");
    }
}

#[test]
fn a_guest_s_frames_and_its_memory_follow_from_each_other() {
    for mib in [3840, 8192, 1 << 20] {
        assert_eq!(Size::of_memory(mib).memory_mib(), mib);
    }
    assert_eq!(Size::of_memory(128).frames, 1 << 20);
    assert_eq!(Size { frames: 1000, digests: 0 }.memory_mib(), 0);
}
