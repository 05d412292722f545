//! What a bench measured, as `report.json` has it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tests_qemu::report::Report;

use super::plan::Experiment;
use super::processor::Looks;
use super::spread::Spread;
use super::watch::Counts;
use crate::command::{command, run};
use crate::paths::Paths;
use crate::scenario::throughput::Throughput;

/// A whole bench.
#[derive(Serialize, Deserialize)]
pub struct Record {
    /// Where it ran, and what took part: a name and a value each.
    pub machine: Vec<(String, String)>,
    /// TCP between the hosts, as often as each mode takes its turn.
    pub tcp: Vec<Throughput>,
    /// The same with agents behind dom0's network backend.
    pub tcp_by_vif: Vec<Throughput>,
    /// A round trip between agents that have nothing to do.
    pub idle_round_trip_us: Option<f64>,
    /// The agent's own path without Xen, if it was measured in this workspace: the step, and GB/s.
    pub host_path: Vec<(String, f64)>,
    /// Every migration, in order.
    pub runs: Vec<Run>,
    /// Those of watched rounds.
    pub watched: Vec<Run>,
    /// What the time did not suffice for.
    pub left_out: Vec<String>,
    /// How long all of it took.
    pub minutes: f64,
}

/// One migration.
#[derive(Serialize, Deserialize)]
pub struct Run {
    /// The guest, its load, the link.
    pub experiment: Experiment,
    /// How it moved.
    pub series: String,
    /// Everything that was counted.
    pub report: Report,
    /// What was seen meanwhile.
    pub seen: Seen,
}

/// What was seen while a guest moved. Times are in seconds since `xl migrate` began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Pages that the guest's workload had written.
    pub work: Series,
    /// Bytes of the guest's TCP stream that had arrived.
    pub stream: Series,
    /// Bytes that the target's host had received.
    pub wire: Series,
    /// Faults that the target's agent had met.
    pub faults: Series,
    /// What the processors of the source's and the target's host were at, if anybody looked.
    pub processors: Vec<Looks>,
    /// When each state of the agents was first seen, `source` or `target` before it.
    pub states: Vec<(f64, String)>,
}

impl Seen {
    /// When a state of the agents was first seen.
    pub fn reached(&self, state: &str) -> Option<f64> {
        self.states.iter().find(|(_, said)| said == state).map(|(at, _)| *at)
    }
}

/// A counter over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Series(pub Vec<(f64, u64)>);

impl Series {
    /// `counts` with times since `begun`.
    pub fn since(begun: Instant, counts: Counts) -> Self {
        Self(seconds_since(begun, counts))
    }

    /// How much the counter grew a second from `from` to `to`, as far as it was looked at then.
    pub fn rate(&self, from: f64, to: f64) -> Option<f64> {
        let (first, last) = (self.0.first()?.0, self.0.last()?.0);
        let (from, to) = (from.max(first), to.min(last));
        (to > from).then(|| (self.at(to) - self.at(from)) / (to - from))
    }

    /// The rate in each interval of `step` seconds.
    pub fn rates(&self, step: f64) -> Vec<(f64, f64)> {
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else { return Vec::new() };
        let steps = ((last.0 - first.0) / step) as usize;
        let times = (0..steps).map(|index| first.0 + index as f64 * step);
        times.filter_map(|from| Some((from + step / 2.0, self.rate(from, from + step)?))).collect()
    }

    /// The counter at a time within what was seen, as if it had grown evenly between two looks.
    fn at(&self, time: f64) -> f64 {
        let next = self.0.partition_point(|(at, _)| *at < time).clamp(1, self.0.len() - 1);
        let ((t0, c0), (t1, c1)) = (self.0[next - 1], self.0[next]);
        let share = if t1 > t0 { ((time - t0) / (t1 - t0)).clamp(0.0, 1.0) } else { 1.0 };
        c0 as f64 + (c1 as f64 - c0 as f64) * share
    }
}

/// What was looked at, with seconds since `begun`.
pub fn seconds_since<T>(begun: Instant, looks: Counts<T>) -> Vec<(f64, T)> {
    let seconds = |at: Instant| match at.checked_duration_since(begun) {
        Some(after) => after.as_secs_f64(),
        None => -begun.duration_since(at).as_secs_f64(),
    };
    looks.into_iter().map(|(at, look)| (seconds(at), look)).collect()
}

impl Record {
    /// Reads one that was written.
    pub fn read(file: &Path) -> Result<Self> {
        let json = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&json).with_context(|| format!("{} is not of this version", file.display()))
    }

    /// The experiments, in the order in which they were first run.
    pub fn experiments(&self) -> Vec<Experiment> {
        let mut found: Vec<Experiment> = Vec::new();
        for run in &self.runs {
            if !found.contains(&run.experiment) {
                found.push(run.experiment);
            }
        }
        found
    }

    /// The migrations of an experiment in one series that succeeded.
    pub fn runs_of<'a>(&'a self, experiment: &'a Experiment, series: &'a str) -> impl Iterator<Item = &'a Run> {
        let of = move |run: &&Run| run.experiment == *experiment && run.series == series;
        self.runs.iter().filter(of).filter(|run| run.report.all_held())
    }
}

/// MB/s of TCP between the hosts: from dom0 to dom0, and from agent to agent.
pub fn medians(tcp: &[Throughput]) -> Option<[f64; 2]> {
    let of = |end: fn(&Throughput) -> f64| Some(Spread::of(tcp.iter().map(end))?.median);
    Some([of(|tcp| tcp.dom0_mb_per_s)?, of(|tcp| tcp.agent_mb_per_s)?])
}

/// The machine below and what is known of the checkout.
pub fn machine(paths: &Paths) -> Vec<(String, String)> {
    let line = |file: &str, word: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(word)).unwrap_or_default();
        line.split_once(':').map_or(line, |(_, value)| value).trim().to_owned()
    };
    let said = |program: &str, words: &[&str]| {
        let said = run(command(program, words).current_dir(&paths.workspace)).unwrap_or_default();
        said.lines().next().unwrap_or_default().to_owned()
    };
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    [
        ("processor", line("/proc/cpuinfo", "model name")),
        ("processors", cpus.to_string()),
        ("memory", line("/proc/meminfo", "MemTotal")),
        ("kernel", line("/proc/version", "Linux").split(' ').take(3).collect::<Vec<_>>().join(" ")),
        ("QEMU", said("qemu-system-x86_64", &["--version"])),
        ("emulation", "TCG, no hardware virtualisation; one processor for each host".to_owned()),
        ("commit", said("git", &["describe", "--always", "--dirty"])),
        ("date", said("date", &["-u", "+%F %H:%M UTC"])),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::Series;

    #[test]
    fn rates_hold_between_looks_and_nowhere_else() {
        let series = Series(vec![(-1.0, 0), (0.0, 100), (2.0, 100), (4.0, 500)]);
        assert_eq!(series.rate(-1.0, 0.0), Some(100.0));
        assert_eq!(series.rate(0.0, 2.0), Some(0.0));
        assert_eq!(series.rate(3.0, 9.0), Some(200.0));
        assert_eq!(series.rate(5.0, 9.0), None);
        assert_eq!(Series::default().rate(0.0, 1.0), None);
        assert_eq!(series.rates(2.0), [(0.0, 50.0), (2.0, 100.0)]);
    }
}
