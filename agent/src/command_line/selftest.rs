//! The self-test's command line: its own address, and one task, such as `ip=10.77.0.11/24 peer=10.77.0.2`.

use core::net::Ipv4Addr;

use common::DomId;

use super::{Result, Word, Words, address, address_in_network};
use crate::error::CommandLineError;

const DOMAIN: &str = "the number of a guest's domain";

const IP: Word = Word::with_value("ip=", "an IPv4 address with its prefix, such as 10.77.0.11/24");
const PEER: Word = Word::with_value("peer=", "an IPv4 address");
const METER: Word = Word::alone("meter");
const PANIC: Word = Word::alone("panic");
const ARM: Word = Word::with_value("arm=", DOMAIN);
const ADOPT: Word = Word::with_value("adopt=", DOMAIN);
const HOLD: Word = Word::with_value("hold=", DOMAIN);
const LEAVE: Word = Word::with_value("leave=", DOMAIN);

/// What the self-test is told on its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfTestOptions {
    /// `ip=`: its own address.
    pub address: Ipv4Addr,
    /// Bits of its network's prefix.
    pub prefix: u8,
    /// All other words: what it does.
    pub task: Task,
}

/// What the self-test does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// `peer=`: tests every part of the image once, the network with who measures streams there.
    Everything {
        /// Who measures.
        peer: Ipv4Addr,
    },
    /// `meter`: measures streams for the self-test of another.
    Meter,
    /// `panic`: panics.
    Panic,
    /// `arm=`: makes pages of a guest absent and waits for its own end.
    Arm(DomId),
    /// `adopt=`: takes such a guest over.
    Adopt(DomId),
    /// `hold=`: tells whether a guest ran that is destroyed meanwhile.
    Hold(DomId),
    /// `leave=`: frees pages of a guest as if it had left.
    Leave(DomId),
}

impl SelfTestOptions {
    /// Reads a command line.
    pub fn parse(line: &str) -> Result<Self> {
        let words = Words::parse(line, &[IP, PEER, METER, PANIC, ARM, ADOPT, HOLD, LEAVE])?;
        let (address, prefix) = words.required(&IP, address_in_network)?;
        Ok(Self { address, prefix, task: task(&words)? })
    }
}

fn task(words: &Words<'_>) -> Result<Task> {
    let tasks = [
        words.value(&PEER, address)?.map(|peer| Task::Everything { peer }),
        words.has(&METER).then_some(Task::Meter),
        words.has(&PANIC).then_some(Task::Panic),
        words.value(&ARM, domain)?.map(Task::Arm),
        words.value(&ADOPT, domain)?.map(Task::Adopt),
        words.value(&HOLD, domain)?.map(Task::Hold),
        words.value(&LEAVE, domain)?.map(Task::Leave),
    ];
    let mut tasks = tasks.into_iter().flatten();
    match (tasks.next(), tasks.next()) {
        (Some(task), None) => Ok(task),
        _ => Err(CommandLineError::NotOne("peer=, meter, panic, arm=, adopt=, hold=, leave=")),
    }
}

/// A domain other than dom0; what comes after these numbers is no domain's.
fn domain(text: &str) -> Option<DomId> {
    text.parse::<u16>().ok().filter(|number| (1..DomId::SELF.0).contains(number)).map(DomId)
}
