//! Handing over to Xen's own helper.

use std::io;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::XenVersion;

/// Names the stock helper where it cannot be found.
pub const OVERRIDE: &str = "TSMC_STOCK_HELPER";

const NAME: &str = "libxl-save-helper";

/// Where distributions keep it. Debian has a folder for each Xen ([`of_debian`]).
const PLACES: [&str; 4] = ["/usr/lib/xen/bin", "/usr/libexec/xen/bin", "/usr/lib64/xen/bin", "/usr/local/lib/xen/bin"];

/// The programs of each Xen that Debian has installed, below `folder`: those of the one that runs first.
fn of_debian(folder: &Path, running: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut xens: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    xens.retain(|name| name.starts_with("xen-"));
    xens.sort_by_key(|name| (*name != format!("xen-{running}"), name.clone()));
    xens.iter().map(|name| folder.join(name).join("bin")).collect()
}

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
    let debian = of_debian(Path::new("/usr/lib"), &xen_version().to_string()).into_iter();
    let places = debian.chain(PLACES.iter().map(PathBuf::from)).map(|place| place.join(NAME));
    beside_parent.into_iter().chain(places).find(|path| path.is_file())
}

/// The version of the hypervisor that runs.
pub fn xen_version() -> XenVersion {
    let part = |name: &str| {
        let text = std::fs::read_to_string(format!("/sys/hypervisor/version/{name}")).ok()?;
        text.trim().parse().ok()
    };
    XenVersion { major: part("major").unwrap_or(4), minor: part("minor").unwrap_or(17) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_xens_the_one_that_runs_is_taken() {
        let folder = std::env::temp_dir().join(format!("tsmc-xens-{}", std::process::id()));
        for name in ["xen-4.17", "xen-4.20", "xenial", "other"] {
            std::fs::create_dir_all(folder.join(name)).expect("a folder");
        }
        let found = |running| of_debian(&folder, running);
        let [old, new] = ["xen-4.17", "xen-4.20"].map(|name| folder.join(name).join("bin"));
        assert_eq!(found("4.20"), [new.clone(), old.clone()]);
        assert_eq!(found("4.18"), [old, new]);
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
