//! Kernel modules, in an order in which they can be loaded one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::kernel::decompress;

/// The modules of one kernel.
pub struct Modules {
    files: BTreeMap<String, PathBuf>,
    /// Those that are part of the kernel.
    builtin: BTreeSet<String>,
}

impl Modules {
    /// Finds the modules of kernel `release` below `root`.
    pub fn find(root: &Path, release: &str) -> Result<Self> {
        let folder = root.join("lib/modules").join(release);
        let mut files = BTreeMap::new();
        collect(&folder.join("kernel"), &mut files)?;
        let builtin = fs::read_to_string(folder.join("modules.builtin")).context("no list of built-in modules")?;
        Ok(Self { files, builtin: builtin.lines().map(|line| name(Path::new(line))).collect() })
    }

    /// The files of `names` and of what they depend on, dependencies first.
    pub fn in_order(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut seen = BTreeSet::new();
        let mut order = Vec::new();
        for name in names {
            self.visit(name, &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<PathBuf>) -> Result<()> {
        let name = name.replace('-', "_");
        if self.builtin.contains(&name) || !seen.insert(name.clone()) {
            return Ok(());
        }
        let file = self.files.get(&name).with_context(|| format!("the kernel has no module {name}"))?;
        for dependency in dependencies(&read(file)?) {
            self.visit(&dependency, seen, order)?;
        }
        order.push(file.clone());
        Ok(())
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.to_string_lossy().contains(".ko") {
            files.insert(name(&path), path);
        }
    }
    Ok(())
}

/// What the kernel calls the module in this file.
pub fn name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}

/// The module in this file, which may be packed.
pub fn read(file: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(file)?;
    if bytes.starts_with(b"\x7fELF") { Ok(bytes) } else { decompress(&bytes) }
}

/// The `depends=` line of a module's information section: strings, each ended by a zero byte.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = &module[start + KEY.len()..];
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(0);
    let names = String::from_utf8_lossy(&value[..end]).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_information_section() {
        assert_eq!(dependencies(b"\x7fELF\0license=GPL\0depends=stp,llc\0name=bridge\0"), ["stp", "llc"]);
        assert!(dependencies(b"\0depends=\0name=llc\0").is_empty());
    }
}
