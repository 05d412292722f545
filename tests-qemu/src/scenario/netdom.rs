//! The network driver domain: Debian's kernel as a PV domain that owns a host's second network card and serves the agent through it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tests_qemu::exec::Dom0;

use super::agents::{console, domain_id, make_assignable};
use super::linux;
use crate::artifacts::Artifacts;
use crate::nic::{DEVICE, DRIVER_DOMAIN};
use crate::qemu::{Hypervisor, SPARING};

/// Its memory, MiB.
const MEMORY_MIB: u32 = 128;

/// How long it may take to boot.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// Starts the domain, unless it runs, and waits until it serves.
pub fn ensure_started(dom0: &Dom0, artifacts: &Artifacts) -> Result<()> {
    if domain_id(dom0, DRIVER_DOMAIN)?.is_some() {
        return Ok(());
    }
    let configuration = |kernel: &str, initramfs: &str| {
        format!(
            "name=\"{DRIVER_DOMAIN}\"\ntype=\"pv\"\nkernel=\"{kernel}\"\nramdisk=\"{initramfs}\"\nmemory={MEMORY_MIB}\n\
             vcpus=1\ntsc_mode=\"native\"\nextra=\"console=hvc0 {SPARING} 8250.nr_uarts=0\"\ndriver_domain=1\n\
             pci=[\"{DEVICE}\"]\ninit_seclabel=\"system_u:system_r:netdom_t_building\"\n\
             seclabel=\"system_u:system_r:netdom_t\"\non_crash=\"preserve\"\n"
        )
    };
    make_assignable(dom0, Hypervisor::Full)?;
    let files = [&*artifacts.guest_kernel, &*artifacts.netdom_initramfs];
    linux::create(dom0, DRIVER_DOMAIN, files, &["xl", "create"], configuration)?;
    wait_ready(dom0)
}

fn wait_ready(dom0: &Dom0) -> Result<()> {
    let domain = domain_id(dom0, DRIVER_DOMAIN)?.context("the driver domain is gone")?;
    let begun = Instant::now();
    while !dom0.run(&["xenstore-exists", &format!("/local/domain/{domain}/data/ready")])?.success() {
        if begun.elapsed() > BOOT_LIMIT {
            bail!("the driver domain does not get ready; its console:\n{}", console(dom0, DRIVER_DOMAIN)?);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
