//! The image that hosts run: the migration agent.
#![no_std]
#![no_main]

use boot::say;
use boot::serve::{self, StartError};
use boot::start::Machine;
use xen_pv::sched::{self, Reason};

boot::entry_point!(main);

fn main(machine: Machine) -> ! {
    let Err(error) = serve::run(machine);
    say!("cannot serve: {error}");
    // Toolstacks are told to start a crashed agent again, which mends neither its command line nor the hypervisor.
    sched::shutdown(match error {
        StartError::Permanent(_) => Reason::Poweroff,
        StartError::Transient(_) => Reason::Crash,
    })
}
