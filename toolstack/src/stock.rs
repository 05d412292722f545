//! Handing over to Xen's own helper.

use std::io;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the stock helper where it cannot be found.
pub const OVERRIDE: &str = "TSMC_STOCK_HELPER";

const NAME: &str = "libxl-save-helper";

/// Where distributions keep it.
const PLACES: [&str; 5] = [
    "/usr/lib/xen-4.17/bin",
    "/usr/lib/xen/bin",
    "/usr/libexec/xen/bin",
    "/usr/lib64/xen/bin",
    "/usr/local/lib/xen/bin",
];

/// Becomes the stock helper. Returns only if that fails.
pub fn become_helper(arguments: &[String]) -> io::Error {
    match find() {
        Some(helper) => {
            let error = Command::new(&helper).args(arguments).exec();
            io::Error::new(error.kind(), format!("cannot run {}: {error}", helper.display()))
        }
        None => io::Error::new(io::ErrorKind::NotFound, format!("cannot find {NAME}; set {OVERRIDE} to its path")),
    }
}

/// The helper that belongs to the calling toolstack: beside `xl`, or in the usual places.
fn find() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(OVERRIDE) {
        return Some(path.into());
    }
    let parent = std::fs::read_link(format!("/proc/{}/exe", parent_id())).ok();
    let beside_parent = parent.as_deref().and_then(Path::parent).map(|folder| folder.join(NAME));
    beside_parent.into_iter().chain(PLACES.iter().map(|place| Path::new(place).join(NAME))).find(|path| path.is_file())
}
