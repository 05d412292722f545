//! What a stranger, or an agent that is trusted and lies, says to an agent: calls, answers, records, messages, datagrams;
//! and notes that dom0 hands it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| agent::fuzzing::channel(bytes));
