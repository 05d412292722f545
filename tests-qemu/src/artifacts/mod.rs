//! Everything that the hosts are made of, prepared once and cached: Debian packages, the hypervisor, kernels, initramfs.

pub mod cpio;
pub mod debian;
pub mod debian_13;
pub mod hypervisor;
pub mod initramfs;
pub mod kernel;
pub mod modules;
pub mod programs;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{command, run};
use crate::paths::Paths;
use crate::qemu::BootFiles;
use debian::{Archive, BOOKWORM, XEN_VERSION};
use programs::{Build, Programs};

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// What the hosts boot.
    pub boot: BootFiles,
    /// Debian's kernel as an ELF file, for guests.
    pub guest_kernel: PathBuf,
    /// The demo guest's file tree.
    pub guest_initramfs: PathBuf,
    /// The network driver domain's file tree.
    pub netdom_initramfs: PathBuf,
    /// OpenSSH's programs and their libraries, for dom0s that are to have them.
    pub ssh: PathBuf,
    /// The agents' image; it is there after [`Artifacts::build_images`].
    pub image: PathBuf,
    /// The self-test's, likewise.
    pub self_test_image: PathBuf,
}

impl Artifacts {
    /// Prepares what is missing. `build` says whether the workspace's own programs are brought up to date first.
    pub fn prepare(paths: &Paths, build: Build) -> Result<Self> {
        let _lock = paths.lock()?;
        debian::install_missing()?;
        let archive = Archive::open(&paths.testbed, BOOKWORM)?;
        let root = paths.testbed.join("root");
        let xen_utils = format!("xen-utils-4.17={XEN_VERSION}");
        let packages = [xen_utils.as_str(), "xenstore-utils", "busybox-static", "linux-image-amd64", "libgcc-s1"];
        archive.unpacked(&root, &packages)?;
        let memtester = paths.testbed.join("memtester");
        archive.one("memtester", &memtester)?;
        let ssh_root = paths.testbed.join("ssh");
        archive.unpacked(&ssh_root, &["openssh-client", "openssh-server"])?;
        let source = hypervisor::source(paths, &archive)?;
        let hypervisor = hypervisor::hypervisor(paths, &source)?;
        let stock = hypervisor::stock(&paths.testbed, &archive, BOOKWORM.xen, &format!("={XEN_VERSION}"))?;
        let policy = policy(paths, &source)?;
        let (bz_image, release) = kernel::installed(&root)?;
        let guest_kernel = paths.testbed.join(format!("vmlinux-{release}"));
        kernel::extract(&bz_image, &guest_kernel)?;

        let programs = Programs::build(paths, build)?;
        let base = initramfs::dom0_base(&root, &release, BOOKWORM.xen)?;
        let own = initramfs::overlay(&programs.in_dom0)?;
        write_if_changed(&paths.testbed.join(OWN), &own)?;
        let initramfs = paths.testbed.join("dom0.cpio");
        write_if_changed(&initramfs, &[base, own].concat())?;
        let guest_initramfs = paths.testbed.join("guest.cpio");
        let workloads = [programs.guest_load, memtester.join("usr/sbin/memtester")];
        write_if_changed(&guest_initramfs, &initramfs::guest(&root, &release, &workloads)?)?;
        let netdom_initramfs = paths.testbed.join("netdom.cpio");
        write_if_changed(&netdom_initramfs, &initramfs::netdom(&root, &release)?)?;
        let ssh = paths.testbed.join("ssh.cpio");
        write_if_changed(&ssh, &initramfs::ssh(&ssh_root)?)?;
        let debian_13 = debian_13::files(paths);
        let boot = BootFiles { hypervisor, stock, kernel: bz_image, initramfs, policy, debian_13 };
        let (image, self_test_image) = (paths.image(), paths.self_test_image());
        Ok(Self { boot, guest_kernel, guest_initramfs, netdom_initramfs, ssh, image, self_test_image })
    }

    /// Builds the images, for scenarios with agents.
    pub fn build_images(&self, paths: &Paths, build: Build) -> Result<()> {
        if build == Build::UpToDate {
            let script = paths.workspace.join("boot/build-image.sh");
            run(command("sh", [&script]).env_remove("CARGO_ENCODED_RUSTFLAGS")).context("cannot build the images")?;
        }
        Ok(())
    }
}

/// The programs built here, for every dom0, below the testbed's folder.
const OWN: &str = "own.cpio";

/// Fetches Xen's source, if it is not there.
pub fn fetch_source(paths: &Paths) -> Result<()> {
    if paths.xen_source().exists() {
        return Ok(());
    }
    let _lock = paths.lock()?;
    debian::install_missing()?;
    hypervisor::source(paths, &Archive::open(&paths.testbed, BOOKWORM)?).map(drop)
}

/// The FLASK policy: Xen's own with the module of `toolstack/flask` and a type for the testbed's network driver domain, built anew
/// when one of them changes.
fn policy(paths: &Paths, source: &Path) -> Result<PathBuf> {
    let folder = paths.workspace.join("toolstack/flask");
    let site = paths.workspace.join("tests-qemu/netdom/netdom.te");
    let output = paths.testbed.join("xenpolicy");
    let built = fs::metadata(&output).and_then(|data| data.modified()).ok();
    let mut newest = Some(fs::metadata(&site)?.modified()?);
    for entry in fs::read_dir(&folder)? {
        newest = newest.max(Some(entry?.metadata()?.modified()?));
    }
    if built.is_none() || built < newest {
        run(command("sh", [folder.join("build.sh")]).arg(source).arg(&output).arg(&site))?;
    }
    Ok(output)
}

/// Replaces a file as a whole; a QEMU that is reading the old one keeps it.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) { Ok(()) } else { write_whole(path, bytes) }
}

/// Writes a file that is there as a whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    fs::write(&partial, bytes)?;
    fs::rename(&partial, path)?;
    Ok(())
}
