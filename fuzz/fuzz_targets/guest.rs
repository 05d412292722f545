//! What another host says a guest is, and what the guest itself says where it stopped.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xen_pv::guest::machine_config::{MachineConfig, State};
use xen_pv::guest::kind::PVH;
use xen_pv::guest::walk;

/// Most pages that a walk may name.
const LIMIT: usize = 512;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = MachineConfig::decode(bytes, &PVH) {
        assert_eq!(MachineConfig::decode(&config.encode(), &PVH), Ok(config));
    }
    if let Ok(state) = State::decode(bytes) {
        assert_eq!(State::decode(&state.encode()), Ok(state));
    }
    // Every page of this guest holds the input's first bytes, again and again.
    let read = |_, page: &mut [u8; 4096]| {
        page.iter_mut().zip(bytes.iter().cycle()).for_each(|(to, from)| *to = *from);
        !bytes.is_empty()
    };
    assert!(walk::first_touched(bytes, LIMIT, read).len() <= LIMIT);
    assert!(walk::last_touched(bytes, LIMIT, read).len() <= LIMIT);
});
