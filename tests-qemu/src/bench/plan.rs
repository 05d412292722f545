//! The experiments of a bench, the most important first, and the series of each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mode::Mode;
use crate::nic::Nic;
use crate::scenario::guest::{Guest, Workload};
use crate::scenario::keys::Channel;

/// Memory that the workload writes to when the rate is what is varied: more than 20,000 pages.
const VARIED_MB: u32 = 80;
/// What a guest does that is busy with nothing: a few pages, now and then. They also show that it goes on.
const LIGHT: Workload = Workload::new(4, 50);
/// How much of what the guest has left `memtester` takes, in percent.
const MEMTESTER_PERCENT: u32 = 80;
/// The memory of the guest that everything is tried on.
const USUAL_MB: u32 = 256;
/// The memory of the largest guest.
const LARGE_MB: u32 = 1024;
/// A rate at which the network is the limit, and not the emulated processors.
const SHAPED_MBIT: u32 = 40;

/// What the guest is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Experiment {
    /// The guest's memory.
    pub memory_mb: u32,
    /// What it is busy with.
    pub load: Load,
    /// The limit of each host's link, in both directions.
    pub link_mbit: Option<u32>,
    /// Whether the guest sends a TCP stream to the third place, as fast as it can.
    pub stream: bool,
    /// Whether it is looked at closely: our agents behind network backends as well, Xen's own migration over ssh, and
    /// whose the processors are.
    pub closely: bool,
}

impl Experiment {
    /// With a fast link, and nothing besides.
    pub const fn new(memory_mb: u32, load: Load) -> Self {
        Self { memory_mb, load, link_mbit: None, stream: false, closely: false }
    }

    /// Its guest.
    pub fn prepare(&self, guest: &mut Guest) {
        guest.memory_mib = self.memory_mb;
        guest.load = LIGHT;
        match self.load {
            Load::Low => {}
            Load::High => guest.arguments = format!("tsmc_memtester={MEMTESTER_PERCENT}"),
            Load::Rate(rate) => guest.load = Workload::new(VARIED_MB, rate),
        }
    }

    /// Whether it belongs to the paper's figures 4 and 5: low or high load, and nothing in the way.
    pub fn is_of_the_paper(&self) -> bool {
        self.is_unhindered() && matches!(self.load, Load::Low | Load::High)
    }

    /// Whether nothing but the guest's load is in the way.
    pub fn is_unhindered(&self) -> bool {
        self.link_mbit.is_none() && !self.stream
    }

    /// Whether it is that of the guest that everything is tried on.
    pub fn is_usual(&self) -> bool {
        self.is_of_the_paper() && self.memory_mb == USUAL_MB
    }

    /// Whether it takes so long that only what is compared first of all takes its turn.
    fn is_large(&self) -> bool {
        self.memory_mb >= LARGE_MB
    }

    /// What takes turns in it.
    pub fn series(&self) -> Vec<Series> {
        let takes_part = |series: &Series| match series {
            Series { nic: Nic::Vif | Nic::Netdom, .. } | Series { mode: Mode::Xl, channel: Channel::Sealed, .. } => {
                self.closely
            }
            Series { channel: Channel::Plain, mode: Mode::Agents(_), .. } => self.is_usual(),
            // How much of a link is used is asked of our three stages alone.
            Series { mode: Mode::Xl, .. } => self.link_mbit.is_none() || self.stream || self.load == Load::High,
            Series { mode: Mode::TSMC, .. } => true,
            Series { mode: Mode::PRECOPY | Mode::POSTCOPY, .. } => self.is_of_the_paper() && !self.is_large(),
        };
        Series::ALL.into_iter().filter(takes_part).collect()
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
    /// How the hosts talk to each other: Xen's own stream is in clear unless it goes over ssh.
    pub channel: Channel,
    /// The agents' network interfaces.
    pub nic: Nic,
}

impl Series {
    /// All, in the order in which they take turns.
    pub const ALL: [Self; 8] = [
        Self::new(Mode::Xl, Channel::Plain),
        Self::new(Mode::TSMC, Channel::Sealed),
        Self::new(Mode::PRECOPY, Channel::Sealed),
        Self::new(Mode::POSTCOPY, Channel::Sealed),
        Self::new(Mode::TSMC, Channel::Plain),
        Self { nic: Nic::Vif, ..Self::new(Mode::TSMC, Channel::Sealed) },
        Self { nic: Nic::Netdom, ..Self::new(Mode::TSMC, Channel::Sealed) },
        Self::new(Mode::Xl, Channel::Sealed),
    ];

    /// By agents that have network cards of their own, if agents take part.
    pub const fn new(mode: Mode, channel: Channel) -> Self {
        Self { mode, channel, nic: Nic::Pci }
    }

    /// Whether one round of it will do: what ssh encrypts and a driver domain forwards takes minutes here.
    pub fn is_once(&self) -> bool {
        self.nic == Nic::Netdom || *self == Self::new(Mode::Xl, Channel::Sealed)
    }

    /// Whether it is what is compared first of all: our three stages as they are used, with Xen's own migration.
    pub fn is_main(&self) -> bool {
        [Self::new(Mode::Xl, Channel::Plain), Self::new(Mode::TSMC, Channel::Sealed)].contains(self)
    }

    /// As the report calls it.
    pub fn name(&self) -> String {
        let channel = match (self.mode, self.channel) {
            (Mode::Xl, Channel::Sealed) => " over ssh",
            (Mode::Xl, Channel::Plain) | (_, Channel::Sealed) => "",
            (_, Channel::Plain) => " plain",
        };
        let nic = match self.nic {
            Nic::Pci => "",
            Nic::Vif => " by vif",
            Nic::Netdom => " by driver domain",
        };
        format!("{}{channel}{nic}", self.mode)
    }
}

/// Once through the series of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// It counts, and has a number.
    Counted(u32),
    /// It shows whose the processors are, and counts nowhere else, since looking takes time, too.
    Watched,
}

impl Round {
    /// Whether a series takes its turn in it.
    pub fn has(self, series: &Series) -> bool {
        match self {
            Self::Counted(number) => number == 1 || !series.is_once(),
            Self::Watched => series.is_main(),
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Counted(number) => write!(f, "round {number}"),
            Self::Watched => f.write_str("the watched round"),
        }
    }
}

/// What the table of what is to be reached asks for.
fn asked() -> Vec<Experiment> {
    let of = Experiment::new;
    vec![
        Experiment { closely: true, ..of(USUAL_MB, Load::Low) },
        of(USUAL_MB, Load::High),
        Experiment { link_mbit: Some(SHAPED_MBIT), ..of(128, Load::High) },
        Experiment { link_mbit: Some(SHAPED_MBIT), stream: true, ..of(128, Load::Low) },
        Experiment { link_mbit: Some(SHAPED_MBIT), ..of(128, Load::Low) },
        of(USUAL_MB, Load::Rate(0)),
        of(USUAL_MB, Load::Rate(16_000)),
        of(LARGE_MB, Load::High),
    ]
}

/// The plan: what matters most comes first, since what the time does not suffice for is left out.
pub fn plan() -> Vec<Experiment> {
    let of = Experiment::new;
    let mut plan = asked();
    for load in [Load::Low, Load::High] {
        let sizes = [128, 512, LARGE_MB].map(|memory| of(memory, load));
        let further = sizes.into_iter().filter(|one| !plan.contains(one)).collect::<Vec<_>>();
        plan.extend(further);
    }
    plan.extend([1000, 4000, 64_000].map(|rate| of(USUAL_MB, Load::Rate(rate))));
    plan.push(Experiment { stream: true, ..of(USUAL_MB, Load::Low) });
    plan
}

/// The turns of these experiments, `runs` rounds of each: those that the table asks for take turns with each other,
/// so that it has a figure in each row before one has three; the others follow one by one.
pub fn turns(experiments: &[Experiment], runs: u32) -> Vec<(Experiment, Round)> {
    let asked = asked();
    let rounds = |one: &Experiment| (1..=runs).map(Round::Counted).chain(one.closely.then_some(Round::Watched));
    let mut turns: Vec<_> = experiments.iter().flat_map(|one| rounds(one).map(|round| (*one, round))).collect();
    // The sort is stable: what has the same place stays in the order of the plan.
    turns.sort_by_key(|(experiment, round)| match round {
        _ if !asked.contains(experiment) => (u32::MAX, false),
        Round::Counted(number) => (*number, false),
        Round::Watched => (1, true),
    });
    turns
}

/// Those of them that are named, or of whose names something is given; all, unless anything is.
pub fn chosen(words: &[String]) -> Vec<Experiment> {
    let all = plan();
    let is_name = |word: &String| all.iter().any(|experiment| experiment.to_string() == *word);
    let wanted = |experiment: &&Experiment| {
        let name = experiment.to_string();
        words.iter().any(|word| if is_name(word) { name == *word } else { name.contains(word.as_str()) })
    };
    if words.is_empty() { all } else { all.iter().filter(wanted).copied().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_name_means_one_experiment() {
        let count = |word: &str| chosen(&[word.to_owned()]).len();
        assert_eq!((count("256 MB, low load"), count("nothing"), chosen(&[]).len()), (1, 0, plan().len()));
        assert!(count("256 MB, low") > 1);
    }

    #[test]
    fn the_table_is_full_before_anything_is_done_thrice() {
        let turns = turns(&plan(), 3);
        let (counted, watched): (Vec<_>, Vec<_>) = turns.iter().partition(|(_, round)| *round != Round::Watched);
        assert_eq!((counted.len(), watched.len()), (3 * plan().len(), 1));
        assert!(counted[..asked().len()].iter().map(|(experiment, _)| *experiment).eq(asked()));
        assert!(plan().iter().all(|one| counted.iter().filter(|(experiment, _)| experiment == one).count() == 3));
        assert!(counted.iter().position(|(_, round)| *round == Round::Counted(3)) >= Some(2 * asked().len()));
    }

    #[test]
    fn no_experiment_is_planned_twice_and_all_compare_but_one() {
        let plan = plan();
        assert!(plan.iter().enumerate().all(|(index, one)| !plan[..index].contains(one)));
        let sizes = |load| plan.iter().filter(|e| e.is_of_the_paper() && e.load == load).count();
        assert_eq!((sizes(Load::Low), sizes(Load::High)), (4, 4));
        for experiment in &plan {
            let modes: Vec<Mode> = experiment.series().iter().map(|series| series.mode).collect();
            let compares = modes.contains(&Mode::Xl) && modes.contains(&Mode::TSMC);
            assert!(compares || modes == [Mode::TSMC] && experiment.link_mbit.is_some(), "{experiment}");
            let compares_modes = experiment.is_of_the_paper() && experiment.memory_mb < 1024;
            assert_eq!(modes.contains(&Mode::PRECOPY), compares_modes, "{experiment}");
        }
    }
}
