//! Where the testbed keeps its things, all below `target/` of the workspace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

/// The folders of the testbed.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The workspace's root.
    pub workspace: PathBuf,
    /// Cached artifacts.
    pub testbed: PathBuf,
    /// Serial consoles and QEMU's messages, one folder per run.
    pub logs: PathBuf,
    /// State of the runs that are up.
    pub runs: PathBuf,
}

impl Paths {
    /// The folders of this workspace, made where they are missing.
    pub fn new() -> Result<Self> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?.to_path_buf();
        let testbed = workspace.join("target/testbed");
        let paths = Self { logs: testbed.join("logs"), runs: testbed.join("run"), workspace, testbed };
        for folder in [&paths.testbed, &paths.logs, &paths.runs] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(paths)
    }

    /// The agents' image, stripped.
    pub fn image(&self) -> PathBuf {
        self.workspace.join("target/image/tsmc-agent.elf")
    }

    /// The self-test's image, stripped.
    pub fn self_test_image(&self) -> PathBuf {
        self.workspace.join("target/image/tsmc-selftest.elf")
    }

    /// Xen's source, unpacked.
    pub fn xen_source(&self) -> PathBuf {
        self.testbed.join("xen-source")
    }

    /// Holds off every other runner that prepares artifacts, until the file is dropped.
    pub fn lock(&self) -> Result<File> {
        let path = self.testbed.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        flock(&file, FlockOperation::LockExclusive).context("cannot lock the testbed")?;
        Ok(file)
    }
}

/// Makes `folder` anew by `make`, which fills a sibling that is renamed when it is complete: what exists is whole.
pub fn build_once(folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    make(&partial)?;
    fs::rename(&partial, folder).with_context(|| format!("cannot complete {}", folder.display()))
}
