//! The panic handler: says where it happened, then tells Xen that the domain crashed.

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use xen_pv::sched::{self, Reason};
use xen_pv::{console, hypercall};

use crate::console::image;

/// The domain's console and Xen's own: one of them is read.
struct BothConsoles;

impl Write for BothConsoles {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        console::write(text.as_bytes());
        // Xen shows it to its own log's readers, if it listens to this domain at all.
        let _ = hypercall::console_write(text.as_bytes());
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let image = image();
    let _ = match info.location() {
        Some(at) => writeln!(BothConsoles, "{image}: panic at {}:{}: {}", at.file(), at.line(), info.message()),
        None => writeln!(BothConsoles, "{image}: panic: {}", info.message()),
    };
    sched::shutdown(Reason::Crash)
}

/// The precompiled `alloc` names it; with `panic = "abort"` nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As [`rust_eh_personality`].
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    sched::shutdown(Reason::Crash)
}
