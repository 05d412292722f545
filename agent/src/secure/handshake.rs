//! The Noise handshake: `Noise_IK_25519_ChaChaPoly_BLAKE2s`.
//!
//! The target's agent calls, and knows the source's key; the source learns the caller's key from the first message and
//! answers only if it is in its list. Both messages have no payload. The keys of both directions are the raw split; the
//! records under them are our own ([`record`](super::record)).

use alloc::boxed::Box;

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::record::{Direction, Key};
use super::{Identity, Link, Preamble, PublicKey};
use crate::net::{Connection, LinkError};
use crate::session::{Refusal, SessionError};

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
/// The caller's message: its ephemeral key, its static key and a tag, a tag.
const CALL: usize = 32 + 48 + 16;
/// The answer: an ephemeral key, a tag.
const ANSWER: usize = 32 + 16;

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
    connection.read_exact(&mut answer).await.map_err(|_| LinkError::TurnedAway)?;
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
    let peer = peer.filter(|key| identity.peer(key).is_some());
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
    let (there, back) = state.dangerously_get_raw_split();
    let [there, back] = [there, back].map(|key| Direction::new(&Key::new(key)));
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
