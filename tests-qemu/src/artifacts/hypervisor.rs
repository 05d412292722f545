//! The hypervisor: Debian's source, unmodified, with the options that the agents need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::debian::{Archive, XEN_VERSION};
use super::kernel::decompress;
use super::write_whole;
use crate::command::{command, run};
use crate::paths::{Paths, build_once};

/// What Debian's own binary lacks: memory paging and FLASK.
const OPTIONS: &str = "CONFIG_EXPERT=y\nCONFIG_UNSUPPORTED=y\nCONFIG_MEM_PAGING=y\nCONFIG_XSM=y\nCONFIG_XSM_FLASK=y\n\
    CONFIG_XSM_FLASK_POLICY=y\nCONFIG_SHADOW_PAGING=y\nCONFIG_PV=y\nCONFIG_HVM=y\n";

/// Xen's source as Debian patches it. FLASK policy and ABI checks read it too.
pub fn source(paths: &Paths, archive: &Archive) -> Result<PathBuf> {
    let folder = paths.xen_source();
    build_once(&folder, |partial| {
        eprintln!("downloading the source of Xen {XEN_VERSION}");
        archive.source("xen", XEN_VERSION, partial)
    })?;
    Ok(folder)
}

/// The hypervisor's binary, built once for these options.
pub fn hypervisor(paths: &Paths, source: &Path) -> Result<PathBuf> {
    let folder = paths.testbed.join("hypervisor");
    let stamp = format!("{XEN_VERSION}\n{OPTIONS}");
    if fs::read_to_string(folder.join("options")).ok().as_deref() != Some(stamp.as_str()) {
        let _ = fs::remove_dir_all(&folder);
    }
    build_once(&folder, |partial| {
        eprintln!("building the hypervisor (about two minutes, once)");
        build(source).context("cannot build the hypervisor")?;
        fs::copy(source.join("xen/xen"), partial.join("xen"))?;
        fs::write(partial.join("options"), &stamp)?;
        Ok(())
    })?;
    Ok(folder.join("xen"))
}

/// Debian's own binary of this Xen, which QEMU boots unpacked; `version` is more of the package's version, or nothing.
pub fn stock(folder: &Path, archive: &Archive, xen: &str, version: &str) -> Result<PathBuf> {
    let root = folder.join("stock");
    archive.one(&format!("xen-hypervisor-{xen}-amd64{version}"), &root)?;
    let binary = root.join("xen");
    if !binary.exists() {
        let packed =
            fs::read(root.join(format!("boot/xen-{xen}-amd64.gz"))).context("the package has no hypervisor")?;
        write_whole(&binary, &decompress(&packed)?)?;
    }
    Ok(binary)
}

fn build(source: &Path) -> Result<()> {
    fs::write(source.join("xen/.config"), OPTIONS)?;
    run(&mut make(source, ["olddefconfig"]))?;
    let jobs = format!("-j{}", std::thread::available_parallelism()?);
    run(&mut make(source, [jobs.as_str()]))?;
    Ok(())
}

fn make<const N: usize>(source: &Path, arguments: [&str; N]) -> Command {
    let mut make = command("nice", ["make", "-s", "-C"]);
    // A make above us must not hand down its flags: Xen's build reads them.
    make.arg(source.join("xen")).args(arguments).env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("MFLAGS");
    make
}
