//! What dom0 writes: xenstore's messages as they come off the ring, and the invitation in a migration stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toolstack::stream::{self, Invitation, Owner};
use xen_pv::xenstore::wire::Decoder;

fuzz_target!(|bytes: &[u8]| {
    let (mut decoder, mut rest) = (Decoder::default(), bytes);
    while let Some((some, others)) = rest.split_at_checked(decoder.wanted().max(1)) {
        rest = others;
        match decoder.push(some) {
            Ok(Some(message)) => {
                let _ = (message.watch_event(), message.names(), message.error_name());
            }
            Ok(None) => {}
            Err(_) => break,
        }
    }
    let Some((head, rest)) = bytes.split_first_chunk::<{ stream::HEAD }>() else { return };
    if let Ok(Owner::Us { body, rest: length }) = stream::owner(head) {
        assert!(body <= length);
        if let Ok(invitation) = rest.get(..length).map_or(Err(()), |rest| Invitation::decode(rest, body).map_err(drop))
        {
            let again = invitation.encode((4, 17));
            let (head, rest) = again.split_first_chunk().expect("a head");
            let Ok(Owner::Us { body, .. }) = stream::owner(head) else { panic!("not ours any more") };
            assert!(Invitation::decode(rest, body).is_ok_and(|other| other == invitation));
        }
    }
});
