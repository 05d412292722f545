//! Records: what a connection carries once both ends are known.
//!
//! A record is the length of its payload (4 bytes), the payload, and, when it is sealed, a tag of 16 bytes. The cipher
//! is AES-256-GCM; the length is authenticated with the payload. Each direction has a key of its own, and the nonce is
//! the number of the record in its direction: a record that is dropped, repeated, moved, sent back or taken from another
//! connection does not open.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use common::PAGE_SIZE;
use zeroize::Zeroizing;

use crate::error::Changed;

/// Bytes of a record's length.
pub(crate) const LENGTH: usize = 4;
/// Bytes of a record's tag.
pub(crate) const TAG: usize = 16;
/// Most bytes of a payload: 16 pages and what goes before them.
pub(crate) const MAX_PAYLOAD: usize = 17 * PAGE_SIZE;
/// Records under one key. GCM's bounds for a key allow 2^34 blocks of 16 bytes before a forgery is more likely than
/// 2^-57 (RFC 9001, appendix B.1, counts alike); this many of the longest records are 2^32 of them.
const REKEY_EVERY: u64 = 1 << 20;
/// Nonces that no record has: for the next key of a direction, and for its datagrams' key.
const REKEY: u64 = u64::MAX;
const DATAGRAMS: u64 = u64::MAX - 1;

/// A key of one direction.
pub(crate) type Key = Zeroizing<[u8; 32]>;

/// AES-256-GCM with a key that is used in one direction only. Nobody may use a nonce twice.
pub(crate) struct Cipher(Aes256Gcm);

impl Cipher {
    pub(crate) fn new(key: &Key) -> Self {
        Self(Aes256Gcm::new((&**key).into()))
    }

    /// Encrypts `data` in place; `open` with the same nonce needs the same `clear` and the tag.
    pub(crate) fn seal(&self, nonce: u64, clear: &[u8], data: &mut [u8]) -> [u8; TAG] {
        let sealed = self.0.encrypt_inout_detached(&long(nonce).into(), clear, InOutBuf::from(data));
        sealed.expect("it fails from 64 GiB on").into()
    }

    /// Decrypts `data` in place, or leaves it as it is.
    pub(crate) fn open(&self, nonce: u64, clear: &[u8], data: &mut [u8], tag: &[u8; TAG]) -> Result<(), Changed> {
        let opened = self.0.decrypt_inout_detached(&long(nonce).into(), clear, InOutBuf::from(data), tag.into());
        opened.map_err(|_| Changed)
    }

    /// A key that follows from this one, and from which this one does not follow: Noise's REKEY.
    fn derive(&self, nonce: u64) -> Key {
        let mut key = Key::default();
        self.seal(nonce, &[], &mut *key);
        key
    }
}

/// Noise's nonce for AES-GCM.
fn long(nonce: u64) -> [u8; 12] {
    let mut long = [0; 12];
    long[4..].copy_from_slice(&nonce.to_be_bytes());
    long
}

/// One direction of a connection.
pub(crate) struct Direction {
    cipher: Cipher,
    /// Records so far.
    count: u64,
}

impl Direction {
    pub(crate) fn new(key: &Key) -> Self {
        Self { cipher: Cipher::new(key), count: 0 }
    }

    /// The cipher for datagrams that go the same way, with nonces of their own. To be asked for before the first record.
    pub(crate) fn datagrams(&self) -> Cipher {
        Cipher::new(&self.cipher.derive(DATAGRAMS))
    }

    /// Encrypts the next record's payload in place.
    pub(crate) fn seal(&mut self, length: &[u8; LENGTH], payload: &mut [u8]) -> [u8; TAG] {
        let tag = self.cipher.seal(self.count, length, payload);
        self.advance();
        tag
    }

    /// Decrypts the next record's payload in place.
    pub(crate) fn open(&mut self, length: &[u8; LENGTH], payload: &mut [u8], tag: &[u8; TAG]) -> Result<(), Changed> {
        self.cipher.open(self.count, length, payload, tag)?;
        self.advance();
        Ok(())
    }

    fn advance(&mut self) {
        self.count += 1;
        if self.count.is_multiple_of(REKEY_EVERY) {
            self.cipher = Cipher::new(&self.cipher.derive(REKEY));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> [Direction; 2] {
        [Direction::new(&Key::new([7; 32])), Direction::new(&Key::new([7; 32]))]
    }

    #[test]
    fn any_changed_bit_of_a_record_is_found_out() {
        let [mut out, _] = pair();
        let mut payload = *b"sixteen pages or so";
        let length = 19u32.to_le_bytes();
        let tag = out.seal(&length, &mut payload);
        for bit in 0..8 * (LENGTH + payload.len() + TAG) {
            let (mut length, mut payload, mut tag) = (length, payload, tag);
            let (at, mask) = (bit / 8, 1 << (bit % 8));
            match at {
                0..LENGTH => length[at] ^= mask,
                at if at < LENGTH + payload.len() => payload[at - LENGTH] ^= mask,
                at => tag[at - LENGTH - payload.len()] ^= mask,
            }
            let [_, mut into] = pair();
            let before = payload;
            assert_eq!((into.open(&length, &mut payload, &tag), payload), (Err(Changed), before), "bit {bit}");
        }
        let [_, mut into] = pair();
        assert_eq!((into.open(&length, &mut payload, &tag), &payload), (Ok(()), b"sixteen pages or so"));
    }

    #[test]
    fn both_ends_change_their_key_in_time_and_together() {
        let [mut out, mut into] = pair();
        let [_, mut stays] = pair();
        (out.count, into.count, stays.count) = (REKEY_EVERY - 1, REKEY_EVERY - 1, REKEY_EVERY);
        for count in 0..3 {
            let mut payload = [count; 8];
            let tag = out.seal(&[0; 4], &mut payload);
            if count == 1 {
                assert_eq!(stays.open(&[0; 4], &mut payload.clone(), &tag), Err(Changed), "the key has changed");
            }
            assert_eq!((into.open(&[0; 4], &mut payload, &tag), payload), (Ok(()), [count; 8]));
        }
    }

    #[test]
    fn no_record_has_a_nonce_that_makes_keys() {
        let [out, _] = pair();
        let keys = [&*out.cipher.derive(REKEY), &*out.cipher.derive(DATAGRAMS), &[7; 32]].map(|key| *key);
        assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
    }
}
