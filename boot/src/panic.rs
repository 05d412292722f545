//! The end: say where, then tell Xen that the domain crashed.

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use xen_pv::hypercall;

/// Xen's own console: works before anything else does and after everything else failed.
pub struct XenConsole;

impl Write for XenConsole {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        hypercall::console_write(text.as_bytes()).map(drop).map_err(|_| fmt::Error)
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = match info.location() {
        Some(place) => {
            writeln!(XenConsole, "tsmc-agent: panic at {}:{}: {}", place.file(), place.line(), info.message())
        }
        None => writeln!(XenConsole, "tsmc-agent: panic: {}", info.message()),
    };
    xen_pv::sched::shutdown(xen_pv::sched::Reason::Crash)
}

/// The precompiled `alloc` names it; with `panic = "abort"` nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As [`rust_eh_personality`].
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    xen_pv::sched::shutdown(xen_pv::sched::Reason::Crash)
}
