//! The runner's command line. What a command takes is described where the command is carried out.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::bench::options::Bench;
use crate::nic::Nic;
use crate::qemu::Size;
use crate::scenario::options::Migrate;
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
    /// Boot two hosts, start a guest on A, migrate it to B by `tsmc migrate`, or in mode xl by `xl migrate`, and report.
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
        /// The agents' network interfaces, in tests that do not say which.
        #[arg(long, value_enum, default_value_t = Nic::Vif)]
        nic: Nic,
        #[command(flatten)]
        size: Size,
    },
    /// Check the images as files: what they must not contain, and the size of the agents'.
    ImageGates,
}
