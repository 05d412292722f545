//! One Xen host: a QEMU process that boots the hypervisor and dom0 from memory.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::cleanup::{self, Process, Undo};
use crate::command::{command, run};
use crate::monitor;
use crate::network::{PLACES, Place};

/// The processors of a host.
#[derive(Clone, Copy, Debug, Default)]
pub enum Processor {
    /// SVM with nested paging, and what fast ciphers need, except for AVX.
    #[default]
    Plain,
    /// The same without SSE4.2.
    Older,
    /// AVX as well.
    Avx,
}

impl Processor {
    /// QEMU's words for it. `EPYC` and `max` crash a PV dom0 early in its boot. With XSAVE `qemu64` hangs Xen, and with RDTSCP
    /// `Haswell` crashes PVH guests.
    const fn model(self) -> &'static str {
        match self {
            Self::Plain => "qemu64,+svm,+npt,+aes,+ssse3,+sse4.1,+sse4.2,+pclmulqdq,+rdrand,+popcnt",
            Self::Older => "qemu64,+svm,+npt,+aes,+ssse3,+sse4.1,+pclmulqdq,+rdrand,+popcnt",
            Self::Avx => "Haswell-noTSX,vendor=AuthenticAMD,+svm,+npt,-rdtscp",
        }
    }

    /// What Xen is told about protection from speculation. QEMU's XSAVE does not look at CR0.TS: when Xen restores registers
    /// only once they are used, dom0's programs crash.
    const fn speculation(self) -> &'static str {
        match self {
            Self::Plain | Self::Older => "no",
            Self::Avx => "eager-fpu",
        }
    }
}

/// The hypervisor of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Hypervisor {
    /// Debian's source with what the agents need, and their policy enforced.
    #[default]
    Full,
    /// Debian's own binary: without FLASK and memory paging.
    Stock,
    /// Debian 13 as it comes: its hypervisor, its tools, its kernel.
    #[value(name = "stock13")]
    Stock13,
    /// The first, told to let no two guests share anything (`xsm=silo`).
    Silo,
}

impl fmt::Display for Hypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "FLASK enforcing",
            Self::Stock => "with Debian's own hypervisor",
            Self::Stock13 => "Debian 13 as it comes",
            Self::Silo => "with xsm=silo",
        })
    }
}

/// What a host boots.
#[derive(Clone, Debug)]
pub struct BootFiles {
    /// [`Hypervisor::Full`].
    pub hypervisor: PathBuf,
    /// [`Hypervisor::Stock`].
    pub stock: PathBuf,
    /// dom0's kernel.
    pub kernel: PathBuf,
    /// dom0's file tree.
    pub initramfs: PathBuf,
    /// The FLASK policy.
    pub policy: PathBuf,
    /// [`Hypervisor::Stock13`]; they are there when a run needs them.
    pub debian_13: StockFiles,
}

/// What a host of another release boots.
#[derive(Clone, Debug)]
pub struct StockFiles {
    /// Its hypervisor.
    pub hypervisor: PathBuf,
    /// dom0's kernel.
    pub kernel: PathBuf,
    /// dom0's file tree.
    pub initramfs: PathBuf,
}

impl BootFiles {
    fn hypervisor(&self, which: Hypervisor) -> &Path {
        match which {
            Hypervisor::Full | Hypervisor::Silo => &self.hypervisor,
            Hypervisor::Stock => &self.stock,
            Hypervisor::Stock13 => &self.debian_13.hypervisor,
        }
    }
}

/// How large a host is.
#[derive(Clone, Copy, Debug)]
pub struct HostSize {
    /// Memory of the whole machine.
    pub memory_mib: u32,
    /// Memory of dom0.
    pub dom0_mib: u32,
    /// Processors of the machine.
    pub cpus: u32,
    /// What A boots, and B.
    pub hypervisors: [Hypervisor; 2],
    /// What A's are, and B's.
    pub processors: [Processor; 2],
    /// Whether the second network card goes past the IOMMU.
    pub rogue_card: bool,
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
    /// The hypervisor of the hosts, full, stock or silo; or A's and B's, as in full,stock.
    #[arg(long, default_value = "full", value_parser = hypervisors)]
    pub xen: [Hypervisor; 2],
}

fn hypervisors(text: &str) -> Result<[Hypervisor; 2], String> {
    let (a, b) = text.split_once(',').unwrap_or((text, text));
    Ok([Hypervisor::from_str(a, false)?, Hypervisor::from_str(b, false)?])
}

impl From<Size> for HostSize {
    fn from(size: Size) -> Self {
        Self {
            memory_mib: size.host_memory,
            dom0_mib: size.dom0_memory,
            cpus: size.host_cpus,
            hypervisors: size.xen,
            processors: [Processor::Plain; 2],
            rogue_card: false,
        }
    }
}

impl HostSize {
    fn processor(&self, place: &Place) -> Processor {
        self.processors[usize::from(*place == PLACES[1])]
    }

    /// What this host boots.
    pub fn hypervisor(&self, place: &Place) -> Hypervisor {
        self.hypervisors[usize::from(*place == PLACES[1])]
    }
}

/// Whether a host goes down with the runner or is left up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Dies with the runner, however that ends.
    Runner,
    /// Outlives it.
    Kept,
}

/// The first QEMU under which PVH guests of a Xen older than 4.20.4 end at once.
const DEADLY: (u32, u32) = (9, 1);

/// Fails if guests of these hosts could not run under the QEMU that is installed.
pub fn check_version(size: &HostSize) -> Result<()> {
    let said = run(&mut command("qemu-system-x86_64", ["--version"]))?;
    let (major, minor) = version(&said).with_context(|| format!("QEMU says of its version: {said}"))?;
    let is_old = size.hypervisors.iter().any(|hypervisor| *hypervisor != Hypervisor::Stock13);
    ensure!(
        !is_old || (major, minor) < DEADLY,
        "under QEMU {major}.{minor} guests of Xen 4.17 end at once: install QEMU 7.2, as Debian 12 has it, or take --xen stock13 \
         (make demo XEN=stock DEBIAN=13)"
    );
    Ok(())
}

/// The first two numbers of what `--version` prints.
fn version(said: &str) -> Option<(u32, u32)> {
    let numbers = said.split_once("version ")?.1;
    let mut parts = numbers.split(|character: char| !character.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Starts a host in the calling thread's network namespace and registers its end.
pub fn start(place: &Place, files: &BootFiles, size: HostSize, logs: &Path, lifetime: Lifetime) -> Result<Process> {
    fs::create_dir_all(logs)?;
    let log = |kind: &str| logs.join(format!("{}-{kind}.log", place.letter));
    let messages = File::create(log("qemu"))?;
    let mut qemu = match lifetime {
        Lifetime::Runner => command("setpriv", ["--pdeathsig", "KILL", "qemu-system-x86_64"]),
        // A session of its own: the terminal's Ctrl-C is not for it.
        Lifetime::Kept => command("setsid", ["qemu-system-x86_64"]),
    };
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"])
        .args(["-accel", "tcg,thread=multi", "-cpu", size.processor(place).model()])
        .args(["-device", "intel-iommu,intremap=on"])
        .args(["-m", &size.memory_mib.to_string(), "-smp", &size.cpus.to_string()])
        .args(["-serial", &format!("file:{}", log("xen").display())])
        .args(network_cards(place, size))
        .args(monitor::arguments(place))
        .arg("-kernel")
        .arg(files.hypervisor(size.hypervisor(place)))
        .args(["-append", &xen_command_line(place, size)])
        .args(["-initrd", &modules(place, files, size.hypervisor(place))])
        .stdin(Stdio::null())
        .stdout(messages.try_clone()?)
        .stderr(messages);
    // The child is followed by its number: a kept host has to be found again by another runner anyway.
    let child = qemu.spawn().context("cannot start QEMU")?;
    let process = Process::of(child.id()).context("QEMU ended at once")?;
    cleanup::register(Undo::Process(process));
    Ok(process)
}

/// dom0's network card, on the root bus, so that it stays the first, and the agent's. The IOMMU keeps that one to the memory of the
/// domain it is given to (`iommu_platform`), and behind a port of its own it can be reset when it changes hands.
fn network_cards(place: &Place, size: HostSize) -> Vec<String> {
    let [first, second] = place.taps();
    let tap = |id, name| format!("tap,id={id},ifname={name},script=no,downscript=no,vhost=off");
    let card =
        |id, mac, more: &str| format!("virtio-net-pci,netdev={id},mac={mac},{OFFLOADS},rx_queue_size=1024{more}");
    let obeys = if size.rogue_card { "off" } else { "on" };
    let own = format!(",disable-legacy=on,iommu_platform={obeys},bus=root1");
    [
        ["-netdev", &tap("net", first)],
        ["-device", &card("net", place.mac(), "")],
        ["-netdev", &tap("own", second)],
        ["-device", "pcie-root-port,id=root1,chassis=1,slot=1"],
        ["-device", &card("own", place.second_mac(), &own)],
    ]
    .into_iter()
    .flatten()
    .map(str::to_owned)
    .collect()
}

/// Segments of up to 64 KiB and unfinished checksums, in both directions.
const OFFLOADS: &str =
    "csum=on,gso=on,host_tso4=on,host_tso6=on,guest_csum=on,guest_tso4=on,guest_tso6=on,mrg_rxbuf=on";

/// Words for the kernels of dom0 and guests: without what protects from processors that speculate and from attackers, neither of
/// which are here, everything takes three quarters of the time.
pub const SPARING: &str = "mitigations=off init_on_alloc=0 randomize_kstack_offset=off hardened_usercopy=off";

fn xen_command_line(place: &Place, size: HostSize) -> String {
    // Never guest_loglvl=all here: it prints every HVM record to the serial line, inside the downtime.
    let flask = match size.hypervisor(place) {
        Hypervisor::Full => "flask=enforcing ",
        Hypervisor::Stock | Hypervisor::Stock13 => "",
        Hypervisor::Silo => "xsm=silo ",
    };
    format!(
        "console=com1 com1=115200,8n1 dom0_mem={0}M,max:{0}M dom0_max_vcpus=1 {flask}loglvl=info \
         gnttab_max_frames=1024 cpufreq=none sched-gran=cpu spec-ctrl={1}",
        size.dom0_mib,
        size.processor(place).speculation()
    )
}

/// Multiboot modules: dom0's kernel with its command line, its initramfs, the policy. A comma separates them.
fn modules(place: &Place, files: &BootFiles, hypervisor: Hypervisor) -> String {
    let (kernel, initramfs) = match hypervisor {
        Hypervisor::Stock13 => (&files.debian_13.kernel, &files.debian_13.initramfs),
        _ => (&files.kernel, &files.initramfs),
    };
    let linux = format!(
        "{} console=hvc0 loglevel=5 panic=-1 {SPARING} tsmc_host={} tsmc_address={}/24,{}",
        kernel.display(),
        place.letter,
        place.dom0,
        initramfs.display(),
    );
    match hypervisor {
        Hypervisor::Full => format!("{linux},{}", files.policy.display()),
        Hypervisor::Stock | Hypervisor::Stock13 | Hypervisor::Silo => linux,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_says_which_it_is() {
        let debian =
            "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u19)\nCopyright (c) 2003-2022 Fabrice Bellard";
        assert_eq!(version(debian), Some((7, 2)));
        assert!(version("QEMU emulator version 10.0.2 (Debian)").is_some_and(|version| version >= DEADLY));
        assert!(version("QEMU emulator version 9.0.50").is_some_and(|version| version < DEADLY));
        assert_eq!(version("nothing"), None);
    }
}
