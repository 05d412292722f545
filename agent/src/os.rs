//! The Hermit ABI, made safe: the process that the agent runs in.
//!
//! The image defines these `sys_*` functions over Xen; host tests link a shim of the same symbols over std.
#![allow(unsafe_code)]

use log::{LevelFilter, Log, Metadata, Record};

/// The standard error output: the console.
const CONSOLE: i32 = 2;

/// Writes all of `bytes` to the console, as far as it takes them.
pub fn print(bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: the pointer and the length describe `rest`, which outlives the call; the function only reads it.
        let written = unsafe { hermit_abi::write(CONSOLE, rest.as_ptr(), rest.len()) };
        match usize::try_from(written) {
            Ok(count) if count > 0 => rest = rest.get(count..).unwrap_or_default(),
            _ => return,
        }
    }
}

/// Fills `bytes` with entropy; whether it could.
#[must_use]
pub fn random(bytes: &mut [u8]) -> bool {
    // SAFETY: the pointer and the length describe `bytes`, which is ours alone for the length of the call.
    let filled = unsafe { hermit_abi::read_entropy(bytes.as_mut_ptr(), bytes.len(), 0) };
    usize::try_from(filled) == Ok(bytes.len())
}

/// Ends the process.
pub fn exit(status: i32) -> ! {
    // SAFETY: the function takes a number and does not return.
    unsafe { hermit_abi::exit(status) }
}

/// Sends the log to the console.
pub fn log_to_console(level: LevelFilter) {
    static CONSOLE_LOG: ConsoleLog = ConsoleLog;
    if log::set_logger(&CONSOLE_LOG).is_ok() {
        log::set_max_level(level);
    }
}

struct ConsoleLog;

impl Log for ConsoleLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = alloc::format!("{:5} {}\n", record.level(), record.args());
        print(line.as_bytes());
    }

    fn flush(&self) {}
}
