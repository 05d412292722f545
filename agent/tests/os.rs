//! `agent::os` over a shim of the Hermit ABI: the same symbols, on std.
#![allow(unsafe_code)]

use std::io::Write;
use std::sync::Mutex;

static CONSOLE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// The console takes at most seven bytes at a time.
// SAFETY: nothing else in this program defines the symbol.
#[unsafe(no_mangle)]
extern "C" fn sys_write(fd: i32, bytes: *const u8, length: usize) -> isize {
    assert_eq!(fd, 2);
    // SAFETY: the caller describes bytes that it may read.
    let bytes = unsafe { core::slice::from_raw_parts(bytes, length.min(7)) };
    CONSOLE.lock().expect("no test panics here").write_all(bytes).expect("memory takes all");
    bytes.len() as isize
}

// SAFETY: nothing else in this program defines the symbol.
#[unsafe(no_mangle)]
extern "C" fn sys_read_entropy(bytes: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller describes bytes that it may write.
    unsafe { core::slice::from_raw_parts_mut(bytes, length) }.fill(0x5a);
    length as isize
}

// SAFETY: nothing else in this program defines the symbol.
#[unsafe(no_mangle)]
extern "C" fn sys_exit(status: i32) -> ! {
    std::process::exit(status)
}

#[test]
fn log_lines_reach_the_console_whole() {
    agent::os::log_to_console(log::LevelFilter::Info);
    log::info!("a line that is longer than seven bytes");
    log::debug!("not this one");
    let console = String::from_utf8(CONSOLE.lock().unwrap().clone()).unwrap();
    assert_eq!(console, "INFO  a line that is longer than seven bytes\n");
}

#[test]
fn entropy_fills_all() {
    let mut bytes = [0; 33];
    assert!(agent::os::random(&mut bytes));
    assert_eq!(bytes, [0x5a; 33]);
}
