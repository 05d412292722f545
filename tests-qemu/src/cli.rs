//! The runner's command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::mode::Mode;
use crate::suite::Choice;

/// Two real Xen hosts in QEMU, and live migrations between them.
///
/// Everything the hosts are made of is prepared the first time and cached below target/testbed; the hosts boot from
/// memory in a few seconds. The network between them lives in a namespace of its own and is removed at the end, also
/// after a failure or Ctrl-C.
#[derive(Parser, Debug)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    /// Take the programs for dom0 and guest as they were built last, instead of bringing them up to date.
    #[arg(long, global = true)]
    pub no_build: bool,

    /// The run's name, to have several side by side. The default is a new name for a new run, else the youngest run.
    #[arg(long, global = true)]
    pub name: Option<String>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Prepare everything that the hosts are made of, and boot nothing.
    Prepare {
        /// Fetch Xen's source and no more: the check of our structures against its headers needs no other part.
        #[arg(long)]
        source_only: bool,
    },
    /// Boot one or two hosts and leave them up.
    Up {
        /// How many hosts.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
        hosts: u8,
        #[command(flatten)]
        size: Size,
    },
    /// Take a run that was left up down, with its network.
    Down {
        /// Take every run down.
        #[arg(long)]
        all: bool,
    },
    /// Run a command in a host's dom0 and exit with its status. Works while a run is up.
    HostExec {
        /// A or B.
        host: char,
        /// The command and its arguments; no shell looks at them.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Copy a file into a host's dom0.
    HostPut {
        /// A or B.
        host: char,
        /// The file here.
        local: PathBuf,
        /// Its path in dom0.
        path: String,
    },
    /// Copy a file out of a host's dom0.
    HostGet {
        /// A or B.
        host: char,
        /// Its path in dom0.
        path: String,
        /// The file here.
        local: PathBuf,
    },
    /// Boot two hosts, start a guest on A, migrate it to B by `xl migrate`, and report.
    Migrate(Migrate),
    /// Measure our migration beside Xen's own, with many guests, loads and links, and write a report.
    Bench(Bench),
    /// Run the tests on real Xen: the core and a sample of the faults, or a group, or those whose name contains a word.
    Test {
        #[command(flatten)]
        choice: Choice,
        /// Print the names and run nothing.
        #[arg(long)]
        list: bool,
        #[command(flatten)]
        size: Size,
    },
    /// Check the agents' image as a file: what it must not contain, and its size.
    ImageGates,
}

/// How large a host is.
#[derive(Args, Clone, Copy, Debug)]
pub struct Size {
    /// Memory of each host, MiB.
    #[arg(long, default_value_t = 1536)]
    pub host_memory: u32,
    /// Memory of each dom0, MiB.
    #[arg(long, default_value_t = 512)]
    pub dom0_memory: u32,
    /// Processors of each host.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub host_cpus: u32,
}

/// Which migration.
#[derive(Args, Clone, Debug)]
pub struct Migrate {
    /// Who moves the memory.
    #[arg(long, value_enum, default_value_t = Mode::Tsmc)]
    pub mode: Mode,
    #[command(flatten)]
    pub scenario: Scenario,
    /// Start the agents without keys: what they say to each other is in clear. To measure with.
    #[arg(long)]
    pub plain: bool,
    /// Compare all memory at the switch. The guest stands still for longer.
    #[arg(long)]
    pub verify: bool,
    /// Leave both hosts up afterwards; `host-exec` runs commands in each dom0, `down` ends them.
    #[arg(long)]
    pub keep: bool,
}

/// The hosts, the guest, and what it is busy with.
#[derive(Args, Clone, Debug)]
pub struct Scenario {
    /// The guest's memory, MiB.
    #[arg(long, default_value_t = 256, value_name = "MB")]
    pub memory: u32,
    /// The guest's virtual processors.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=128))]
    pub vcpus: u32,
    /// The guest's kernel: an ELF file or a bzImage. The default is Debian's own, unmodified.
    #[arg(long, value_name = "FILE")]
    pub guest_kernel: Option<PathBuf>,
    /// The guest's initramfs. The default brings up a network address and the memory workload.
    #[arg(long, value_name = "FILE")]
    pub guest_initrd: Option<PathBuf>,
    /// More words for the guest kernel's command line.
    #[arg(long, value_name = "STR", default_value = "", allow_hyphen_values = true)]
    pub guest_args: String,
    /// How much memory the guest's workload writes to again and again, MiB.
    #[arg(long, default_value_t = 32, value_name = "MB")]
    pub dirty_mb: u32,
    /// How many pages it writes to each second.
    #[arg(long, default_value_t = 2000, value_name = "PAGES/S")]
    pub dirty_rate: u32,
    /// Limit the link between the hosts to this many Mbit/s.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub link_mbit: Option<u32>,
    /// Write the report to this file too, as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub size: Size,
}

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
    /// Only these modes.
    #[arg(long, value_enum, value_delimiter = ',')]
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
