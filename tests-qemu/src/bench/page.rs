//! The report: one file of HTML, its plots inside.

use std::fmt::Write as _;

use anyhow::Result;

use super::charts::{self, Band, Curve, Line};
use super::figures::{self, Figure};
use super::plan::{Experiment, Load, Series};
use super::reach::{TSMC, spread};
use super::record::{Record, Run, Seen};
use super::spread::Spread;
use super::tables::{self, escaped};

const STYLE: &str = "body{font:15px/1.45 sans-serif;max-width:1040px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.15em .7em;border-bottom:1px solid #ddd;text-align:right}\
td:first-child,th:first-child{text-align:left}svg{max-width:100%}";

/// Seconds of a curve's steps.
const STEP_S: f64 = 0.5;

/// The whole page.
pub fn html(record: &Record) -> Result<String> {
    let mut page = String::new();
    let experiments = record.experiments();
    write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>tsmc beside xl</title><style>{STYLE}</style>\
         <h1>tsmc beside Xen's own migration</h1><p>{} migrations in {:.0} minutes, the modes taking turns. xl: Xen's own \
         helper, over a plain TCP relay; xl over ssh: the same through OpenSSH; tsmc: by agents with network cards of their \
         own; by vif: behind dom0's network backend; by driver domain: behind that of another domain.</p>",
        record.runs.len(),
        record.minutes
    )?;
    page.push_str(&tables::reached(record).html());
    for (number, load) in [(4, Load::Low), (5, Load::High)] {
        let of: Vec<&Experiment> = experiments.iter().filter(|e| e.load == load && e.is_unhindered()).collect();
        let title = format!("The paper's figure {number}: {load}");
        by(&mut page, record, &title, "memory of the guest, MB", &of, |e| e.memory_mb.into(), PAPER)?;
    }
    let of: Vec<&Experiment> = experiments.iter().filter(|e| e.is_unhindered()).collect();
    let of: Vec<&Experiment> = of.into_iter().filter(|e| matches!(e.load, Load::Rate(_))).collect();
    let rate = |e: &Experiment| if let Load::Rate(rate) = e.load { rate.into() } else { 0.0 };
    by(&mut page, record, "What a dirty rate costs", "pages written a second", &of, rate, VARIED)?;
    streams(&mut page, record, &experiments)?;
    if let Some(run) = shown(record) {
        timeline(&mut page, run)?;
    }
    page.push_str("<h2>All figures</h2>");
    experiments.iter().for_each(|experiment| page.push_str(&tables::of_experiment(record, experiment).html()));
    record.watched.iter().for_each(|run| page.push_str(&tables::processors(run).html()));
    page.push_str(&tables::host_path(record).html());
    page.push_str("<h2>What is missing</h2><ul>");
    for left in record.left_out.iter().cloned().chain(failures(record)) {
        write!(page, "<li>{}</li>", escaped(&left))?;
    }
    writeln!(page, "</ul>{}{NOTES}</html>", tables::machine(record).html())?;
    Ok(page)
}

const PAPER: &[Figure] = &[figures::TOTAL, figures::PAGES, figures::DOWNTIME];
const VARIED: &[Figure] = &[figures::TOTAL, figures::WIRE, figures::DOWNTIME];

const NOTES: &str = "<h2>How it was measured</h2><ul>\
<li>total time: from the start of <code>xl migrate</code> until the last page is there and nothing of the guest is left</li>\
<li>downtime: the longest silence that a prober sees which sends the guest an echo every 10 ms from a third place</li>\
<li>pages sent by xl: its helper counts none, so bytes on the wire over the 4104 that its stream takes for each</li>\
<li>on the wire: what the target's TAP device handed to its host from the start of xl to the end, headers, acknowledgements and probes included</li>\
<li>the guest's work: pages that its workload wrote and checked; it asks for no more than its rate, so a slowdown shows once the guest gets too little</li>\
<li>CPU seconds: Xen's own account of each domain, for the whole migration and the two seconds after it</li>\
<li>idle round trip: the time in which each agent refuses a TCP connection, of both together; each path is gone twice, as in a fault</li>\
<li>source and target: what the agents spent on each step, by their own clocks; the rest of their CPU seconds is the network</li>\
<li>whose the processors were: whose code each runs, looked at every 20 ms through QEMU's monitor, in a round that counts nowhere \
else; the address space tells what Xen does for whom</li>\
<li>stage 1 in MB/s: bytes handed to TCP, over the time of the stage; zero pages are a bit each</li></ul>";

/// Plots of some figures over something that experiments differ in.
fn by(
    page: &mut String,
    record: &Record,
    title: &str,
    axis: &str,
    experiments: &[&Experiment],
    at: impl Fn(&Experiment) -> f64,
    figures: &[Figure],
) -> Result<()> {
    if experiments.is_empty() {
        return Ok(());
    }
    write!(page, "<h2>{title}</h2>")?;
    for figure in figures {
        let line = |series: &Series| {
            let name = series.name();
            let mut points: Vec<(f64, Spread)> =
                experiments.iter().filter_map(|e| Some((at(e), spread(record, e, &name, figure)?))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Some(Line { name, points }).filter(|line| !line.points.is_empty())
        };
        let lines: Vec<Line> = Series::ALL.iter().filter_map(line).collect();
        let unit = if figure.unit.is_empty() { figure.name } else { figure.unit };
        page.push_str(&charts::lines(figure.name, axis, unit, &lines)?);
    }
    Ok(())
}

/// The guest's stream in each series, of the first migration of each.
fn streams(page: &mut String, record: &Record, experiments: &[Experiment]) -> Result<()> {
    for experiment in experiments.iter().filter(|e| e.stream) {
        write!(page, "<h2>The guest's network throughput: {}</h2>", escaped(&experiment.to_string()))?;
        let names = Series::ALL.map(|series| series.name());
        let runs: Vec<&Run> = names.iter().filter_map(|name| record.runs_of(experiment, name).next()).collect();
        let curve = |run: &&Run| Curve { name: run.series.clone(), points: per_second(&run.seen.stream, 1e6) };
        let curves: Vec<Curve> = runs.iter().map(curve).collect();
        let end = runs.iter().map(|run| end_of(run)).fold(0.0, f64::max) + figures::AROUND_S;
        let span = (-figures::AROUND_S, end);
        page.push_str(&charts::over_time(
            "guest to a third place, first run of each mode",
            "MB/s",
            span,
            &[],
            &curves,
        )?);
    }
    Ok(())
}

/// The migration whose timeline is shown: one that had faults and a stream, if there is one.
fn shown(record: &Record) -> Option<&Run> {
    let good = record.runs.iter().filter(|run| run.series == TSMC && run.report.all_held());
    let faults = |run: &Run| run.report.faults.as_ref().map_or(0, |faults| faults.count);
    good.max_by_key(|run| (run.experiment.stream, faults(run)))
}

fn timeline(page: &mut String, run: &Run) -> Result<()> {
    write!(
        page,
        "<h2>One migration: tsmc, {}</h2><p>1 full copy, 2 switch, 3 dirty copy</p>",
        escaped(&run.experiment.to_string())
    )?;
    let bands = bands(&run.seen, end_of(run));
    let span = (-figures::AROUND_S, end_of(run) + figures::AROUND_S);
    let panels = [
        ("on the wire to the target", "MB/s", &run.seen.wire, 1e6),
        ("faults at the target", "a second", &run.seen.faults, 1.0),
        ("the guest's work", "pages/s", &run.seen.work, 1.0),
        ("the guest's stream", "MB/s", &run.seen.stream, 1e6),
    ];
    for (title, unit, series, scale) in panels.into_iter().filter(|panel| panel.2.0.len() > 1) {
        let curve = Curve { name: TSMC.to_owned(), points: per_second(series, scale) };
        page.push_str(&charts::over_time(title, unit, span, &bands, &[curve])?);
    }
    Ok(())
}

/// The stages, as the agents' states tell them.
fn bands(seen: &Seen, end: f64) -> Vec<Band> {
    let marks = [
        ("handshake", Some(0.0)),
        ("1", seen.reached("source copying")),
        ("2", seen.reached("source suspend")),
        ("3", seen.reached("source committed")),
        ("after", Some(end)),
        ("", Some(f64::MAX)),
    ];
    let marks: Vec<(&str, f64)> = marks.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
    marks.windows(2).map(|pair| Band { name: pair[0].0.to_owned(), span: (pair[0].1, pair[1].1) }).collect()
}

fn per_second(series: &super::record::Series, scale: f64) -> Vec<(f64, f64)> {
    series.rates(STEP_S).into_iter().map(|(at, rate)| (at, rate / scale)).collect()
}

fn end_of(run: &Run) -> f64 {
    figures::total_s(run).unwrap_or_default()
}

/// Migrations that did not hold what they must; no figure is of them.
fn failures(record: &Record) -> impl Iterator<Item = String> {
    record.runs.iter().chain(&record.watched).filter(|run| !run.report.all_held()).map(|run| {
        let broken = run.report.claims.iter().filter(|claim| !claim.held).map(|claim| claim.what.as_str());
        let broken: Vec<&str> = broken.collect();
        format!("failed: {}, {}: {}", run.series, run.experiment, broken.join("; "))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tests_qemu::report::{Claim, Faults, Pages, Report, Stage};

    use super::*;
    use crate::bench::processor::Looks;
    use crate::bench::reach::XL;
    use crate::bench::record;
    use crate::scenario::throughput::Throughput;

    fn run(experiment: Experiment, series: &str, total_ms: u64) -> Run {
        let ours = series != XL;
        let series_of = |from: f64| record::Series((0..20).map(|step| (from + f64::from(step), 100)).collect());
        let report = Report {
            mode: series.to_owned(),
            total_ms: Some(total_ms),
            downtime_ms: Some(900.0),
            wire_bytes: Some(4104 * 70_000),
            stages: if ours { vec![Stage { stage: 1, ms: 5000, pages: 65_000, bytes: 90_000_000 }] } else { vec![] },
            pages: ours.then(|| Pages { most_sends: 2, dirty_at_switch: 300, ..Pages::default() }),
            faults: ours.then_some(Faults { count: 9, p50_us: 2_000, p99_us: 4_000, max_us: 5_000 }),
            versions: BTreeMap::from([("xen".to_owned(), "4.17.5".to_owned())]),
            claims: vec![Claim { what: "it crossed".to_owned(), held: total_ms > 0 }],
            ..Report::default()
        };
        let states = vec![(0.5, "source copying".to_owned()), (5.5, "source suspend".to_owned())];
        let seen =
            Seen { work: series_of(-2.0), wire: series_of(-2.0), stream: series_of(-2.0), states, ..Seen::default() };
        Run { experiment, series: series.to_owned(), report, seen }
    }

    fn example() -> Record {
        let low = Experiment::new(256, Load::Low);
        let stream = Experiment { stream: true, link_mbit: Some(40), ..low };
        let of = |experiment| [run(experiment, XL, 20_000), run(experiment, TSMC, 8_000), run(experiment, TSMC, 0)];
        Record {
            machine: vec![("processor".to_owned(), "<fast>".to_owned())],
            tcp: vec![Throughput { dom0_mb_per_s: 100.0, agent_mb_per_s: 80.0 }],
            tcp_by_vif: vec![Throughput { dom0_mb_per_s: 100.0, agent_mb_per_s: 20.0 }],
            idle_round_trip_us: Some(1000.0),
            host_path: vec![("source/plain".to_owned(), 4.5), ("target/plain".to_owned(), 5.0)],
            runs: of(low).into_iter().chain(of(stream)).chain([run(low, "tsmc by vif", 10_000)]).collect(),
            watched: vec![Run {
                seen: Seen { processors: vec![Looks::default(); 2], ..Seen::default() },
                ..run(low, TSMC, 8_000)
            }],
            left_out: vec!["much".to_owned()],
            minutes: 3.0,
        }
    }

    #[test]
    fn the_page_has_its_plots_and_tables_and_needs_nothing_else() {
        let page = html(&example()).unwrap();
        // Three of the paper's figure, the stream, three of the timeline.
        assert_eq!(page.matches("<svg").count(), 7);
        assert!(page.contains("256 MB, low load, link of 40 Mbit/s, with a TCP stream"));
        assert!(page.contains("&lt;fast&gt;") && page.contains("<li>much</li>") && page.contains("4.17.5"));
        assert!(page.contains("256 MB, low load, tsmc: whose the processors were"));
        assert!(page.contains("failed: tsmc, 256 MB, low load: it crossed"));
        assert!(!page.contains("http") || page.matches("http").count() == page.matches("http://www.w3.org").count());
    }

    #[test]
    fn what_was_reached_is_told_from_what_was_not() {
        let rows = crate::bench::reach::table(&example());
        let verdict =
            |what: &str| rows.iter().find(|row| row.what.starts_with(what)).map(|row| (row.figure, row.verdict()));
        assert_eq!(verdict("total time, tsmc / xl, low"), Some((Some(0.4), "pass")));
        assert_eq!(verdict("total time, tsmc / xl, high"), Some((None, "not measured")));
        assert_eq!(verdict("fault service"), Some((Some(2.0), "pass")));
        assert_eq!(verdict("the same, encrypted"), Some((Some(0.18), "short")));
        assert_eq!(verdict("without Xen, the slower end on one core, plain"), Some((Some(4.5), "pass")));
        assert_eq!(verdict("most sends"), Some((Some(2.0), "pass")));
        assert_eq!(verdict("TCP from agent to agent"), Some((Some(0.8), "short")));
        let by_vif = |what: &str| rows.iter().find(|row| row.what.starts_with(what)).and_then(|row| row.by_vif);
        assert_eq!(["total time, tsmc / xl, low", "TCP", "fault"].map(by_vif), [Some(0.5), Some(0.2), None]);
    }

    #[test]
    fn what_dom0_spends_on_memory_is_told_from_what_a_migration_costs_anyhow() {
        let of = |memory_mb, series, dom0_a| {
            let mut run = run(Experiment::new(memory_mb, Load::High), series, 9_000);
            run.report.cpu_seconds.dom0_a = Some(dom0_a);
            run
        };
        let runs = vec![of(256, XL, 12.0), of(1024, XL, 42.0), of(256, TSMC, 2.0), of(1024, TSMC, 2.6)];
        let rows = crate::bench::reach::table(&Record { runs, ..example() });
        let row = rows.iter().find(|row| row.what.starts_with("dom0 CPU of the source for each further GB"));
        assert!(row.and_then(|row| row.figure).is_some_and(|figure| (figure - 0.02).abs() < 1e-9));
    }

    #[test]
    fn what_was_measured_reads_back() {
        let json = serde_json::to_string(&example()).unwrap();
        let record: Record = serde_json::from_str(&json).unwrap();
        assert_eq!(record.experiments(), example().experiments());
        assert_eq!(record.runs[1].seen, example().runs[1].seen);
    }
}
