//! The image that hosts run: the migration agent.
#![no_std]
#![no_main]

use boot::say;
use boot::serve::{self, Refusal};
use boot::start::Machine;
use xen_pv::sched::{self, Reason};

boot::entry_point!(main);

fn main(machine: Machine) -> ! {
    let Err(refusal) = serve::run(machine);
    say!("cannot serve: {refusal}");
    // Toolstacks are told to start a crashed agent again, which mends neither its command line nor the hypervisor.
    sched::shutdown(match refusal {
        Refusal::Permanent(_) => Reason::Poweroff,
        Refusal::Transient(_) => Reason::Crash,
    })
}
