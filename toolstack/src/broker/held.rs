//! What a broker has done to a guest that must be undone, written down: a broker that is killed undoes nothing itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use common::{DomId, Line, ParseError};
use rustix::fs::FlockOperation;
use xen_abi::privcmd::Privcmd;

use super::window::clear_all;

/// Rings that an agent may have, at most.
const RINGS: usize = 8;

/// A ring that nobody else uses as long as this lives; what its broker has done to a guest stands in the file.
pub(super) struct Seat(File);

fn path(ring: usize) -> String {
    format!("/run/tsmc-ring-{ring}")
}

/// What is to be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// The guest.
    pub(super) domain: DomId,
    /// The agent, which may use entries of the guest's grant table.
    pub(super) agent: DomId,
    /// The dirty log is on.
    pub(super) logs: bool,
    /// Pause counts that the agent has taken.
    pub(super) pauses: u32,
}

impl Seat {
    /// The seat at this ring, if it is free.
    pub(super) fn take(ring: usize) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path(ring))?;
        let free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        Ok(free.then_some(Self(file)))
    }

    /// Writes down what is about to be done, or that there is nothing any more.
    pub(super) fn write(&mut self, held: Option<Held>) -> io::Result<()> {
        let text = held.map_or_else(String::new, |held| held.to_string());
        self.0.rewind()?;
        self.0.write_all(text.as_bytes())?;
        self.0.set_len(text.len() as u64)
    }

    /// Undoes what a broker that was killed has left here.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        let Some(held) = self.read() else { return Ok(()) };
        held.undo(&Privcmd::open()?);
        self.write(None)
    }

    fn read(&mut self) -> Option<Held> {
        let mut text = String::new();
        self.0.rewind().and_then(|()| self.0.read_to_string(&mut text)).ok()?;
        Held::parse(&text).ok()
    }
}

impl Held {
    /// Undoes it, whoever has done it. Of a guest that is gone nothing is left to undo.
    pub(super) fn undo(self, privcmd: &Privcmd) {
        let Self { domain, agent, logs, pauses } = self;
        let _ = clear_all(privcmd, domain, agent);
        if logs {
            let _ = privcmd.log_off(domain);
        }
        for _ in 0..pauses {
            let _ = privcmd.unpause(domain);
        }
    }

    fn parse(text: &str) -> Result<Self, ParseError> {
        let line = Line::new(text);
        let (domain, agent, pauses) = (line.field("domain")?, line.field("agent")?, line.field("pauses")?);
        Ok(Self { domain, agent, logs: line.field::<u8>("logs")? != 0, pauses })
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { domain, agent, logs, pauses } = self;
        write!(f, "held domain={domain} agent={agent} logs={} pauses={pauses}", u8::from(*logs))
    }
}

/// Undoes what brokers that were killed have left.
pub fn undo_abandoned() -> io::Result<()> {
    for ring in (0..RINGS).filter(|ring| Path::new(&path(*ring)).exists()) {
        if let Some(mut seat) = Seat::take(ring)? {
            seat.settle()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_read_as_it_was_written() {
        let held = Held { domain: DomId(5), agent: DomId(1), logs: true, pauses: 2 };
        assert_eq!(Held::parse(&held.to_string()), Ok(held));
        assert!(Held::parse("").is_err() && Held::parse("held domain=5 agent=1 logs=1").is_err());
    }
}
