//! What cannot work is said before anything is built or booted.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};

use super::agents::MEMORY_MIB;
use crate::cli::Scenario;

/// What Xen takes of a host's memory for itself, at least, MiB.
const XEN_MIB: u32 = 64;

/// What a guest's Linux takes beside its workload, MiB.
const LINUX_MIB: u32 = 96;

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
