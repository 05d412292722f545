//! A host of Debian 13 as it comes: its hypervisor, its tools, its kernel. It is made when a run needs one.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::Result;

use super::debian::{Archive, TRIXIE};
use super::{OWN, hypervisor, initramfs, kernel, write_if_changed};
use crate::paths::Paths;
use crate::qemu::{HostSize, Hypervisor, StockFiles};

/// Where its parts are once they are made.
pub fn files(paths: &Paths) -> StockFiles {
    let folder = paths.testbed.join("debian-13");
    let [hypervisor, kernel, initramfs] = ["stock/xen", "vmlinuz", "dom0.cpio"].map(|name| folder.join(name));
    StockFiles { hypervisor, kernel, initramfs }
}

/// Fetches the public headers of its Xen, if they are not there.
pub fn fetch_headers(paths: &Paths) -> Result<()> {
    let folder = paths.testbed.join("debian-13");
    let headers = folder.join("headers");
    if !headers.exists() {
        let _lock = paths.lock()?;
        fs::create_dir_all(&folder)?;
        Archive::open(&folder, TRIXIE)?.one("libxen-dev", &headers)?;
    }
    // Where Xen's own source has them.
    let public = headers.join("usr/include/public");
    if public.exists() { Ok(()) } else { Ok(symlink("xen", public)?) }
}

/// Makes what is missing, if hosts of this size need it. Not from within the hosts' network, which leads nowhere.
pub fn prepare_for(paths: &Paths, size: &HostSize) -> Result<()> {
    if size.hypervisors.contains(&Hypervisor::Stock13) { prepare(paths) } else { Ok(()) }
}

/// Makes what is missing.
pub fn prepare(paths: &Paths) -> Result<()> {
    let _lock = paths.lock()?;
    let (folder, files) = (paths.testbed.join("debian-13"), files(paths));
    fs::create_dir_all(&folder)?;
    let archive = Archive::open(&folder, TRIXIE)?;
    let (root, xen) = (folder.join("root"), TRIXIE.xen);
    let xen_utils = format!("xen-utils-{xen}");
    let packages = [xen_utils.as_str(), "xenstore-utils", "busybox-static", "linux-image-amd64", "libgcc-s1"];
    archive.unpacked(&root, &packages)?;
    hypervisor::stock(&folder, &archive, xen, "")?;
    let (bz_image, release) = kernel::installed(&root)?;
    write_if_changed(&files.kernel, &fs::read(bz_image)?)?;
    let base = initramfs::dom0_base(&root, &release, xen)?;
    write_if_changed(&files.initramfs, &[base, fs::read(paths.testbed.join(OWN))?].concat())
}
