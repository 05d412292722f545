use core::future::poll_fn;
use core::task::Poll;

use common::control::SessionToken;
use embassy_futures::select::{Either, select};

use super::*;
use crate::command_line::AgentOptions;
use crate::error::{LinkError, VersionMismatch};
use crate::host::pending::Invitation;
use crate::messages::SharedOutlet;
use crate::secure::Heard;
use crate::secure::Protection;
use crate::testing::{ADDRESS, Pair, SMALL, entropy, identity};
use crate::wire::{ConnectionRole, Hello, Purpose};

const SESSION: SessionToken = SessionToken([7; 16]);

fn preamble(protection: Protection, role: ConnectionRole) -> Preamble {
    Preamble { protection, role, session: SessionName::of(SESSION) }
}

/// Agent 2, which expects agent 1 or 3, and everybody else on the same network.
struct Scene {
    pair: Pair,
    pending: Rc<PendingSessions>,
    listener: Listener,
}

impl Scene {
    fn new() -> Self {
        let (pair, pending) = (Pair::new(), Rc::new(PendingSessions::default()));
        let security = Security::Sealed(identity(2, &[1, 3]));
        let config = AgentOptions::parse("ip=10.0.0.1/24 port=7").unwrap().config([2; 6], 0, security);
        let listener = Listener::new(pair.net.clone(), pair.timer.clone(), pending.clone(), Rc::new(config), entropy);
        Self { pair, pending, listener }
    }

    fn expect(&self) -> Invitation {
        self.pending.expect(SESSION, Purpose::Begin, None)
    }

    /// Runs `work` to its end, and the listener meanwhile.
    fn run<T>(&mut self, work: impl Future<Output = T>) -> T {
        let Self { pair, listener, .. } = self;
        let open = poll_fn(|_| {
            listener.poll();
            Poll::<()>::Pending
        });
        match pair.finish(select(work, open)) {
            Either::First(done) => done,
            Either::Second(()) => unreachable!("it stays open"),
        }
    }

    /// Somebody connects and says `said`.
    fn connect(&mut self, said: &[u8]) -> Connection {
        let (net, timer) = (self.pair.net.clone(), self.pair.timer.clone());
        let connection = self.run(Connection::connect(&net, &timer, ADDRESS.parse().unwrap(), SMALL)).unwrap();
        self.run(connection.write_all(said)).unwrap();
        connection
    }

    /// An agent calls agent 2 and says hello.
    fn call(&mut self, own: u8, role: ConnectionRole, binding: [u8; 32]) -> Result<Link, SessionError> {
        self.call_for(SESSION, own, role, binding)
    }

    /// The same, with this for the token of the session that is called for.
    fn call_for(
        &mut self,
        session: SessionToken,
        own: u8,
        role: ConnectionRole,
        binding: [u8; 32],
    ) -> Result<Link, SessionError> {
        let preamble = preamble(Protection::Sealed, role);
        let connection = self.connect(&preamble.emit());
        let (caller, callee) = (identity(own, &[2]), identity(2, &[]).public_key());
        let link = self.run(handshake::call(connection, &caller, callee, preamble, entropy()))?;
        let hello = Hello { role, purpose: Purpose::Begin, session, binding, window: 1 << 20 };
        self.run(SharedOutlet::new(link.clone()).send(Message::Hello(hello)))?;
        Ok(link)
    }

    /// Agent 1 calls twice, as it should, and is heard.
    fn meets(&mut self, invitation: &Invitation) {
        let control = self.call(1, ConnectionRole::Control, [0; 32]).unwrap();
        let _bulk = self.call(1, ConnectionRole::Bulk, control.binding()).unwrap();
        let timer = self.pair.timer.clone();
        let called = self.run(invitation.answered(&timer));
        assert_eq!(called.peer, Some(identity(1, &[]).public_key()));
        assert_eq!(called.control.binding(), control.binding());
    }

    /// What an agent hears on a link that is not wanted.
    fn is_dropped(&mut self, link: &Link) -> bool {
        self.run(link.read(&mut Heard::default())) == Err(LinkError::Lost)
    }
}

#[test]
fn strangers_that_hold_every_place_do_not_keep_the_right_caller_out() {
    let named = preamble(Protection::Sealed, ConnectionRole::Control).emit();
    for said in [&b""[..], b"TSM", &named] {
        let mut scene = Scene::new();
        let invitation = scene.expect();
        let strangers: Vec<_> = (0..4 * CALLERS).map(|_| scene.connect(said)).collect();
        let open = scene.pair.net.borrow().sockets();
        assert!(open <= strangers.len() + 2 * CALLERS, "those that made place are still kept: {open}");
        scene.meets(&invitation);
    }
}

#[test]
fn strangers_that_come_meanwhile_leave_a_caller_its_place() {
    let mut scene = Scene::new();
    let invitation = scene.expect();
    let control = scene.call(1, ConnectionRole::Control, [0; 32]).unwrap();
    let _strangers: Vec<_> = (0..4 * CALLERS).map(|_| scene.connect(b"")).collect();
    let _bulk = scene.call(1, ConnectionRole::Bulk, control.binding()).unwrap();
    let timer = scene.pair.timer.clone();
    scene.run(invitation.answered(&timer));
}

#[test]
fn callers_of_one_host_make_place_for_each_other_first() {
    use CallerStage::{Introduced, Silent};
    let [one, other, third] = [1, 2, 3].map(|host| Ipv4Addr::new(10, 0, 0, host));
    let goes = |come: &[(CallerStage, Ipv4Addr)]| least(come.iter().copied());
    // However much it has said: somebody who says nothing yet from elsewhere stays.
    let crowd = [(Introduced(5), one), (Silent(6), other), (Introduced(7), one), (Silent(8), one)];
    assert_eq!(goes(&crowd), Some(Introduced(5)));
    assert_eq!(goes(&[(Introduced(5), one), (Silent(6), other), (Introduced(7), third)]), Some(Silent(6)));
    assert_eq!(goes(&[(Introduced(5), one), (Introduced(6), other), (Silent(7), third)]), Some(Introduced(5)));
    assert_eq!(goes(&[(Silent(5), one), (Silent(6), one), (Silent(7), one)]), Some(Silent(5)));
    assert_eq!(goes(&[(Silent(5), one)]), None);
}

#[test]
fn nobody_listens_unless_somebody_is_expected() {
    let mut scene = Scene::new();
    let (net, timer) = (scene.pair.net.clone(), scene.pair.timer.clone());
    let peer = ADDRESS.parse().unwrap();
    let refused = scene.run(Connection::connect(&net, &timer, peer, SMALL));
    assert_eq!(refused.err(), Some(LinkError::NoAnswer(peer)));
}

#[test]
fn the_session_learns_why_its_caller_was_turned_away() {
    let mut scene = Scene::new();
    let invitation = scene.expect();
    assert_eq!(scene.call(9, ConnectionRole::Control, [0; 32]).err(), Some(LinkError::TurnedAway.into()));
    assert_eq!(invitation.turned_away(), Some(Refusal::UnknownPeer));
    let plain = preamble(Protection::Plain, ConnectionRole::Control);
    let caller = scene.connect(&plain.emit());
    assert!(scene.run(caller.read_exact(&mut [0])).is_err());
    assert_eq!(invitation.turned_away(), Some(Refusal::PeerIsPlain));
    scene.meets(&invitation);
}

#[test]
fn connections_that_do_not_belong_together_are_no_session() {
    let mut scene = Scene::new();
    let invitation = scene.expect();
    let control = scene.call(1, ConnectionRole::Control, [0; 32]).unwrap();
    // Bound to something else.
    let bulk = scene.call(1, ConnectionRole::Bulk, [0; 32]).unwrap();
    assert!(scene.is_dropped(&bulk));
    let _bulk = scene.call(1, ConnectionRole::Bulk, control.binding()).unwrap();
    let timer = scene.pair.timer.clone();
    scene.run(invitation.answered(&timer));
}

#[test]
fn a_session_goes_on_with_the_same_agent_only() {
    let mut scene = Scene::new();
    let invitation = scene.pending.expect(SESSION, Purpose::Begin, Some(identity(1, &[]).public_key()));
    let other = scene.call(3, ConnectionRole::Control, [0; 32]).unwrap();
    assert!(scene.is_dropped(&other));
    scene.meets(&invitation);
}

#[test]
fn a_trusted_agent_that_saw_a_preamble_does_not_get_in() {
    let mut scene = Scene::new();
    let invitation = scene.expect();
    // What it saw, and what it may try.
    for session in [SessionToken(SessionName::of(SESSION).0), SessionToken([0; 16])] {
        let other = scene.call_for(session, 3, ConnectionRole::Control, [0; 32]).unwrap();
        assert!(scene.is_dropped(&other));
    }
    assert!(poll_once(&mut Box::pin(invitation.contested(&scene.pair.timer.clone()))).is_pending());
    scene.meets(&invitation);
}

#[test]
fn the_first_agent_that_shows_the_token_keeps_its_place() {
    let mut scene = Scene::new();
    let invitation = scene.expect();
    let control = scene.call(1, ConnectionRole::Control, [0; 32]).unwrap();
    for role in [ConnectionRole::Control, ConnectionRole::Bulk] {
        let other = scene.call(3, role, control.binding()).unwrap();
        assert!(scene.is_dropped(&other));
    }
    let _bulk = scene.call(1, ConnectionRole::Bulk, control.binding()).unwrap();
    let timer = scene.pair.timer.clone();
    assert_eq!(scene.run(invitation.answered(&timer)).peer, Some(identity(1, &[]).public_key()));
    scene.run(invitation.contested(&timer));
}

#[test]
fn an_agent_that_calls_again_has_lost_what_it_had() {
    let mut scene = Scene::new();
    let invitation = scene.expect();
    let lost = scene.call(1, ConnectionRole::Control, [0; 32]).unwrap();
    scene.meets(&invitation);
    assert!(scene.is_dropped(&lost));
}

#[test]
fn agents_of_different_versions_both_learn_why_they_do_not_meet() {
    // Version 1 said the token in clear; what a later one says is its name, for all that is known today.
    let name = SessionName::of(SESSION).0;
    for (theirs, session) in [(1, SESSION.0), (2, name), (3, name), (9, name)] {
        let mut scene = Scene::new();
        let invitation = scene.expect();
        let mut said = preamble(Protection::Sealed, ConnectionRole::Control).emit();
        said[4] = theirs;
        said[8..].copy_from_slice(&session);
        let caller = scene.connect(&said);
        let mut heard = [0; 8];
        scene.run(caller.read_exact(&mut heard)).unwrap();
        assert!(scene.run(caller.read_exact(&mut [0])).is_err(), "it is still listened to");
        assert_eq!(heard, Preamble::other_version());
        let mismatch = VersionMismatch { theirs, ours: 7 };
        assert_eq!(invitation.turned_away(), Some(Refusal::Version(mismatch)));
    }
}
