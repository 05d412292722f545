//! The options of a bench.

use std::path::PathBuf;

use clap::Args;

use crate::mode::Mode;

/// What is measured, and for how long.
#[derive(Args, Clone, Debug)]
pub struct Bench {
    /// How often each mode takes its turn in each experiment.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Begin nothing that would end later than this; the report says what was left out. The default is to do everything.
    #[arg(long, value_name = "N")]
    pub minutes: Option<u64>,
    /// Only the experiments whose name contains one of these, as in 'high load' or '256 MB'; a whole name means that one alone.
    #[arg(long, value_name = "WORDS")]
    pub only: Vec<String>,
    /// Only these modes: tsmc, precopy, postcopy, xl.
    #[arg(long, value_delimiter = ',')]
    pub modes: Vec<Mode>,
    /// The folder of the report.
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    pub output: PathBuf,
    /// Measure nothing: draw the report again from the raw figures in that folder.
    #[arg(long)]
    pub redraw: bool,
}

impl Bench {
    /// Whether this mode is measured.
    pub fn wants(&self, mode: Mode) -> bool {
        self.modes.is_empty() || self.modes.contains(&mode)
    }
}
