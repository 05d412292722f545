//! How fast the agents' cipher is on this processor, above all under an emulator.

use alloc::string::String;
use alloc::vec;
use core::time::Duration;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use boot::cipher::Code;
use boot::say;
use common::time::ns;
use xen_pv::time;

use crate::{Outcome, check};

/// A record of bulk data, about.
const RECORD: usize = 64 << 10;
/// How long to measure.
const ENOUGH: Duration = Duration::from_millis(300);

pub fn run() -> Outcome {
    let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from([7; 32]));
    let plain = vec![1; RECORD];
    let mut record = plain.clone();
    let (mut sealed, mut opened) = (0, 0);
    let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
    while sealing + opening < ENOUGH {
        let nonce = Nonce::from([sealed as u8; 12]);
        let before = time::now();
        let tag = cipher
            .encrypt_inout_detached(&nonce, b"", InOutBuf::from(&mut record[..]))
            .map_err(|_| String::from("cipher: it does not seal"))?;
        let between = time::now();
        cipher
            .decrypt_inout_detached(&nonce, b"", InOutBuf::from(&mut record[..]), &tag)
            .map_err(|_| String::from("cipher: it does not open what it has sealed"))?;
        opening += time::now() - between;
        sealing += between - before;
        sealed += RECORD as u64;
        opened += RECORD as u64;
    }
    check(record == plain, || String::from("cipher: what was opened differs from what was sealed"))?;
    say!(
        "cipher: AES-256-GCM seals {} MB/s, opens {} MB/s ({Code})",
        sealed * 1000 / ns(sealing).max(1),
        opened * 1000 / ns(opening).max(1)
    );
    Ok(())
}
