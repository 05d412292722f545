//! The figures of a migration that the report shows, each one number with its unit.

use super::record::Run;

/// Seconds before and after a migration in which the guest is watched.
pub const AROUND_S: f64 = 2.0;
/// What Xen's own stream takes for a page: its bytes and its number.
const STOCK_PAGE: f64 = 4096.0 + 8.0;

/// A number that a migration has.
pub struct Figure {
    /// What it is.
    pub name: &'static str,
    /// Its unit; may be empty.
    pub unit: &'static str,
    /// Digits behind the point.
    pub digits: usize,
    /// What it is of one migration, if that is known.
    pub of: fn(&Run) -> Option<f64>,
}

const fn figure(name: &'static str, unit: &'static str, digits: usize, of: fn(&Run) -> Option<f64>) -> Figure {
    Figure { name, unit, digits, of }
}

/// The figures of the paper.
pub const TOTAL: Figure = figure("total time", "s", 1, |run| Some(run.report.total_ms? as f64 / 1e3));
pub const PAGES: Figure = figure("pages sent", "", 0, |run| match &run.report.pages {
    Some(_) => Some(run.report.pages_sent() as f64),
    // Xen's own helper counts none.
    None => Some(run.report.wire_bytes? as f64 / STOCK_PAGE),
});
pub const DOWNTIME: Figure = figure("downtime", "ms", 0, |run| run.report.downtime_ms);

/// The other figures.
pub const WIRE: Figure = figure("on the wire", "MB", 1, |run| Some(run.report.wire_bytes? as f64 / 1e6));
pub const DOM0_A: Figure = figure("dom0 of the source", "CPU s", 1, |run| run.report.cpu_seconds.dom0_a);
pub const DOM0_B: Figure = figure("dom0 of the target", "CPU s", 1, |run| run.report.cpu_seconds.dom0_b);
pub const FAULTS: Figure = figure("faults", "", 0, |run| Some(run.report.faults.as_ref()?.count as f64));
pub const FAULT_P50: Figure = figure("fault served, p50", "ms", 1, |run| {
    run.report.faults.as_ref().filter(|faults| faults.count > 0).map(|faults| faults.p50_us as f64 / 1e3)
});
pub const MOST_SENDS: Figure =
    figure("most sends of a page", "", 0, |run| Some(run.report.pages.as_ref()?.most_sends as f64));
pub const DIRTY: Figure =
    figure("dirty at the switch", "pages", 0, |run| Some(run.report.pages.as_ref()?.dirty_at_switch as f64));
pub const STAGE_1_RATE: Figure = figure("stage 1", "MB/s", 1, |run| {
    let stage = run.report.stages.iter().find(|stage| stage.stage == 1 && stage.pages > 0)?;
    Some(stage.bytes as f64 / 1e3 / stage.ms.max(1) as f64)
});
pub const STREAM: Figure =
    figure("guest's stream, during", "MB/s", 2, |run| Some(run.seen.stream.rate(0.0, total_s(run)?)? / 1e6));

/// All figures, in the order of the tables.
pub const ALL: &[Figure] = &[
    TOTAL,
    figure("until xl returned", "s", 1, |run| Some(run.report.xl_ms? as f64 / 1e3)),
    DOWNTIME,
    figure("silent until it was started", "ms", 0, |run| Some(run.report.silence.as_ref()?.until_started_ms)),
    figure("silent from there on", "ms", 0, |run| Some(run.report.silence.as_ref()?.until_answer_ms)),
    PAGES,
    WIRE,
    MOST_SENDS,
    DIRTY,
    STAGE_1_RATE,
    DOM0_A,
    DOM0_B,
    figure("agent of the source", "CPU s", 1, |run| at_work(run, run.report.cpu_seconds.agent_a)),
    figure("agent of the target", "CPU s", 1, |run| at_work(run, run.report.cpu_seconds.agent_b)),
    FAULTS,
    FAULT_P50,
    figure("fault served, p99", "ms", 1, |run| {
        run.report.faults.as_ref().filter(|faults| faults.count > 0).map(|faults| faults.p99_us as f64 / 1e3)
    }),
    figure("guest's work, before", "pages/s", 0, |run| run.seen.work.rate(-AROUND_S, 0.0)),
    figure("guest's work, during", "pages/s", 0, |run| run.seen.work.rate(0.0, total_s(run)?)),
    figure("guest's work, after", "pages/s", 0, |run| run.seen.work.rate(total_s(run)?, total_s(run)? + AROUND_S)),
    figure("guest's stream, before", "MB/s", 2, |run| Some(run.seen.stream.rate(-AROUND_S, 0.0)? / 1e6)),
    STREAM,
    figure("guest's stream, after", "MB/s", 2, |run| {
        Some(run.seen.stream.rate(total_s(run)?, total_s(run)? + AROUND_S)? / 1e6)
    }),
    figure("switch: suspend", "ms", 0, |run| Some(run.report.switch.as_ref()?.suspend_ms as f64)),
    figure("switch: capture", "ms", 0, |run| Some(run.report.switch.as_ref()?.capture_ms as f64)),
    figure("switch: load", "ms", 0, |run| Some(run.report.switch.as_ref()?.load_ms as f64)),
    figure("source: asks what is protected", "s", 2, |run| step_s(run.report.source.ask_ms)),
    figure("source: reads", "s", 2, |run| step_s(run.report.source.read_ms)),
    figure("source: scans", "s", 2, |run| step_s(run.report.source.scan_ms)),
    figure("source: seals", "s", 2, |run| step_s(run.report.source.seal_ms)),
    figure("target: opens", "s", 2, |run| step_s(run.report.target.open_ms)),
    figure("target: populates", "s", 2, |run| step_s(run.report.target.populate_ms)),
    figure("target: writes", "s", 2, |run| step_s(run.report.target.write_ms)),
    figure("target: arms", "s", 2, |run| step_s(run.report.target.arm_ms)),
    figure("stage 1", "s", 1, |run| stage_s(run, 1)),
    figure("stage 2", "s", 1, |run| stage_s(run, 2)),
    figure("stage 3", "s", 1, |run| stage_s(run, 3)),
];

/// How long it took.
pub fn total_s(run: &Run) -> Option<f64> {
    (TOTAL.of)(run)
}

/// What agents took that moved the guest; those that only stood by have nothing to be compared with.
fn at_work(run: &Run, seconds: Option<f64>) -> Option<f64> {
    seconds.filter(|_| run.report.channel.is_some())
}

/// What an agent spent on a step of the path of pages, if it was measured.
fn step_s(ms: u64) -> Option<f64> {
    (ms > 0).then_some(ms as f64 / 1e3)
}

fn stage_s(run: &Run, number: u8) -> Option<f64> {
    run.report.stages.iter().find(|stage| stage.stage == number).map(|stage| stage.ms as f64 / 1e3)
}
