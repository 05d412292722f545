//! The options of a migration. Those that cannot work are refused before anything is built or booted.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::agents::MEMORY_MIB;
use crate::mode::Mode;
use crate::nic::Nic;
use crate::qemu::Size;

/// What Xen takes of a host's memory for itself, at least, MiB.
const XEN_MIB: u32 = 64;

/// What a guest's Linux takes beside its workload, MiB.
const LINUX_MIB: u32 = 96;

/// Which migration.
#[derive(Args, Clone, Debug)]
pub struct Migrate {
    /// Who moves the memory: the agents (tsmc, precopy or postcopy), or Xen's own helper (xl).
    #[arg(long, default_value_t = Mode::TSMC)]
    pub mode: Mode,
    #[command(flatten)]
    pub scenario: Scenario,
    /// Start the agents without keys: what they say to each other is in clear. To measure with.
    #[arg(long)]
    pub plain: bool,
    /// The agents' network interfaces.
    #[arg(long, value_enum, default_value_t)]
    pub nic: Nic,
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

/// Fails with what is wrong with the user's options.
pub fn check(scenario: &Scenario) -> Result<()> {
    let Scenario { memory, dirty_mb, size, .. } = scenario;
    let dom0 = size.dom0_memory;
    for (option, file) in [("--guest-kernel", &scenario.guest_kernel), ("--guest-initrd", &scenario.guest_initrd)] {
        if let Some(file) = file {
            let opened = File::open(file).and_then(|opened| opened.metadata());
            let data = opened.with_context(|| format!("{option} {}", file.display()))?;
            ensure!(data.is_file(), "{option} {}: not a file", file.display());
        }
    }
    ensure!(
        scenario.guest_initrd.is_some() || dirty_mb.saturating_add(LINUX_MIB) <= *memory,
        "--dirty-mb {dirty_mb} does not fit into a guest of {memory} MiB, whose Linux needs {LINUX_MIB} MiB itself"
    );
    let room = size.host_memory.saturating_sub(dom0).saturating_sub(MEMORY_MIB + XEN_MIB);
    ensure!(
        *memory <= room,
        "--memory {memory} does not fit into a host of {} MiB, where dom0 ({dom0} MiB), agent and Xen leave {room} MiB: \
         see --host-memory",
        size.host_memory
    );
    if let Some(folder) = scenario.report.as_deref().and_then(|file| file.parent()) {
        fs::create_dir_all(folder).with_context(|| format!("--report: cannot create {}", folder.display()))?;
    }
    Ok(())
}
