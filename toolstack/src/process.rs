//! Processes of dom0 that have to do with a migration. A process is known by its number and by when it started, so that a
//! number which is used again is not taken for it (`proc(5)`, `/proc/PID/stat`).

use std::fmt;
use std::fs;
use std::num::ParseIntError;
use std::str::FromStr;

use rustix::process::{Pid, Signal, kill_process};

/// One process, which may have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    number: u32,
    /// In clock ticks since the boot.
    started: u64,
}

impl Process {
    /// The one that runs this.
    pub fn this() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// The one that started this one.
    pub fn parent() -> Option<Self> {
        Self::of(std::os::unix::process::parent_id())
    }

    /// The one that has this number now, unless it has ended.
    pub fn of(number: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        // The name, in parentheses, may contain anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { number, started })
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self.number
    }

    /// Whether it has not ended.
    pub fn is_alive(self) -> bool {
        Self::of(self.number) == Some(self)
    }

    /// Sends it a signal, if it is there.
    pub fn signal(self, signal: Signal) {
        let number = i32::try_from(self.number).ok().and_then(Pid::from_raw);
        if let Some(number) = number.filter(|_| self.is_alive()) {
            // It may end at this very moment.
            let _ = kill_process(number, signal);
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.started)
    }
}

impl FromStr for Process {
    type Err = ParseIntError;
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (number, started) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self { number: number.parse()?, started: started.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_known_until_it_ends_and_its_number_is_not_enough() {
        let this = Process::this().expect("it runs");
        assert_eq!(this.to_string().parse(), Ok(this));
        assert!(this.is_alive() && !Process { started: this.started + 1, ..this }.is_alive());
        let mut child = Command::new("sleep").arg("60").spawn().expect("a child");
        let process = Process::of(child.id()).expect("it runs");
        process.signal(Signal::KILL);
        // Not reaped yet, perhaps.
        while process.is_alive() {
            std::thread::yield_now();
        }
        child.wait().expect("it has ended");
        assert!("12".parse::<Process>().is_err() && "".parse::<Process>().is_err());
    }
}
