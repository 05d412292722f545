//! Who this agent is, and whom it knows.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use common::{PublicKey, hex};
use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::Dh;
use zeroize::Zeroizing;

use crate::error::IdentityError;

/// Most agents that one agent knows.
const PEERS: usize = 256;
/// What the text starts with.
const HEAD: &str = "tsmc-identity 1";

/// This agent's own key pair and the keys of the agents that it trusts with guests.
///
/// As text, line by line: `tsmc-identity 1`; `key <64 hex digits>`, the private key; `peer <64 hex digits> <name>`, the
/// public key of another agent, up to 256 times; `seed ...`, which is for the image; empty lines and `# ..` are skipped.
#[derive(Clone)]
pub struct Identity {
    private: Zeroizing<[u8; 32]>,
    public: PublicKey,
    peers: Vec<(PublicKey, String)>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public", &self.public).field("peers", &self.peers).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the text of an identity.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let mut lines = text.lines().map(str::trim).enumerate();
        if lines.next().map(|(_, line)| line) != Some(HEAD) {
            return Err(IdentityError::Head { expected: HEAD });
        }
        let (mut private, mut peers) = (None, Vec::<(PublicKey, String)>::new());
        for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let bad = IdentityError::Line(index + 1);
            let (word, value) = line.split_once(' ').ok_or(bad)?;
            match word {
                "key" if private.is_some() => return Err(IdentityError::SecondKey(index + 1)),
                "key" => private = Some(Zeroizing::new(hex::parse(value).ok_or(bad)?)),
                "peer" if peers.len() == PEERS => return Err(IdentityError::TooManyPeers { most: PEERS }),
                "peer" => {
                    let (key, name) = value.split_once(' ').unwrap_or((value, ""));
                    if name.contains(char::is_control) {
                        return Err(bad);
                    }
                    let key = key.parse().map_err(|_| bad)?;
                    if peers.iter().any(|(known, _)| *known == key) {
                        return Err(IdentityError::SecondPeer(index + 1));
                    }
                    peers.push((key, name.to_string()));
                }
                "seed" => {}
                _ => return Err(bad),
            }
        }
        let private = private.ok_or(IdentityError::NoKey)?;
        Ok(Self { public: public_key(&private), private, peers })
    }

    /// The key by which others know this agent.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// The name of the agent with this key, if this one trusts it.
    pub fn peer(&self, key: &PublicKey) -> Option<&str> {
        self.peers.iter().find(|(known, _)| known == key).map(|(_, name)| name.as_str())
    }

    /// Whether this agent gives guests to the one with this key, and takes them from it. Its own key need not be in its
    /// list: who proves to have it is this agent, and a guest that goes there stays on its host.
    pub(crate) fn trusts(&self, key: &PublicKey) -> bool {
        *key == self.public || self.peer(key).is_some()
    }

    /// The agents that this one trusts.
    pub fn peers(&self) -> impl Iterator<Item = (PublicKey, &str)> {
        self.peers.iter().map(|(key, name)| (*key, name.as_str()))
    }

    pub(crate) fn private_key(&self) -> &[u8; 32] {
        &self.private
    }
}

/// The public key that belongs to a private one.
pub fn public_key(private: &[u8; 32]) -> PublicKey {
    let mut pair = curve();
    pair.set(private);
    let mut public = [0; 32];
    public.copy_from_slice(pair.pubkey());
    // snow does not do it when it drops a key pair.
    pair.set(&[0; 32]);
    PublicKey(public)
}

fn curve() -> Box<dyn Dh> {
    DefaultResolver.resolve_dh(&DHChoice::Curve25519).expect("built in")
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    // The key pair of RFC 7748, section 6.1.
    const PRIVATE: &str = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
    const PUBLIC: &str = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";

    fn identity(text: &str) -> Result<Identity, IdentityError> {
        Identity::parse(&format!("{HEAD}\n{text}"))
    }

    #[test]
    fn an_identity_is_a_key_and_the_peers_it_trusts() {
        let identity = identity(&format!("# ours\nkey {PRIVATE}\n\nseed 00\npeer {PUBLIC} host b\n")).unwrap();
        assert_eq!(identity.public_key().to_string(), PUBLIC);
        assert_eq!(identity.peer(&identity.public_key()), Some("host b"));
        assert_eq!(identity.peer(&PublicKey([1; 32])), None);
    }

    #[test]
    fn an_agent_trusts_itself_without_being_told() {
        let identity = identity(&format!("key {PRIVATE}\n")).unwrap();
        assert!(identity.trusts(&identity.public_key()) && !identity.trusts(&PublicKey([1; 32])));
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        assert_eq!(Identity::parse("").unwrap_err(), IdentityError::Head { expected: HEAD });
        assert_eq!(Identity::parse("tsmc-identity 2\n").unwrap_err(), IdentityError::Head { expected: HEAD });
        let key = format!("key {PRIVATE}\n");
        assert_eq!(identity("").unwrap_err(), IdentityError::NoKey);
        assert_eq!(identity(&format!("{key}{key}")).unwrap_err(), IdentityError::SecondKey(3));
        for line in ["key", "keys 1", "peer xx b", "peer", &format!("peer {PUBLIC}0 b"), "peer \u{e9}"] {
            assert_eq!(identity(&format!("{key}\n{line}")).unwrap_err(), IdentityError::Line(4), "{line}");
        }
        assert_eq!(identity("key 12").unwrap_err(), IdentityError::Line(2));
        let peer = format!("peer {PUBLIC} b\n");
        assert_eq!(identity(&format!("{key}{peer}{peer}")).unwrap_err(), IdentityError::SecondPeer(4));
        let peers: String = (0..=PEERS).map(|number| format!("peer {number:064x} b\n")).collect();
        assert_eq!(identity(&format!("{key}{peers}")).unwrap_err(), IdentityError::TooManyPeers { most: PEERS });
    }

    #[test]
    fn the_private_key_is_not_shown() {
        let shown = format!("{:?}", identity(&format!("key {PRIVATE}")).unwrap());
        assert!(shown.contains(PUBLIC) && !shown.contains(&PRIVATE[..8]), "{shown}");
        assert!(!shown.contains("119"), "nor as numbers: {shown}");
    }
}
