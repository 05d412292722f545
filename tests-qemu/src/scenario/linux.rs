//! Domains that boot a Linux kernel. Its files take dom0's memory, and are removed once the domain is built.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests_qemu::exec::Dom0;

/// Copies kernel and initramfs into dom0, to where the domain's configuration names them. Gives the two paths.
pub fn put_files(dom0: &Dom0, name: &str, files: [&Path; 2]) -> Result<[String; 2]> {
    let paths = ["kernel", "initramfs"].map(|what| format!("/root/{name}-{what}"));
    for (file, path) in files.into_iter().zip(&paths) {
        dom0.put_file(file, path).with_context(|| format!("cannot copy {path}"))?;
    }
    Ok(paths)
}

/// Bytes that these files take of dom0's memory.
pub fn size(files: [&Path; 2]) -> Result<u64> {
    files.into_iter().map(|file| Ok(file.metadata()?.len())).sum()
}

/// Bytes of files that dom0's memory has room for.
pub fn room(dom0: &Dom0) -> Result<u64> {
    let blocks = dom0.run(&["stat", "-f", "-c", "%a %S", "/"])?.text();
    let (count, bytes) = blocks.split_once(' ').context("stat says nothing of dom0's root")?;
    Ok(count.parse::<u64>()? * bytes.parse::<u64>()?)
}

/// Creates a domain by `command`. `configuration` is made of the paths of kernel and initramfs in dom0.
pub fn create(
    dom0: &Dom0,
    name: &str,
    files: [&Path; 2],
    command: &[&str],
    configuration: impl FnOnce(&str, &str) -> String,
) -> Result<()> {
    let [kernel, initramfs] = put_files(dom0, name, files)?;
    let file = format!("/root/{name}-cfg");
    dom0.put(configuration(&kernel, &initramfs).as_bytes(), &file, 0o644)?;
    let output = dom0.run(&[command, &[file.as_str()]].concat())?;
    ensure!(output.success(), "xl create of {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    dom0.run(&["rm", &kernel, &initramfs])?;
    Ok(())
}
