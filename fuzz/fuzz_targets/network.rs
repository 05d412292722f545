//! Frames that come over the network, from whomever.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| agent::fuzzing::network(bytes));
