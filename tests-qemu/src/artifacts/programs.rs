//! The workspace's own programs that run in dom0 and in the guest, linked statically: there is no libc of ours in there.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

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

/// The programs' files.
#[derive(Clone, Debug)]
pub struct Programs {
    /// What runs commands in dom0, and what follows agents.
    pub dom0: [(&'static str, PathBuf); 2],
    /// The guest's workload.
    pub guest_load: PathBuf,
    /// Our save helper and the operator's command, when they have been built.
    pub toolstack: Vec<(&'static str, PathBuf)>,
}

impl Programs {
    /// Builds the programs of this crate and of the toolstack.
    pub fn build(paths: &Paths, build: Build) -> Result<Self> {
        let folder = paths.workspace.join("target/static");
        if build == Build::UpToDate {
            compile(paths, &folder)?;
        }
        let file = |name: &str| folder.join(TARGET).join("release").join(name);
        let toolstack = [("usr/lib/tsmc/tsmc-save-helper", "tsmc-save-helper"), ("usr/bin/tsmc", "tsmc")]
            .into_iter()
            .map(|(path, name)| (path, file(name)))
            .filter(|(_, file)| file.exists())
            .collect();
        let dom0 = [("usr/bin/dom0d", "dom0d"), ("usr/bin/session-watch", "session-watch")]
            .map(|(path, name)| (path, file(name)));
        let programs = Self { dom0, guest_load: file("guest-load"), toolstack };
        for (_, program) in &programs.dom0 {
            if !program.exists() {
                bail!("{} has not been built: run without --no-build", program.display());
            }
        }
        Ok(programs)
    }

    /// Their places in dom0's file tree.
    pub fn in_dom0(&self) -> Vec<(&'static str, PathBuf)> {
        self.dom0.iter().chain(&self.toolstack).cloned().collect()
    }
}

fn compile(paths: &Paths, folder: &std::path::Path) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    // Its output is shown only when it fails: warnings are the business of `make check`.
    let mut build = command(&cargo, ["build", "--quiet", "--release", "--target", TARGET]);
    build
        .args(["-p", "tests-qemu", "-p", "toolstack", "--bins"])
        // These are small programs: link-time optimization would cost a minute and gain nothing.
        .args(["--config", "profile.release.lto=false", "--config", "profile.release.codegen-units=16"])
        .current_dir(&paths.workspace)
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_TARGET_DIR", folder)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(&mut build).context("the programs for dom0 and guest do not build")?;
    Ok(())
}
