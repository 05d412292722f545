//! The workspace's own programs that run in dom0 and in the guest, linked statically: they do not depend on a libc there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::command::{command, run};
use crate::paths::Paths;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Whether to bring the programs up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// Build what changed.
    UpToDate,
    /// Take them as they were built last.
    AsIs,
}

/// The programs in dom0: where each stands there, and its name here. The first four are the testbed's.
const IN_DOM0: [(&str, &str); 6] = [
    ("usr/bin/dom0d", "dom0d"),
    ("usr/bin/session-watch", "session-watch"),
    ("usr/bin/dom0-attack", "dom0-attack"),
    ("usr/bin/lent-entries", "lent-entries"),
    ("usr/lib/tsmc/tsmc-save-helper", "tsmc-save-helper"),
    ("usr/bin/tsmc", "tsmc"),
];

/// The guest's workload.
const IN_GUEST: &str = "guest-load";

/// The programs' files.
#[derive(Clone, Debug)]
pub struct Programs {
    /// What stands in dom0's file tree: the path there, and the file here.
    pub in_dom0: Vec<(&'static str, PathBuf)>,
    /// The guest's workload.
    pub guest_load: PathBuf,
}

impl Programs {
    /// Builds the programs of this crate and of the toolstack.
    pub fn build(paths: &Paths, build: Build) -> Result<Self> {
        let folder = paths.workspace.join("target/static");
        if build == Build::UpToDate {
            compile(paths, &folder)?;
        }
        let file = |name: &str| {
            let file = folder.join(TARGET).join("release").join(name);
            ensure!(file.exists(), "{} has not been built: run without --no-build", file.display());
            Ok(file)
        };
        let in_dom0 = IN_DOM0.into_iter().map(|(path, name)| Ok((path, file(name)?))).collect::<Result<_>>()?;
        Ok(Self { in_dom0, guest_load: file(IN_GUEST)? })
    }
}

fn compile(paths: &Paths, folder: &Path) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    // Its output is shown only when it fails: warnings are the business of `make check`.
    let mut build = command(&cargo, ["build", "--quiet", "--release", "--target", TARGET]);
    build
        .args(["-p", "tests-qemu", "-p", "toolstack", "--bin", IN_GUEST])
        .args(IN_DOM0.iter().flat_map(|(_, name)| ["--bin", *name]))
        // These are small programs: link-time optimization would cost a minute and gain nothing.
        .args(["--config", "profile.release.lto=false", "--config", "profile.release.codegen-units=16"])
        .current_dir(&paths.workspace)
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_TARGET_DIR", folder)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(&mut build).context("the programs for dom0 and guest do not build")?;
    Ok(())
}
