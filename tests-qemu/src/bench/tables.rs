//! The tables of the report, as HTML for the page and as Markdown.

use std::fmt::Write as _;

use super::figures;
use super::plan::{Experiment, Series};
use super::processor::{self, User};
use super::reach::{self, TSMC, XL, spread};
use super::record::{Record, Run, medians};
use super::spread::Spread;

/// A table with a title.
pub struct Table {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// As a part of the page.
    pub fn html(&self) -> String {
        let row = |cells: &[String], tag: &str| {
            let cells: String = cells.iter().map(|cell| format!("<{tag}>{}", escaped(cell))).collect();
            format!("<tr>{cells}</tr>")
        };
        let rows: String = self.rows.iter().map(|cells| row(cells, "td")).collect();
        format!("<h3>{}</h3><table>{}{rows}</table>", escaped(&self.title), row(&self.head, "th"))
    }

    /// For a terminal, or a file of text.
    pub fn markdown(&self) -> String {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width =
            |column: usize| lines().filter_map(|cells| cells.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.head.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = format!("### {}\n\n", self.title);
        for (index, cells) in lines().enumerate() {
            for (cell, width) in cells.iter().zip(&widths) {
                let _ = write!(text, "| {cell:<width$} ");
            }
            text.push_str("|\n");
            if index == 0 {
                widths.iter().for_each(|width| text.push_str(&format!("|{}", "-".repeat(width + 2))));
                text.push_str("|\n");
            }
        }
        text
    }
}

/// What is to be reached, and how far it is.
pub fn reached(record: &Record) -> Table {
    let row = |row: reach::Row| {
        let text = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.2}"));
        let [figure, by_vif] = [row.figure, row.by_vif].map(text);
        vec![row.what.clone(), figure, row.bound.to_string(), row.verdict().to_owned(), by_vif]
    };
    let head = ["figure", "measured", "to reach", "", "by vif"].map(str::to_owned).to_vec();
    Table { title: "Reach".to_owned(), head, rows: reach::table(record).into_iter().map(row).collect() }
}

/// All figures of an experiment, with the ratio to Xen's own migration.
pub fn of_experiment(record: &Record, experiment: &Experiment) -> Table {
    let names = Series::ALL.map(|series| series.name());
    let columns: Vec<(&str, usize)> = names
        .iter()
        .map(|name| (name.as_str(), record.runs_of(experiment, name).count()))
        .filter(|(_, count)| *count > 0)
        .collect();
    let mut head = vec!["median (least to most), ratio to xl".to_owned()];
    head.extend(columns.iter().map(|(name, count)| format!("{name}, {count} runs")));
    let mut rows = Vec::new();
    for figure in figures::ALL {
        let of = |name: &str| spread(record, experiment, name, figure);
        if columns.iter().all(|(name, _)| of(name).is_none()) {
            continue;
        }
        let xl = of(XL).map(|xl| xl.median).filter(|median| *median > 0.0);
        let cell = |name: &str| {
            let Some(Spread { median, least, most, .. }) = of(name) else { return "-".to_owned() };
            let digits = figure.digits;
            let ratio = xl.filter(|_| name != XL).map(|xl| format!(" x{:.2}", median / xl)).unwrap_or_default();
            format!("{median:.digits$} ({least:.digits$} to {most:.digits$}){ratio}")
        };
        let mut row = vec![if figure.unit.is_empty() {
            figure.name.to_owned()
        } else {
            format!("{}, {}", figure.name, figure.unit)
        }];
        row.extend(columns.iter().map(|(name, _)| cell(name)));
        rows.push(row);
    }
    Table { title: experiment.to_string(), head, rows }
}

/// Whose the processors of both hosts were in a migration, from one state of the agents to the next.
pub fn processors(run: &Run) -> Table {
    let end = figures::total_s(run).unwrap_or_default();
    let reached = |state| run.seen.reached(state).unwrap_or(end);
    let [copying, suspend, committed] = ["source copying", "source suspend", "source committed"].map(reached);
    let phases = [("until stage 1", 0.0, copying), ("stage 1", copying, suspend), ("switch", suspend, committed)];
    let phases = phases.into_iter().chain([("from the commit on", committed, end), ("all", 0.0, end)]);
    let phases: Vec<_> = phases.filter(|(name, ..)| copying < end || *name == "all").collect();
    let mut head = vec!["seconds".to_owned()];
    head.extend(User::ALL.map(|(_, name)| name.to_owned()));
    let mut rows = Vec::new();
    for (place, looks) in ["source", "target"].into_iter().zip(&run.seen.processors) {
        let users = looks.users();
        for (phase, from, to) in &phases {
            let mut row = vec![format!("{place}, {phase}")];
            row.extend(processor::seconds(&users, *from, *to).map(|seconds| format!("{seconds:.1}")));
            rows.push(row);
        }
    }
    Table { title: format!("{}, {}: whose the processors were", run.experiment, run.series), head, rows }
}

/// The agent's own path without Xen.
pub fn host_path(record: &Record) -> Table {
    let memcpy = record.host_path.first().map_or(f64::NAN, |(_, rate)| *rate);
    let row = |(step, rate): &(String, f64)| vec![step.clone(), format!("{rate:.2}"), format!("{:.2}", rate / memcpy)];
    let head = ["step", "GB/s", "of memcpy"].map(str::to_owned).to_vec();
    Table { title: "Without Xen, one core".to_owned(), head, rows: record.host_path.iter().map(row).collect() }
}

/// Where it ran, with what.
pub fn machine(record: &Record) -> Table {
    let run = record.runs.iter().rev().find(|run| run.series == TSMC);
    let versions = run.into_iter().flat_map(|run| &run.report.versions);
    let known = record.machine.iter().map(|(name, value)| (name, value)).chain(versions);
    let mut rows: Vec<Vec<String>> = known.map(|(name, value)| vec![name.clone(), value.clone()]).collect();
    let [tcp, by_vif] = [&record.tcp, &record.tcp_by_vif].map(|tcp| medians(tcp).unwrap_or_default());
    let idle = record.idle_round_trip_us;
    for (name, value) in [
        ("TCP from dom0 to dom0", format!("{:.1} MB/s", tcp[0])),
        ("TCP from agent to agent, plain", format!("{:.1} MB/s", tcp[1])),
        ("the same, by vif", format!("{:.1} MB/s", by_vif[1])),
        ("idle round trip between the agents", idle.map_or("-".to_owned(), |us| format!("{:.2} ms", us / 1e3))),
    ] {
        rows.push(vec![name.to_owned(), value]);
    }
    Table { title: "Machine and versions".to_owned(), head: vec![String::new(); 2], rows }
}

/// Text as HTML has it.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn a_table_reads_well_either_way() {
        let words = |words: [&str; 2]| words.map(str::to_owned).to_vec();
        let table = Table { title: "a < b".to_owned(), head: words(["what", ""]), rows: vec![words(["time", "1.5"])] };
        assert_eq!(table.markdown(), "### a < b\n\n| what |     |\n|------|-----|\n| time | 1.5 |\n");
        assert!(table.html().contains("<h3>a &lt; b</h3>") && table.html().contains("<td>time<td>1.5</tr>"));
    }
}
