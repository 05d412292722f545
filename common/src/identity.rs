//! An agent's identity as text: its private key, and the public keys of the agents that it knows.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use zeroize::Zeroizing;

use crate::hex;
use crate::key::PublicKey;

/// Most agents that one agent knows.
const PEERS: usize = 256;
/// What the text starts with.
const HEAD: &str = "tsmc-identity 1";

/// An agent's private key and the keys of the agents that it trusts with guests.
///
/// As text, line by line: `tsmc-identity 1`; `key <64 hex digits>`, the private key; `peer <64 hex digits> <name>`, the
/// public key of another agent, up to 256 times; `seed ...`, which is for the image; empty lines and `# ..` are skipped.
#[derive(Clone)]
pub struct Keys {
    /// In one place from the start: what is moved leaves a copy behind, which nobody wipes.
    private: Box<Zeroizing<[u8; 32]>>,
    peers: Vec<(PublicKey, String)>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("peers", &self.peers).finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the text of an identity.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let mut lines = text.lines().map(str::trim).enumerate();
        if lines.next().map(|(_, line)| line) != Some(HEAD) {
            return Err(IdentityError::Head { expected: HEAD });
        }
        let (mut private, mut peers) = (None::<Box<Zeroizing<[u8; 32]>>>, Vec::<(PublicKey, String)>::new());
        for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let bad = IdentityError::Line(index + 1);
            let (word, value) = line.split_once(' ').ok_or(bad)?;
            match word {
                "key" if private.is_some() => return Err(IdentityError::SecondKey(index + 1)),
                "key" => {
                    hex::parse_into(value, &mut private.insert(Box::default())[..]).ok_or(bad)?;
                }
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
        Ok(Self { private, peers })
    }

    /// The private key.
    pub fn private(&self) -> &[u8; 32] {
        &self.private
    }

    /// The keys and names of the peers.
    pub fn peers(&self) -> impl Iterator<Item = (PublicKey, &str)> {
        self.peers.iter().map(|(key, name)| (*key, name.as_str()))
    }
}

/// Why a text is no identity. It never says what the text holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It does not start as it should.
    #[error("the agent's identity does not start with '{expected}'")]
    Head {
        /// What it should start with.
        expected: &'static str,
    },
    /// This line, counted from 1, cannot be understood.
    #[error("line {0} of the agent's identity cannot be understood")]
    Line(usize),
    /// It has no private key.
    #[error("the agent's identity has no key")]
    NoKey,
    /// It has a second private key, in this line.
    #[error("line {0} of the agent's identity has a second key")]
    SecondKey(usize),
    /// It names an agent again, in this line.
    #[error("line {0} of the agent's identity names a peer again")]
    SecondPeer(usize),
    /// It names more agents than this one can know.
    #[error("the agent's identity names more than {most} peers")]
    TooManyPeers {
        /// How many it can know.
        most: usize,
    },
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    // The key pair of RFC 7748, section 6.1.
    const PRIVATE: &str = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
    const PUBLIC: &str = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";

    fn keys(text: &str) -> Result<Keys, IdentityError> {
        Keys::parse(&format!("{HEAD}\n{text}"))
    }

    #[test]
    fn what_is_told_is_a_key_and_the_peers() {
        let keys = keys(&format!("# ours\nkey {PRIVATE}\n\nseed 00\npeer {PUBLIC} host b\n")).unwrap();
        assert_eq!(hex::Shown(keys.private()).to_string(), PRIVATE);
        assert_eq!(keys.peers().collect::<Vec<_>>(), [(PUBLIC.parse().unwrap(), "host b")]);
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        assert_eq!(Keys::parse("").unwrap_err(), IdentityError::Head { expected: HEAD });
        assert_eq!(Keys::parse("tsmc-identity 2\n").unwrap_err(), IdentityError::Head { expected: HEAD });
        let key = format!("key {PRIVATE}\n");
        assert_eq!(keys("").unwrap_err(), IdentityError::NoKey);
        assert_eq!(keys(&format!("{key}{key}")).unwrap_err(), IdentityError::SecondKey(3));
        for line in ["key", "keys 1", "peer xx b", "peer", &format!("peer {PUBLIC}0 b"), "peer \u{e9}"] {
            assert_eq!(keys(&format!("{key}\n{line}")).unwrap_err(), IdentityError::Line(4), "{line}");
        }
        assert_eq!(keys("key 12").unwrap_err(), IdentityError::Line(2));
        let peer = format!("peer {PUBLIC} b\n");
        assert_eq!(keys(&format!("{key}{peer}{peer}")).unwrap_err(), IdentityError::SecondPeer(4));
        let peers: String = (0..=PEERS).map(|number| format!("peer {number:064x} b\n")).collect();
        assert_eq!(keys(&format!("{key}{peers}")).unwrap_err(), IdentityError::TooManyPeers { most: PEERS });
    }

    #[test]
    fn the_private_key_is_not_shown() {
        let shown = format!("{:?}", keys(&format!("key {PRIVATE}\npeer {PUBLIC} b")).unwrap());
        assert!(shown.contains(PUBLIC) && !shown.contains(&PRIVATE[..8]), "{shown}");
        assert!(!shown.contains("119"), "nor as numbers: {shown}");
    }
}
