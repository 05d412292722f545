//! `xl`'s monitor of a guest: the process that `xl create` leaves behind, which destroys or restarts the guest when it shuts
//! down.
//!
//! It takes a guest that has *suspended* for one that is done with, and ends (`handle_domain_death`, `tools/xl/xl_vmcontrol.c`).
//! Should the guest come back, its next shutdown would go unnoticed. So it is stopped before the suspend, and goes on when it
//! is clear what has become of the guest: then it sees one that runs, or none.

use std::fs;
use std::path::Path;

use common::DomId;
use rustix::process::Signal;

use crate::process::Process;

/// The monitor of `domain`, if there is one. Only its log says which domain it waits for.
pub fn find(domain: DomId) -> Option<Process> {
    let processes = fs::read_dir("/proc").ok()?;
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|number| monitored(&Path::new("/proc").join(number.to_string()), *number) == Some(domain))
        .find_map(Process::of)
}

/// Stops it.
pub fn hold(monitor: Process) {
    monitor.signal(Signal::STOP);
}

/// Lets it go on.
pub fn release(monitor: Process) {
    monitor.signal(Signal::CONT);
}

/// The domain whose end the process described in `folder` waits for.
fn monitored(folder: &Path, number: u32) -> Option<DomId> {
    if fs::read_to_string(folder.join("comm")).ok()?.trim_end() != "xl" {
        return None;
    }
    // Only a monitor has a log file for standard output.
    let log = fs::read_link(folder.join("fd/1")).ok().filter(|log| log.is_absolute())?;
    waits_for(&fs::read_to_string(log).ok()?, number)
}

/// What the last line of a log like `Waiting for domain guest (domid 2) to die [pid 184]` says of the process with this number.
fn waits_for(log: &str, number: u32) -> Option<DomId> {
    let end = format!(") to die [pid {number}]");
    let line = log.lines().rev().find(|line| line.starts_with("Waiting for domain ") && line.ends_with(&end))?;
    line.strip_suffix(&end)?.rsplit_once("(domid ")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_waits_for_what_its_log_says_last() {
        let log = "Waiting for domain guest (domid 2) to die [pid 184]\nDomain 2 has shut down, reason code 1 0x1\n\
                   Waiting for domain a (domid 9) to die [pid 1] (domid 7) to die [pid 184]\nDone. Exiting now\n\
                   Waiting for domain guest (domid 8) to die [pid 1184]\n";
        assert_eq!(waits_for(log, 184), Some(DomId(7)));
        assert_eq!(waits_for(log, 1184), Some(DomId(8)));
        assert_eq!(waits_for(log, 18), None);
        assert_eq!(waits_for("Waiting for domain x to die [pid 3]\n", 3), None);
    }

    #[test]
    fn nothing_here_is_a_monitor_of_a_guest_that_does_not_exist() {
        assert_eq!(find(DomId(32751)), None);
    }
}
