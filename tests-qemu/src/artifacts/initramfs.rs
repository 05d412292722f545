//! The file trees of dom0 and of the guest, as initramfs archives.
//!
//! dom0's is made of two: a base that changes with the packages only and is cached, and the programs built here, so
//! that a changed program costs the writing of a few megabytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio::Cpio;
use super::debian::{BOOKWORM, TRIXIE};
use super::modules::{self, Modules};
use crate::command::{command, run};

/// Xen's programs in dom0, from `/usr/lib/xen-*/bin`.
const XEN_PROGRAMS: &[&str] = &[
    "xl",
    "xenstored",
    "xenconsoled",
    "xenconsole",
    "xen-init-dom0",
    "libxl-save-helper",
    "xentop",
    "xenctx",
    "xen-hvmctx",
    "xen-cpuid",
    "xen-diag",
    "flask-get-bool",
    "flask-getenforce",
    "flask-label-pci",
    "flask-loadpolicy",
    "flask-set-bool",
    "flask-setenforce",
    "xen-livepatch",
    "xenstore-control",
    "lsevtchn",
    "xen-mfndump",
    "xenpm",
];

/// Programs of the package `xenstore-utils`.
const XENSTORE_PROGRAMS: &[&str] = &[
    "xenstore-read",
    "xenstore-write",
    "xenstore-ls",
    "xenstore-rm",
    "xenstore-list",
    "xenstore-watch",
    "xenstore-exists",
    "xenstore-chmod",
];

/// Programs of the packages `openssh-client` and `openssh-server`.
const SSH_PROGRAMS: &[&str] = &["usr/bin/ssh", "usr/bin/ssh-keygen", "usr/sbin/sshd"];

/// dom0's modules. privcmd comes before xenfs, which it serves.
const DOM0_MODULES: &[&str] = &[
    "xen-privcmd",
    "xenfs",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-netback",
    "xen-blkback",
    "xen-pciback",
    "bridge",
    "virtio_pci",
    "virtio_net",
    "loop",
];

/// What a network driver domain needs: the way to its card, the card's driver, and the backend.
const NETDOM_MODULES: &[&str] =
    &["xen-privcmd", "xenfs", "xen-evtchn", "xen-netback", "bridge", "xen-pcifront", "virtio_pci", "virtio_net"];

/// What a guest needs beyond the kernel itself.
const GUEST_MODULES: &[&str] = &["xen-netfront", "xen-gntalloc"];

/// What loads programs with shared libraries.
const LOADER: &str = "ld-linux-x86-64.so.2";

/// Files that dom0's init and Xen's tools expect.
const DOM0_INIT: &str = include_str!("../../dom0/init");
const VIF_SCRIPT: &str = include_str!("../../dom0/vif-tsmc");
const XL_CONF: &str = include_str!("../../dom0/xl.conf");
const NETDOM_INIT: &str = include_str!("../../netdom/init");
const GUEST_INIT: &str = include_str!("../../guest/init");

/// dom0's base archive from the unpacked packages below `root`, with the tools of this Xen.
pub fn dom0_base(root: &Path, release: &str, xen: &str) -> Result<Vec<u8>> {
    let mut cpio = Cpio::new();
    skeleton(&mut cpio, root)?;
    let xen = XEN_PROGRAMS.iter().map(|name| format!("usr/lib/xen-{xen}/bin/{name}"));
    let programs = xen.chain(XENSTORE_PROGRAMS.iter().map(|name| format!("usr/bin/{name}")));
    // Loaded while running only, so no program names it.
    add_programs(&mut cpio, root, programs, &["libgcc_s.so.1", LOADER])?;
    modules(&mut cpio, root, release, DOM0_MODULES)?;
    for folder in ["var/lib/xen", "var/lib/xenstored", "var/log/xen/console", "var/run/xen", "run/xen", "var/lock"] {
        cpio.folder(folder);
    }
    cpio.file("init", 0o755, DOM0_INIT.as_bytes());
    cpio.file("etc/xen/scripts/vif-tsmc", 0o755, VIF_SCRIPT.as_bytes());
    cpio.file("etc/xen/xl.conf", 0o644, XL_CONF.as_bytes());
    Ok(cpio.finish())
}

/// The archive of a network driver domain.
pub fn netdom(root: &Path, release: &str) -> Result<Vec<u8>> {
    let mut cpio = Cpio::new();
    skeleton(&mut cpio, root)?;
    let programs = ["usr/lib/xen-4.17/bin/xl", "usr/bin/xenstore-read", "usr/bin/xenstore-write"];
    add_programs(&mut cpio, root, programs.iter().map(|path| (*path).to_owned()), &["libgcc_s.so.1", LOADER])?;
    modules(&mut cpio, root, release, NETDOM_MODULES)?;
    for folder in ["var/lib/xen", "var/log/xen", "var/run/xen", "var/lock", "run/xen"] {
        cpio.folder(folder);
    }
    cpio.file("init", 0o755, NETDOM_INIT.as_bytes());
    cpio.file("etc/xen/scripts/vif-tsmc", 0o755, VIF_SCRIPT.as_bytes());
    cpio.file("etc/xen/xl.conf", 0o644, XL_CONF.as_bytes());
    Ok(cpio.finish())
}

/// An archive of single files, each a path inside and a file of this machine.
pub fn overlay(files: &[(&str, PathBuf)]) -> Result<Vec<u8>> {
    let mut cpio = Cpio::new();
    for (path, from) in files {
        cpio.copy(path, from)?;
    }
    Ok(cpio.finish())
}

/// OpenSSH's programs, with the libraries that they need, from the unpacked packages below `root`.
pub fn ssh(root: &Path) -> Result<Vec<u8>> {
    let mut cpio = Cpio::new();
    add_programs(&mut cpio, root, SSH_PROGRAMS.iter().map(|path| (*path).to_owned()), &[LOADER])?;
    Ok(cpio.finish())
}

/// The guest's archive: busybox, its network driver, and what keeps it busy: our own program, and Debian's `memtester`.
pub fn guest(root: &Path, release: &str, workloads: &[PathBuf; 2]) -> Result<Vec<u8>> {
    let mut cpio = Cpio::new();
    skeleton(&mut cpio, root)?;
    modules(&mut cpio, root, release, GUEST_MODULES)?;
    let [own, memtester] = workloads;
    cpio.copy("bin/guest-load", own)?;
    cpio.copy("bin/memtester", memtester)?;
    add_libraries(&mut cpio, root, std::slice::from_ref(memtester), &[LOADER])?;
    cpio.file("init", 0o755, GUEST_INIT.as_bytes());
    Ok(cpio.finish())
}

fn skeleton(cpio: &mut Cpio, root: &Path) -> Result<()> {
    for folder in ["proc", "sys", "dev/pts", "tmp", "root", "run", "etc", "usr/bin", "usr/sbin", "sbin"] {
        cpio.folder(folder);
    }
    cpio.device("dev/console", 5, 1);
    cpio.device("dev/null", 1, 3);
    cpio.copy("bin/busybox", &root.join("bin/busybox"))?;
    cpio.symlink("bin/sh", "busybox");
    Ok(())
}

/// Adds modules and the list that init loads them by.
fn modules(cpio: &mut Cpio, root: &Path, release: &str, names: &[&str]) -> Result<()> {
    let mut list = String::new();
    for file in Modules::find(root, release)?.in_order(names)? {
        let path = format!("lib/modules/{}.ko", modules::name(&file));
        cpio.file(&path, 0o644, &modules::read(&file)?);
        list.push_str(&format!("/{path}\n"));
    }
    cpio.file("etc/modules", 0o644, list.as_bytes());
    Ok(())
}

/// Adds programs, each by its path below `root`, and the shared libraries that they need, and `more`.
fn add_programs(cpio: &mut Cpio, root: &Path, paths: impl Iterator<Item = String>, more: &[&str]) -> Result<()> {
    let mut programs = Vec::new();
    for path in paths {
        let file = root.join(&path);
        cpio.copy(&path, &file)?;
        programs.push(file);
    }
    add_libraries(cpio, root, &programs, more)
}

/// Adds the shared libraries that `programs` need, and `more`.
fn add_libraries(cpio: &mut Cpio, root: &Path, programs: &[PathBuf], more: &[&str]) -> Result<()> {
    for name in libraries(root, programs, more)? {
        let file = library(root, &name).with_context(|| format!("no package brings {name}"))?;
        cpio.copy(&format!("lib/x86_64-linux-gnu/{name}"), &file)?;
    }
    cpio.symlink("lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
    Ok(())
}

/// The shared libraries that `programs` need, all the way down, and `more`.
fn libraries(root: &Path, programs: &[PathBuf], more: &[&str]) -> Result<BTreeSet<String>> {
    let mut found: BTreeSet<String> = more.iter().map(|name| (*name).to_owned()).collect();
    let mut open: Vec<PathBuf> = programs.to_vec();
    open.extend(more.iter().filter_map(|name| library(root, name)));
    while let Some(file) = open.pop() {
        let text = run(command("readelf", ["-dW"]).arg(&file))?;
        for line in text.lines().filter(|line| line.contains("(NEEDED)")) {
            let name = line.split(['[', ']']).nth(1).unwrap_or_default().to_owned();
            if found.insert(name.clone()) {
                open.push(library(root, &name).with_context(|| format!("no package brings {name}"))?);
            }
        }
    }
    Ok(found)
}

fn library(root: &Path, name: &str) -> Option<PathBuf> {
    let xens = [BOOKWORM, TRIXIE].map(|release| format!("usr/lib/xen-{}/lib/x86_64-linux-gnu", release.xen));
    let folders = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib", "lib"];
    let folders = folders.into_iter().chain(xens.iter().map(String::as_str));
    let candidates = folders.map(|folder| root.join(folder).join(name));
    // Absolute links inside the tree would lead out of it.
    candidates.into_iter().find(|path| fs::metadata(path).is_ok())
}
