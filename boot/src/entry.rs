//! Where Xen jumps to, and the notes by which its domain builder knows how to load the image.
//!
//! Xen passes the virtual address of `start_info` in rsi and a small stack; the image brings a larger one. Upcalls are
//! masked when a domain starts and stay so: nothing ever runs on this stack but the one thread.

use core::arch::global_asm;

#[doc(no_inline)]
pub use xen_abi::start_info::StartInfo;
use xen_pv::processor;

use crate::console;
use crate::layout::{STACK, VIRT_BASE};
use crate::start::Machine;

/// Makes `main`, a `fn(Machine) -> !`, what the image does.
#[macro_export]
macro_rules! entry_point {
    ($main:path) => {
        /// The first Rust code, on the image's own stack.
        #[unsafe(no_mangle)]
        extern "C" fn image_main(info: *const $crate::entry::StartInfo) -> ! {
            // SAFETY: only the entry calls this, once, with what it got from Xen.
            unsafe { $crate::entry::run(info, env!("CARGO_BIN_NAME"), $main) }
        }
    };
}

/// Sets the machine up and hands it to the image's `main`.
///
/// # Safety
/// `info` must be what Xen passed to the image's entry; once only.
pub unsafe fn run(info: *const StartInfo, image: &'static str, main: fn(Machine) -> !) -> ! {
    processor::enable_avx();
    console::set_image(image);
    // SAFETY: the caller's promise: Xen passes a valid start_info, which nobody else uses.
    let machine = unsafe { Machine::new(&*info) };
    match machine {
        Ok(machine) => main(machine),
        Err(errno) => panic!("cannot start: {errno}"),
    }
}

global_asm!(
    ".section .text.entry, \"ax\", @progbits",
    ".globl _start",
    "_start:",
    "cld",
    "mov rdi, rsi",
    "lea rsp, [rip + stack_end]",
    "xor ebp, ebp",
    "call image_main",
    "ud2",
    ".section .bss.stack, \"aw\", @nobits",
    ".balign 4096",
    ".skip {stack}",
    stack = const STACK,
);

// Notes: name "Xen", then a number (a 64-bit word) or a string. Types are those of `elfnote.h`.
global_asm!(
    ".macro xen_number type, value",
    ".balign 4",
    ".long 4, 8, \\type",
    ".asciz \"Xen\"",
    ".quad \\value",
    ".endm",
    ".macro xen_string type, value:vararg",
    ".balign 4",
    ".long 4, 2f - 1f, \\type",
    ".asciz \"Xen\"",
    "1: .asciz \\value",
    "2: .balign 4",
    ".endm",
    ".section .note.Xen, \"a\", @note",
    "xen_string 6, \"tsmc\"",    // GUEST_OS
    "xen_string 7, \"0.1\"",     // GUEST_VERSION
    "xen_string 5, \"xen-3.0\"", // XEN_VERSION
    "xen_string 8, \"generic\"", // LOADER
    "xen_string 9, \"yes\"",     // PAE_MODE
    "xen_number 3, {base}",      // VIRT_BASE
    "xen_number 4, {base}",      // PADDR_OFFSET
    "xen_number 1, _start",      // ENTRY
    ".text",
    base = const VIRT_BASE,
);
