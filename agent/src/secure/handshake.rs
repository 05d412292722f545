//! The Noise handshake: `Noise_IK_25519_ChaChaPoly_BLAKE2s`.
//!
//! The target's agent calls, and knows the source's key; the source learns the caller's key from the first message and
//! answers only if it is in its list. Both messages have no payload. The keys of both directions are the raw split; the
//! records under them are our own ([`record`](super::record)).

use alloc::boxed::Box;

use common::PublicKey;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::record::{Direction, Key};
use super::{Identity, Link, Preamble};
use crate::error::{LinkError, Refusal, SessionError};
use crate::net::Connection;

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
/// The caller's message: its ephemeral key, its static key and a tag, a tag.
pub(crate) const CALL: usize = 32 + 48 + 16;
/// The answer: an ephemeral key, a tag.
pub(crate) const ANSWER: usize = 32 + 16;

/// Random bytes for one ephemeral key.
pub(crate) type Entropy = Zeroizing<[u8; 32]>;

/// Proves to the agent with the key `peer` who this one is, and hears the same from it.
pub(crate) async fn call(
    connection: Connection,
    identity: &Identity,
    peer: PublicKey,
    preamble: Preamble,
    entropy: Entropy,
) -> Result<Link, SessionError> {
    let prologue = preamble.emit();
    let builder = builder(identity, &prologue, entropy)?.remote_public_key(&peer.0).map_err(broken)?;
    let mut state = builder.build_initiator().map_err(broken)?;
    let mut message = [0; CALL];
    state.write_message(&[], &mut message).map_err(broken)?;
    connection.write_all(&message).await?;
    let mut answer = [0; ANSWER];
    if connection.read_exact(&mut answer).await.is_err() {
        return Err(Preamble::mismatch(&answer).map_or(LinkError::TurnedAway, LinkError::Version).into());
    }
    state.read_message(&answer, &mut []).map_err(|_| LinkError::Unproven)?;
    Ok(link(connection, &mut state, peer))
}

/// Hears who calls, and answers if this agent knows them.
pub(crate) async fn answer(
    connection: Connection,
    identity: &Identity,
    preamble: Preamble,
    entropy: Entropy,
) -> Result<Link, SessionError> {
    let prologue = preamble.emit();
    let mut state = builder(identity, &prologue, entropy)?.build_responder().map_err(broken)?;
    let mut message = [0; CALL];
    connection.read_exact(&mut message).await?;
    state.read_message(&message, &mut []).map_err(|_| LinkError::Changed)?;
    let peer = state.get_remote_static().and_then(|key| key.try_into().ok()).map(PublicKey);
    let peer = peer.filter(|key| identity.trusts(key));
    let peer = peer.ok_or(SessionError::Refused(Refusal::UnknownPeer))?;
    let mut answer = [0; ANSWER];
    state.write_message(&[], &mut answer).map_err(broken)?;
    connection.write_all(&answer).await?;
    Ok(link(connection, &mut state, peer))
}

fn builder<'a>(identity: &'a Identity, prologue: &'a [u8], entropy: Entropy) -> Result<Builder<'a>, SessionError> {
    let parameters: NoiseParams = PATTERN.parse().map_err(broken)?;
    let builder = Builder::with_resolver(parameters, Box::new(Resolver(entropy)));
    builder.local_private_key(identity.private_key()).and_then(|builder| builder.prologue(prologue)).map_err(broken)
}

fn link(connection: Connection, state: &mut HandshakeState, peer: PublicKey) -> Link {
    let mut hash = [0; 32];
    hash.copy_from_slice(state.get_handshake_hash());
    let split = Zeroizing::new(state.dangerously_get_raw_split());
    let (there, back) = (Direction::new(&Key::new(split.0)), Direction::new(&Key::new(split.1)));
    let directions = if state.is_initiator() { [there, back] } else { [back, there] };
    Link::sealed(connection, peer, hash, directions)
}

/// What the library refuses although nobody else had a say in it.
fn broken(_: snow::Error) -> SessionError {
    SessionError::Link(LinkError::Unproven)
}

/// The library's own algorithms, with entropy from the platform.
struct Resolver(Entropy);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.0.clone()))))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// Entropy that is given out once: a handshake draws one key.
struct Once(Option<Entropy>);

impl Random for Once {
    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), snow::Error> {
        let entropy = self.0.take().ok_or(snow::Error::Rng)?;
        into.copy_from_slice(entropy.get(..into.len()).ok_or(snow::Error::Rng)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use embassy_futures::join::{join, join3};

    use super::super::{Heard, Protection, SessionName};
    use super::*;
    use crate::testing::{Pair, Wire, entropy, identity, pass, take};
    use crate::wire::ConnectionRole;

    const PREAMBLE: Preamble =
        Preamble { protection: Protection::Sealed, role: ConnectionRole::Control, session: SessionName([7; 16]) };

    #[test]
    fn both_ends_learn_who_the_other_is_and_share_what_nobody_else_has() {
        let mut pair = Pair::new();
        let wire = pair.wire();
        let ([here, there], _) = pair.shake_hands(wire, PREAMBLE);
        assert_eq!(here.peer(), Some(identity(2, &[]).public_key()));
        assert_eq!(there.peer(), Some(identity(1, &[]).public_key()));
        assert_eq!(here.binding(), there.binding());
        let wire = pair.wire();
        let ([other, _], _) = pair.shake_hands(wire, PREAMBLE);
        assert_ne!(here.binding(), other.binding());
        let mut body = b"a page".to_vec();
        let number = here.datagrams().seal(b"", &mut body);
        assert_eq!(other.datagrams().open(number, b"", &mut body.clone()), None);
        assert_eq!(there.datagrams().open(number, b"", &mut body), Some(&b"a page"[..]));
    }

    /// What both ends say when agent 1 calls whom it takes for the agent `callee`, and agent 2 answers, who knows the
    /// agents `known`, with this preamble.
    fn shaken(callee: u8, known: &[u8], heard: Preamble) -> (SessionError, SessionError) {
        let mut pair = Pair::new();
        let [caller, answerer] = pair.connect();
        let (one, two) = (identity(1, &[2, 3]), identity(2, known));
        let key = identity(callee, &[]).public_key();
        let call = call(caller, &one, key, PREAMBLE, entropy());
        let answer = answer(answerer, &two, heard, entropy());
        let (called, answered) = pair.finish(join(call, answer));
        (called.err().unwrap(), answered.err().unwrap())
    }

    #[test]
    fn a_caller_that_is_not_known_gets_no_answer() {
        let (called, answered) = shaken(2, &[3], PREAMBLE);
        assert_eq!(called, LinkError::TurnedAway.into());
        assert_eq!(answered, SessionError::Refused(Refusal::UnknownPeer));
    }

    #[test]
    fn a_caller_that_looks_for_somebody_else_gets_no_answer() {
        let (called, answered) = shaken(3, &[1], PREAMBLE);
        assert_eq!((called, answered), (LinkError::TurnedAway.into(), LinkError::Changed.into()));
    }

    #[test]
    fn a_preamble_that_was_changed_on_its_way_is_found_out() {
        let bulk = Preamble { role: ConnectionRole::Bulk, ..PREAMBLE };
        assert_eq!(shaken(2, &[1], bulk), (LinkError::TurnedAway.into(), LinkError::Changed.into()));
        let other = Preamble { session: SessionName([8; 16]), ..PREAMBLE };
        assert_eq!(shaken(2, &[1], other).1, LinkError::Changed.into());
    }

    #[test]
    fn whoever_answers_without_the_key_is_found_out() {
        let mut pair = Pair::new();
        let [caller, between] = pair.connect();
        let (one, two) = (identity(1, &[2]), identity(2, &[]).public_key());
        let answer = async {
            take(&between, CALL).await;
            between.write_all(&[9; ANSWER]).await.unwrap();
        };
        let (called, ()) = pair.finish(join(call(caller, &one, two, PREAMBLE, entropy()), answer));
        assert_eq!(called.err(), Some(LinkError::Unproven.into()));
    }

    #[test]
    fn a_source_of_another_version_says_so() {
        let mut pair = Pair::new();
        let [caller, other] = pair.connect();
        let (one, two) = (identity(1, &[2]), identity(2, &[]).public_key());
        let answer = async move {
            take(&other, CALL).await;
            let mut answer = Preamble::other_version();
            answer[4] = 2;
            other.write_all(&answer).await.unwrap();
            other.finished().await;
        };
        let call = async move { call(caller, &one, two, PREAMBLE, entropy()).await.err().unwrap() };
        let (called, ()) = pair.finish(join(call, answer));
        let text = "the agents share no version of their protocol: the other host's speaks 2, this one 7";
        assert_eq!(called.to_string(), text);
    }

    #[test]
    fn whoever_repeats_an_old_call_cannot_go_on() {
        let mut pair = Pair::new();
        let Wire { agents: [caller, callee], between } = pair.wire();
        let (one, two) = (identity(1, &[2]), identity(2, &[1]));
        let call = call(caller, &one, two.public_key(), PREAMBLE, entropy());
        let answered = answer(callee, &two, PREAMBLE, entropy());
        let record = async {
            let said = pass(&between[0], &between[1], CALL).await;
            pass(&between[1], &between[0], ANSWER).await;
            said
        };
        let (called, answered, said) = pair.finish(join3(call, answered, record));
        let (here, _there) = (called.unwrap(), answered.unwrap());
        let record = pair.finish(async {
            here.begin().await.unwrap();
            here.write(b"hello").await.unwrap();
            here.end().await.unwrap();
            take(&between[0], 4 + 5 + 16).await
        });
        let [again, callee] = pair.connect();
        let repeat = async {
            again.write_all(&said).await.unwrap();
            take(&again, ANSWER).await;
            again.write_all(&record).await.unwrap();
            again
        };
        let (answered, _again) = pair.finish(join(answer(callee, &two, PREAMBLE, entropy()), repeat));
        let mut read = Heard::default();
        assert_eq!(pair.finish(answered.unwrap().read(&mut read)), Err(LinkError::Changed));
    }
}
