//! Guests: their configuration for `xl`, their start, and the questions that their workload answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tests_qemu::exec::Dom0;
use tests_qemu::load::{self, Load};

use crate::network::{GUEST, GUEST_MAC};

/// The guest's name in `xl`.
pub const NAME: &str = "guest";

/// Which FLASK type a guest is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// An ordinary guest: dom0 may do everything to it.
    Ordinary,
    /// A guest whose memory dom0 cannot read once it is built.
    Private,
}

/// What `guest-load` is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Memory that it writes to, MiB.
    pub dirty_mb: u32,
    /// Pages that it writes a second.
    pub dirty_rate: u32,
}

/// A PVH guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub vcpus: u32,
    /// Its kernel, on this machine.
    pub kernel: PathBuf,
    /// Its initramfs, on this machine.
    pub initramfs: PathBuf,
    /// More words for its kernel's command line.
    pub arguments: String,
    /// What the workload does.
    pub load: Workload,
    /// Whether the workload is in there: a guest that the user brought may do anything.
    pub has_workload: bool,
    /// Its FLASK type.
    pub label: Label,
}

impl Guest {
    /// Copies kernel and initramfs into dom0 and creates the domain.
    pub fn create(&self, dom0: &Dom0) -> Result<()> {
        let kernel = "/root/guest-kernel";
        let initramfs = "/root/guest-initramfs";
        dom0.put_file(&self.kernel, kernel).context("cannot copy the guest's kernel")?;
        dom0.put_file(&self.initramfs, initramfs).context("cannot copy the guest's initramfs")?;
        let configuration = self.configuration(kernel, initramfs);
        dom0.put(configuration.as_bytes(), "/root/guest.cfg", 0o644)?;
        let output = dom0.run(&["xl", "create", "/root/guest.cfg"])?;
        if !output.success() {
            bail!("xl create: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn configuration(&self, kernel: &str, initramfs: &str) -> String {
        let Self { memory_mib, vcpus, arguments, label, .. } = self;
        let Workload { dirty_mb, dirty_rate } = self.load;
        let label = match label {
            Label::Ordinary => "",
            Label::Private => {
                "init_seclabel=\"system_u:system_r:nomigrate_t_building\"\nseclabel=\"system_u:system_r:nomigrate_t\"\n"
            }
        };
        format!(
            "name=\"{NAME}\"\ntype=\"pvh\"\nkernel=\"{kernel}\"\nramdisk=\"{initramfs}\"\nmemory={memory_mib}\n\
             vcpus={vcpus}\nextra=\"console=hvc0 tsmc_address={GUEST}/24 tsmc_load=dirty-mb={dirty_mb},dirty-rate={dirty_rate} \
             {arguments}\"\n\
             vif=[\"mac={GUEST_MAC}\"]\non_crash=\"preserve\"\n{label}"
        )
    }
}

/// Asks the guest's workload, from the network's third place.
pub fn load() -> Result<Load> {
    Load::connect(SocketAddr::from((GUEST, load::PORT)), Duration::from_secs(30)).context("the guest does not answer")
}

/// Waits until the workload answers and has written its memory once.
pub fn wait_ready(limit: Duration) -> Result<load::Status> {
    let deadline = Instant::now() + limit;
    loop {
        let status = Load::connect(SocketAddr::from((GUEST, load::PORT)), Duration::from_secs(2))
            .and_then(|mut load| load.status());
        match status {
            Ok(status) if status.writes > 0 => return Ok(status),
            Err(error) if Instant::now() > deadline => return Err(error).context("the guest's workload did not start"),
            Ok(_) if Instant::now() > deadline => bail!("the guest's workload writes nothing"),
            _ => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
