//! Guests: their configuration for `xl`, their start, and the questions that their workload answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tests_qemu::exec::Dom0;
use tests_qemu::load::{self, Load};
use tests_qemu::probe::Prober;

use super::linux;
use crate::artifacts::Artifacts;
use crate::network::{self, GUEST};
use crate::qemu::SPARING;

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
    /// How often its threads wake up: every so many milliseconds.
    pub tick_ms: u32,
    /// Options behind these, each after a comma.
    pub more: &'static str,
}

impl Workload {
    /// One whose threads wake up often enough to see short pauses.
    pub const fn new(dirty_mb: u32, dirty_rate: u32) -> Self {
        Self { dirty_mb, dirty_rate, tick_ms: 25, more: "" }
    }
}

/// A PVH guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name in `xl`.
    pub name: &'static str,
    /// Its address; that of its interface follows from it.
    pub address: Ipv4Addr,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub vcpus: u32,
    /// The host's processors that it may use, as `xl.cfg` writes them.
    pub cpus: &'static str,
    /// How it reads the time-stamp counter (`tsc_mode` of xl.cfg). By default Xen emulates one that is not invariant, as QEMU's
    /// is: that costs more than all else that an idle guest does, and no host that people have does it.
    pub tsc_mode: &'static str,
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
    /// More lines of its configuration.
    pub settings: &'static str,
}

impl Guest {
    /// The demo's guest with this label: Debian's kernel, the workload, 256 MiB.
    pub fn demo(artifacts: &Artifacts, label: Label) -> Self {
        Self {
            name: NAME,
            address: GUEST,
            memory_mib: 256,
            vcpus: 1,
            cpus: "all",
            tsc_mode: "native",
            kernel: artifacts.guest_kernel.clone(),
            initramfs: artifacts.guest_initramfs.clone(),
            arguments: String::new(),
            load: Workload::new(32, 2000),
            has_workload: true,
            label,
            settings: "",
        }
    }

    /// Copies kernel and initramfs into dom0 and starts the guest.
    pub fn create(&self, dom0: &Dom0) -> Result<()> {
        self.create_domain(dom0, self.name, &["xl", "create"])
    }

    /// The same under another name, but it never runs.
    pub fn create_paused(&self, dom0: &Dom0, name: &str) -> Result<()> {
        self.create_domain(dom0, name, &["xl", "create", "-p"])
    }

    /// Copies kernel and initramfs to where the guest's configuration names them: `xl` needs them when it reboots.
    pub fn put_files(&self, dom0: &Dom0, name: &str) -> Result<()> {
        linux::put_files(dom0, name, self.files()).map(drop)
    }

    /// Fails unless dom0 has room for two such guests' kernels and initramfs: while they are replaced they are there twice.
    pub fn assert_room(&self, dom0: &Dom0) -> Result<()> {
        let (room, needed) = (linux::room(dom0)?, 2 * linux::size(self.files())?);
        ensure!(room >= needed, "files left behind: room for {} KiB, {} are needed", room >> 10, needed >> 10);
        Ok(())
    }

    fn files(&self) -> [&Path; 2] {
        [&self.kernel, &self.initramfs]
    }

    fn create_domain(&self, dom0: &Dom0, name: &str, command: &[&str]) -> Result<()> {
        linux::create(dom0, name, self.files(), command, |kernel, initramfs| {
            self.configuration(name, kernel, initramfs)
        })
    }

    /// Its configuration with more lines, for `xl migrate -C`.
    pub fn configuration_with(&self, lines: &str) -> String {
        format!("{}{lines}\n", self.configuration(self.name, "/root/none", "/root/none"))
    }

    fn configuration(&self, name: &str, kernel: &str, initramfs: &str) -> String {
        let Self { address, memory_mib, vcpus, cpus, arguments, tsc_mode, label, settings, .. } = self;
        let Workload { dirty_mb, dirty_rate, tick_ms, more } = self.load;
        let mac = network::guest_mac(*address);
        let label = match label {
            Label::Ordinary => "",
            Label::Private => {
                "init_seclabel=\"system_u:system_r:nomigrate_t_building\"\nseclabel=\"system_u:system_r:nomigrate_t\"\n"
            }
        };
        // A PVH guest has neither PCI nor serial ports; looking for them takes seconds.
        let extra = format!(
            "console=hvc0 {SPARING} pci=off 8250.nr_uarts=0 tsmc_address={address}/24 \
             tsmc_load=--dirty-mb={dirty_mb},--dirty-rate={dirty_rate},--tick-ms={tick_ms}{more} {arguments}"
        );
        format!(
            "name=\"{name}\"\ntype=\"pvh\"\nkernel=\"{kernel}\"\nramdisk=\"{initramfs}\"\nmemory={memory_mib}\n\
             vcpus={vcpus}\ncpus=\"{cpus}\"\ntsc_mode=\"{tsc_mode}\"\nextra=\"{extra}\"\n\
             vif=[\"mac={mac}\"]\non_crash=\"preserve\"\n{label}{settings}"
        )
    }
}

/// Asks the guest's workload, from the network's third place.
pub fn load() -> Result<Load> {
    load_at(GUEST)
}

/// The same of the guest at this address. One of many on a host's processor may be too slow even for ARP.
pub fn load_at(address: Ipv4Addr) -> Result<Load> {
    let wait = Duration::from_secs(30);
    let deadline = Instant::now() + wait;
    loop {
        match Load::connect(SocketAddr::from((address, load::PORT)), wait) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(200)),
            outcome => return outcome.context("the guest does not answer"),
        }
    }
}

/// How long a guest may take from its creation to its first writes: with many virtual CPUs, and on a slow machine.
pub const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// The workload's counters, if it gives them within two seconds.
pub fn status_now() -> Option<load::Status> {
    let asker = load::Asker::new(GUEST, Duration::from_millis(250)).ok()?;
    (0..8).find_map(|_| asker.status().ok())
}

/// Whether the guest's network answers, now or within `limit`.
pub fn answers_within(limit: Duration) -> Result<bool> {
    let begun = Instant::now();
    loop {
        let prober = Prober::start(GUEST).context("cannot probe the guest")?;
        std::thread::sleep(Duration::from_millis(500));
        if prober.stop().answered > 0 {
            return Ok(true);
        }
        if begun.elapsed() > limit {
            return Ok(false);
        }
    }
}

/// Waits until the workload answers and writes, if it is to write at all.
pub fn wait_ready() -> Result<load::Status> {
    wait_ready_at(GUEST)
}

/// The same of the guest at this address.
pub fn wait_ready_at(address: Ipv4Addr) -> Result<load::Status> {
    let deadline = Instant::now() + BOOT_LIMIT;
    let asker = load::Asker::new(address, Duration::from_secs(1))?;
    loop {
        match asker.status() {
            Ok(status) if status.writes > 0 || status.rate == 0 => return Ok(status),
            Err(error) if Instant::now() > deadline => return Err(error).context("the guest's workload did not start"),
            Ok(_) if Instant::now() > deadline => bail!("the guest's workload writes nothing"),
            _ => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
