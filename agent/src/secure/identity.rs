//! This agent's key pair, and the keys of the agents that it trusts.

use alloc::boxed::Box;

use common::{IdentityError, Keys, PublicKey};
use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::Dh;

/// This agent's own key pair and the keys of the agents that it trusts with guests.
#[derive(Clone, Debug)]
pub struct Identity {
    public: PublicKey,
    keys: Keys,
}

impl Identity {
    /// Reads the text of an identity.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let keys = Keys::parse(text)?;
        Ok(Self { public: public_key(keys.private()), keys })
    }

    /// The key by which others know this agent.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// Whether this agent gives guests to the one with this key, and takes them from it. Its own key need not be in its
    /// list: who proves to have it is this agent, and a guest that goes there stays on its host.
    pub(crate) fn trusts(&self, key: &PublicKey) -> bool {
        *key == self.public || self.peers().any(|(known, _)| known == *key)
    }

    /// The agents that this one trusts.
    pub fn peers(&self) -> impl Iterator<Item = (PublicKey, &str)> {
        self.keys.peers()
    }

    pub(crate) fn private_key(&self) -> &[u8; 32] {
        self.keys.private()
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
    use alloc::string::ToString;

    use super::*;

    // The key pair of RFC 7748, section 6.1.
    const PRIVATE: &str = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
    const PUBLIC: &str = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";

    fn identity(text: &str) -> Identity {
        Identity::parse(&format!("tsmc-identity 1\n{text}")).unwrap()
    }

    #[test]
    fn an_identity_is_a_key_pair_and_the_peers_it_trusts() {
        let identity = identity(&format!("key {PRIVATE}\npeer {} host b\n", "01".repeat(32)));
        assert_eq!(identity.public_key().to_string(), PUBLIC);
        assert!(identity.trusts(&PublicKey([1; 32])) && !identity.trusts(&PublicKey([2; 32])));
    }

    #[test]
    fn an_agent_trusts_itself_without_being_told() {
        let identity = identity(&format!("key {PRIVATE}\n"));
        assert!(identity.trusts(&identity.public_key()) && !identity.trusts(&PublicKey([1; 32])));
    }
}
