//! What is measured: experiments, most wanted first, and the series of each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cli::Mode;
use crate::scenario::guest::{Guest, Workload};
use crate::scenario::keys::Channel;

/// Memory that the workload writes to when the rate is what is varied: more than 20,000 pages.
const VARIED_MB: u32 = 80;
/// What a guest does that is busy with nothing: a few pages, now and then. They also show that it goes on.
const LIGHT: Workload = Workload { dirty_mb: 4, dirty_rate: 50 };
/// How much of what the guest has left `memtester` takes, in percent.
const MEMTESTER_PERCENT: u32 = 80;
/// A rate at which the network is the limit, and not the emulated processors.
const SHAPED_MBIT: u32 = 40;

/// What the guest is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    /// An idle Linux, and a few pages written now and then.
    Low,
    /// The same, and `memtester` over most of the memory.
    High,
    /// So many pages a second, all over 80 MiB.
    Rate(u32),
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Low => f.write_str("low load"),
            Self::High => f.write_str("high load"),
            Self::Rate(rate) => write!(f, "{rate} pages/s over {VARIED_MB} MiB"),
        }
    }
}

/// A guest, its load and the link: everything but how it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Experiment {
    /// The guest's memory.
    pub memory_mb: u32,
    /// What it is busy with.
    pub load: Load,
    /// The limit of each host's link, in both directions.
    pub link_mbit: Option<u32>,
    /// Whether the guest sends a TCP stream to the third place, as fast as it can.
    pub stream: bool,
    /// Whether our three stages are measured in clear as well.
    pub plain: bool,
}

impl Experiment {
    /// With a fast link, and nothing besides.
    pub const fn new(memory_mb: u32, load: Load) -> Self {
        Self { memory_mb, load, link_mbit: None, stream: false, plain: false }
    }

    /// Its guest.
    pub fn prepare(&self, guest: &mut Guest) {
        guest.memory_mib = self.memory_mb;
        guest.load = LIGHT;
        match self.load {
            Load::Low => {}
            Load::High => guest.arguments = format!("tsmc_memtester={MEMTESTER_PERCENT}"),
            Load::Rate(rate) => guest.load = Workload { dirty_mb: VARIED_MB, dirty_rate: rate },
        }
    }

    /// What takes turns in it.
    pub fn series(&self) -> Vec<Series> {
        let mut series = Series::ALL.to_vec();
        series.retain(|series| series.channel == Channel::Sealed || self.plain);
        if self.link_mbit.is_some() && !self.stream {
            // How much of a link is used is asked of our three stages alone.
            series.retain(|series| series.mode == Mode::Tsmc);
        }
        series
    }
}

impl fmt::Display for Experiment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MB, {}", self.memory_mb, self.load)?;
        if let Some(mbit) = self.link_mbit {
            write!(f, ", link of {mbit} Mbit/s")?;
        }
        f.write_str(if self.stream { ", with a TCP stream" } else { "" })
    }
}

/// How a guest moves: what experiments compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Series {
    /// Who moves the memory.
    pub mode: Mode,
    /// How the agents talk to each other.
    pub channel: Channel,
}

impl Series {
    /// All, in the order in which they take turns.
    pub const ALL: [Self; 5] = [
        Self { mode: Mode::Xl, channel: Channel::Sealed },
        Self { mode: Mode::Tsmc, channel: Channel::Sealed },
        Self { mode: Mode::Precopy, channel: Channel::Sealed },
        Self { mode: Mode::Postcopy, channel: Channel::Sealed },
        Self { mode: Mode::Tsmc, channel: Channel::Plain },
    ];

    /// As the report calls it.
    pub fn name(&self) -> String {
        let plain = if self.channel == Channel::Plain { " plain" } else { "" };
        format!("{}{plain}", self.mode)
    }
}

/// The plan: what matters most comes first, since what the time does not suffice for is left out.
pub fn plan() -> Vec<Experiment> {
    let of = Experiment::new;
    let mut plan = vec![
        Experiment { plain: true, ..of(256, Load::Low) },
        of(256, Load::High),
        Experiment { link_mbit: Some(SHAPED_MBIT), stream: true, ..of(128, Load::Low) },
        Experiment { link_mbit: Some(SHAPED_MBIT), ..of(128, Load::Low) },
        of(256, Load::Rate(0)),
        of(256, Load::Rate(16_000)),
    ];
    plan.extend([128, 512, 1024].into_iter().flat_map(|memory| [of(memory, Load::Low), of(memory, Load::High)]));
    plan.extend([1000, 4000, 64_000].map(|rate| of(256, Load::Rate(rate))));
    plan.push(Experiment { stream: true, ..of(256, Load::Low) });
    plan
}
