//! Pages that the agent shares: with the network's backend, with xenstore, with the hypervisor for faults. The first byte
//! chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xen_pv::{guest, netfront, xenstore};

fuzz_target!(|bytes: &[u8]| {
    let Some((ring, bytes)) = bytes.split_first() else { return };
    match ring % 3 {
        0 => netfront::fuzzing::queue(bytes),
        1 => xenstore::fuzzing::store(bytes),
        _ => guest::pager::fuzzing::ring(bytes),
    }
});
