//! Authenticates and encrypts the connections and datagrams between two agents.
//!
//! Every connection begins with a [`Preamble`] in clear, which only says what the connection is for. In sealed mode a
//! Noise handshake follows ([`handshake`]): both agents prove that they hold the private key of their [`Identity`], and
//! each must be in the other's list. From then on everything travels in records ([`record`]) that nobody else can read,
//! change, repeat, reorder or drop unnoticed. In plain mode the same records go without cipher and tag.
//!
//! A [`Link`] is a connection for which all that has happened.

pub(crate) mod datagram;
pub(crate) mod handshake;
mod identity;
pub(crate) mod link;
mod preamble;
pub(crate) mod record;

use common::PublicKey;
use snow::params::HashChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};

pub use identity::{Identity, public_key};

pub(crate) use link::{Heard, Link};
pub(crate) use preamble::{Preamble, Protection, SessionName};

/// Whether this agent's connections are sealed.
#[derive(Clone, Debug)]
pub enum Security {
    /// They are not: for networks that nobody else can reach, and for finding faults.
    Plain,
    /// They are, with this identity.
    Sealed(Identity),
}

impl Security {
    pub(crate) fn protection(&self) -> Protection {
        match self {
            Self::Plain => Protection::Plain,
            Self::Sealed(_) => Protection::Sealed,
        }
    }

    /// The key of a note with this salt: it follows from this agent's own, and nobody else has it. Plain agents share one.
    pub(crate) fn note_key(&self, salt: &[u8]) -> record::Key {
        let mut hash = DefaultResolver.resolve_hash(&HashChoice::Blake2s).expect("built in");
        hash.input(b"tsmc note");
        match self {
            Self::Plain => hash.input(&[0; 32]),
            Self::Sealed(identity) => hash.input(identity.private_key()),
        }
        hash.input(salt);
        let mut key = record::Key::default();
        hash.result(&mut *key);
        key
    }

    /// The key by which other agents know this one.
    pub fn public_key(&self) -> Option<PublicKey> {
        match self {
            Self::Plain => None,
            Self::Sealed(identity) => Some(identity.public_key()),
        }
    }
}
