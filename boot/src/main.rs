//! The unikernel image: entry, memory, panic, and the `main` that hands Xen to the agent.
#![no_std]
#![no_main]

extern crate alloc;

mod bytes;
mod entry;
mod heap;
mod hermit;
mod identity;
mod layout;
mod net_device;
mod panic;
mod platform;
mod selftest;
mod serve;
mod start;
mod store;

use xen_abi::start_info::StartInfo;
use xen_pv::sched::{self, Reason};

use serve::Refusal;
use start::Machine;

/// Writes a line to the console.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        let _ = writeln!(xen_pv::console::Writer, "tsmc-agent: {}", format_args!($($argument)*));
    }};
}

/// The first Rust code, on the image's own stack.
extern "C" fn start(info: *const StartInfo) -> ! {
    // SAFETY: Xen passes a valid start_info, which nobody else uses, and starts the image once.
    let machine = unsafe { Machine::new(&*info) };
    match machine {
        Ok(machine) => run(machine),
        Err(errno) => panic!("cannot start: {errno}"),
    }
}

fn run(mut machine: Machine) -> ! {
    let mut words = machine.command_line.split_ascii_whitespace();
    if words.clone().any(|word| word == "meter") {
        let Err(reason) = selftest::meter::serve(&mut machine);
        say!("{reason}");
        sched::shutdown(Reason::Crash)
    }
    if words.clone().any(|word| word == "selftest=panic") {
        panic!("asked for on the command line");
    }
    if words.any(|word| word == "selftest") {
        say!("version {} on Xen {}: self-test", env!("CARGO_PKG_VERSION"), start::XenVersion);
        match selftest::run(&mut machine) {
            Ok(()) => say!("SELFTEST PASS"),
            Err(failure) => say!("SELFTEST FAIL {failure}"),
        }
        sched::shutdown(Reason::Poweroff)
    }
    let Err(refusal) = serve::run(machine);
    say!("cannot serve: {refusal}");
    // Toolstacks are told to start a crashed agent again, which does not mend its command line.
    sched::shutdown(match refusal {
        Refusal::Configuration(_) => Reason::Poweroff,
        Refusal::Surroundings(_) => Reason::Crash,
    })
}
