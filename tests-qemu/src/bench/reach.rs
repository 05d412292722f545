//! The targets of a bench: figures with their bounds, and what was measured.

use std::fmt;

use super::figures::{self, Figure};
use super::host_path;
use super::plan::{Experiment, Load};
use super::record::{Record, medians};
use super::spread::Spread;
use crate::scenario::throughput::Throughput;

/// Our three stages, sealed.
pub const TSMC: &str = "tsmc";
/// The same in clear.
const TSMC_PLAIN: &str = "tsmc plain";
/// Sealed, by agents behind dom0's network backend.
const TSMC_BY_VIF: &str = "tsmc by vif";
/// Ours without a full copy.
const POSTCOPY: &str = "postcopy";
/// Xen's own migration, in clear.
pub const XL: &str = "xl";
/// The same as operators have it.
const XL_SSH: &str = "xl over ssh";

/// A figure with its bound.
pub struct Row {
    /// What it is.
    pub what: String,
    /// What is to be reached.
    pub bound: Bound,
    /// What was measured.
    pub figure: Option<f64>,
    /// The same by agents behind dom0's network backend.
    pub by_vif: Option<f64>,
}

/// On which side of a number a figure is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// There or below.
    AtMost(f64),
    /// There or above.
    AtLeast(f64),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "at most {bound:.2}"),
            Self::AtLeast(bound) => write!(f, "at least {bound:.2}"),
        }
    }
}

impl Row {
    /// Whether it is reached, in a word.
    pub fn verdict(&self) -> &'static str {
        match (self.figure, self.bound) {
            (None, _) => "not measured",
            (Some(figure), Bound::AtMost(bound)) if figure <= bound => "pass",
            (Some(figure), Bound::AtLeast(bound)) if figure >= bound => "pass",
            _ => "short",
        }
    }
}

/// The table.
pub fn table(record: &Record) -> Vec<Row> {
    use Bound::{AtLeast, AtMost};
    let either = Experiment::is_usual;
    let low = |experiment: &Experiment| experiment.is_usual() && experiment.load == Load::Low;
    let high = |experiment: &Experiment| experiment.is_usual() && experiment.load == Load::High;
    let streams = |experiment: &Experiment| experiment.link_mbit.is_some() && experiment.stream;
    let shaped = |experiment: &Experiment| experiment.link_mbit.is_some() && experiment.load == Load::High;
    let ours = [TSMC, XL];
    let mean = |of: &dyn Fn(&Experiment) -> bool, pair, figure: &Figure| mean(&ratios(record, of, pair, figure));
    let most = |values: Vec<f64>| values.into_iter().reduce(f64::max);
    let sends = record.runs.iter().filter(|run| run.series == TSMC).filter_map(figures::MOST_SENDS.of).collect();
    let end = |name: &str| record.host_path.iter().find(|(step, _)| step == name).map(|(_, rate)| *rate);
    let slower = |[source, target]: [&str; 2]| Some(end(source)?.min(end(target)?));
    let row = |what: &str, bound, figure| Row { what: what.to_owned(), bound, figure, by_vif: None };
    let compared = |what, bound, of: &dyn Fn(&Experiment) -> bool, figure| Row {
        by_vif: mean(of, [TSMC_BY_VIF, XL], figure),
        ..row(what, bound, mean(of, ours, figure))
    };
    vec![
        compared("total time, tsmc / xl, low load", AtMost(0.4), &low, &figures::TOTAL),
        row("the same, neither encrypted", AtMost(0.5), mean(&low, [TSMC_PLAIN, XL], &figures::TOTAL)),
        row("the same, both encrypted: xl over ssh", AtMost(0.5), mean(&low, [TSMC, XL_SSH], &figures::TOTAL)),
        row("total time, tsmc / xl, high load", AtMost(0.6), mean(&high, ours, &figures::TOTAL)),
        row("the same, neither encrypted", AtMost(0.35), mean(&high, [TSMC_PLAIN, XL], &figures::TOTAL)),
        row("the same, shaped link", AtMost(0.35), mean(&shaped, ours, &figures::TOTAL)),
        row("pages sent, tsmc / xl, low load, zero pages counted", AtMost(0.78), mean(&low, ours, &figures::PAGES)),
        row("bytes on the wire, tsmc / xl, high load", AtMost(0.5), mean(&high, ours, &figures::WIRE)),
        row("the same, shaped link", AtMost(0.5), mean(&shaped, ours, &figures::WIRE)),
        row("most sends of a page", AtMost(2.0), most(sends)),
        row(
            "downtime, tsmc / xl, the worse load",
            AtMost(1.2),
            most(ratios(record, &either, ours, &figures::DOWNTIME)),
        ),
        row("the same, high load on a shaped link", AtMost(1.0), mean(&shaped, ours, &figures::DOWNTIME)),
        growth(record),
        Row {
            by_vif: tcp(&record.tcp_by_vif),
            ..row("TCP from agent to agent / from dom0 to dom0, plain", AtLeast(1.0), tcp(&record.tcp))
        },
        row("the same, encrypted, as stage 1 moved pages", AtLeast(0.5), sealed(record)),
        row("shaped link: stage 1 / link rate", AtLeast(0.92), goodput(record)),
        fault_service(record),
        compared("dom0 CPU of the source, tsmc / xl, low load", AtMost(0.2), &low, &figures::DOM0_A),
        compared("dom0 CPU of the target, tsmc / xl, low load", AtMost(0.35), &low, &figures::DOM0_B),
        row(
            "dom0 CPU of the source for each further GB, tsmc / xl, high load",
            AtMost(0.03),
            per_gb(record, &figures::DOM0_A),
        ),
        row(
            "dom0 CPU of the target for each further GB, tsmc / xl, high load",
            AtMost(0.03),
            per_gb(record, &figures::DOM0_B),
        ),
        row("guest's stream meanwhile, tsmc / xl, shaped link", AtLeast(1.3), mean(&streams, ours, &figures::STREAM)),
        row("without Xen, the slower end on one core, plain, GB/s", AtLeast(4.0), slower(host_path::PLAIN)),
        row("without Xen, the slower end on one core, sealed, GB/s", AtLeast(2.0), slower(host_path::SEALED)),
    ]
}

/// The spread of a figure in one series of an experiment.
pub fn spread(record: &Record, experiment: &Experiment, series: &str, figure: &Figure) -> Option<Spread> {
    Spread::of(record.runs_of(experiment, series).filter_map(figure.of))
}

/// The median of one series over that of another, in each experiment that has both.
fn ratios(record: &Record, of: &dyn Fn(&Experiment) -> bool, [one, other]: [&str; 2], figure: &Figure) -> Vec<f64> {
    let experiments = record.experiments();
    let ratio = |experiment: &Experiment| {
        let of = |series| Some(spread(record, experiment, series, figure)?.median);
        Some(of(one)? / of(other).filter(|median| *median > 0.0)?)
    };
    experiments.iter().filter(|experiment| of(experiment)).filter_map(ratio).collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// TCP between the agents over TCP between the dom0s.
fn tcp(measured: &[Throughput]) -> Option<f64> {
    medians(measured).map(|[dom0, agent]| agent / dom0)
}

/// What a figure grows by from the smallest busy guest to the largest, ours over that of Xen's own migration: what it costs to
/// move memory, without what a migration costs anyhow.
fn per_gb(record: &Record, figure: &Figure) -> Option<f64> {
    let mut busy = record.experiments();
    busy.retain(|e| e.is_unhindered() && e.load == Load::High);
    busy.sort_by_key(|e| e.memory_mb);
    let of = |experiment, series| Some(spread(record, experiment, series, figure)?.median);
    let growth = |series| Some(of(busy.last()?, series)? - of(busy.first()?, series)?);
    Some(growth(TSMC)? / growth(XL).filter(|growth| *growth > 0.0)?)
}

/// Downtime with the most dirty pages over that with the fewest, the guest and its memory being the same.
fn growth(record: &Record) -> Row {
    let experiments = record.experiments();
    let varied = experiments.iter().filter(|e| e.is_unhindered() && matches!(e.load, Load::Rate(_)));
    let mut points: Vec<(f64, f64)> = varied
        .filter_map(|e| {
            let of = |figure| Some(spread(record, e, TSMC, figure)?.median);
            Some((of(&figures::DIRTY)?, of(&figures::DOWNTIME)?))
        })
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (what, figure) = match (points.first(), points.last()) {
        (Some((few, short)), Some((many, long))) if many > few => {
            (format!("downtime with {many:.0} dirty pages / with {few:.0}"), Some(long / short))
        }
        _ => ("downtime with many dirty pages / with few".to_owned(), None),
    };
    Row { what, bound: Bound::AtMost(1.2), figure, by_vif: None }
}

/// What the agents move in stage 1 over what TCP moves between the dom0s: a lower bound, since pages are read as well.
fn sealed(record: &Record) -> Option<f64> {
    let experiments = record.experiments();
    let low = experiments.iter().filter(|e| e.is_unhindered() && e.load == Load::Low);
    let rates: Vec<f64> = low.filter_map(|e| Some(spread(record, e, TSMC, &figures::STAGE_1_RATE)?.median)).collect();
    Some(mean(&rates)? / medians(&record.tcp)?[0])
}

fn goodput(record: &Record) -> Option<f64> {
    let experiments = record.experiments();
    let shaped = experiments.iter().filter(|e| !e.stream);
    let shares: Vec<f64> = shaped
        .filter_map(|e| {
            let rate = spread(record, e, TSMC, &figures::STAGE_1_RATE)?.median;
            Some(rate * 8.0 / f64::from(e.link_mbit?))
        })
        .collect();
    mean(&shares)
}

/// Where most faults were served while pages were pushed: the middle of a few says nothing.
fn fault_service(record: &Record) -> Row {
    let experiments = record.experiments();
    let unhindered = experiments.iter().filter(|e| e.is_unhindered());
    let served = unhindered.flat_map(|e| [TSMC, POSTCOPY].map(|series| (e, series))).filter_map(|(e, series)| {
        let of = |figure| Some(spread(record, e, series, figure)?.median);
        Some((series, of(&figures::FAULTS)?, of(&figures::FAULT_P50)?))
    });
    let (what, figure) = match served.max_by(|a, b| a.1.total_cmp(&b.1)) {
        Some((series, faults, p50_ms)) => (
            format!("fault service time p50 / idle round trip ({faults:.0} faults, {series})"),
            record.idle_round_trip_us.map(|idle| p50_ms * 1e3 / idle),
        ),
        None => ("fault service time p50 / idle round trip".to_owned(), None),
    };
    Row { what, bound: Bound::AtMost(2.0), figure, by_vif: None }
}
