//! The process-level ABI under the agent: those of Hermit's `sys_*` that it calls, over Xen.
//!
//! The linker keeps the list honest: a call of anything else is an undefined symbol. The assertions below hold each
//! signature against the declaration in `hermit-abi`; a wrong one does not compile.

use core::slice;

use spin::Mutex;
use xen_pv::console;
use xen_pv::entropy::Entropy;
use xen_pv::sched::{self, Reason};

const EBADF: isize = 9;
const ENOSYS: isize = 38;

const _: [unsafe extern "C" fn(i32, *const u8, usize) -> isize; 2] = [hermit_abi::write, sys_write];
const _: [unsafe extern "C" fn(*mut u8, usize, u32) -> isize; 2] = [hermit_abi::read_entropy, sys_read_entropy];
const _: [unsafe extern "C" fn(i32) -> !; 2] = [hermit_abi::exit, sys_exit];
const _: [unsafe extern "C" fn() -> !; 2] = [hermit_abi::abort, sys_abort];

static ENTROPY: Mutex<Option<Entropy>> = Mutex::new(None);

/// Gives the process its random bytes.
pub fn init(entropy: Entropy) {
    *ENTROPY.lock() = Some(entropy);
}

/// Standard output and error are the console.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_write(fd: i32, bytes: *const u8, length: usize) -> isize {
    if !matches!(fd, 1 | 2) {
        return -EBADF;
    }
    if length > 0 {
        // SAFETY: the caller describes bytes that it may read.
        console::write(unsafe { slice::from_raw_parts(bytes, length) });
    }
    length as isize
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sys_read_entropy(bytes: *mut u8, length: usize, _flags: u32) -> isize {
    let mut entropy = ENTROPY.lock();
    let Some(entropy) = entropy.as_mut() else { return -ENOSYS };
    if length > 0 {
        // SAFETY: the caller describes bytes that it may write.
        let bytes = unsafe {
            bytes.write_bytes(0, length);
            slice::from_raw_parts_mut(bytes, length)
        };
        entropy.fill(bytes);
    }
    length as isize
}

#[unsafe(no_mangle)]
extern "C" fn sys_exit(status: i32) -> ! {
    sched::shutdown(if status == 0 { Reason::Poweroff } else { Reason::Crash })
}

#[unsafe(no_mangle)]
extern "C" fn sys_abort() -> ! {
    sched::shutdown(Reason::Crash)
}
