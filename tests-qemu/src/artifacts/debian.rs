//! Debian packages: those the machine lacks are installed, those of the testbed's dom0 and guest only unpacked.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{command, run};
use crate::paths::build_once;

/// The version of Xen that everything here was tried with.
pub const XEN_VERSION: &str = "4.17.5+72-g01140da4e8-1";

/// A release of Debian.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    /// Its name in the archive.
    pub suite: &'static str,
    /// Its Xen.
    pub xen: &'static str,
}

/// Debian 12, of which nearly everything here is.
pub const BOOKWORM: Release = Release { suite: "bookworm", xen: "4.17" };
/// Debian 13.
pub const TRIXIE: Release = Release { suite: "trixie", xen: "4.20" };

const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Programs that the testbed runs on this machine, and the package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/flex", "flex"),
    ("/usr/bin/bison", "bison"),
    ("/usr/bin/checkpolicy", "checkpolicy"),
    ("/usr/bin/m4", "m4"),
    ("/usr/bin/bc", "bc"),
    ("/usr/bin/gcc", "gcc"),
    ("/usr/bin/make", "make"),
    ("/usr/bin/python3", "python3"),
    ("/usr/lib/x86_64-linux-gnu/libc.a", "libc6-dev"),
    ("/usr/bin/dpkg-source", "dpkg-dev"),
    ("/usr/bin/readelf", "binutils"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/bin/zstd", "zstd"),
    ("/usr/bin/setpriv", "util-linux"),
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/sbin/tc", "iproute2"),
];

/// Installs what this machine lacks.
pub fn install_missing() -> Result<()> {
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(file, _)| !installed(file)).map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing {}", missing.join(" "));
    run(&mut command("apt-get", ["update"]))?;
    let options = ["install", "-y", "--no-install-recommends"];
    run(command("apt-get", options).args(&missing).env("DEBIAN_FRONTEND", "noninteractive"))?;
    Ok(())
}

/// Whether a file of a package is there; programs also count anywhere else on the path.
fn installed(file: &str) -> bool {
    let name = Path::new(file).file_name().unwrap_or_default();
    let elsewhere = std::env::var_os("PATH").unwrap_or_default();
    Path::new(file).exists() || std::env::split_paths(&elsewhere).any(|folder| folder.join(name).exists())
}

/// The testbed's own view of Debian's archive: the main suite alone, so that all of Xen is of one version, and an
/// empty list of installed packages, so that a download is the whole closure whatever this machine has.
pub struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// Opens the archive of a release below `folder`, fetching its lists the first time.
    pub fn open(folder: &Path, release: Release) -> Result<Self> {
        let folder = folder.join("apt");
        let archive = Self { folder: folder.clone() };
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::write(folder.join("status"), "")?;
        let source = format!("[signed-by={KEYRING}] {MIRROR} {} main", release.suite);
        fs::write(folder.join("sources.list"), format!("deb {source}\ndeb-src {source}\n"))?;
        fs::write(folder.join("apt.conf"), archive.configuration())?;
        let stamp = folder.join("updated");
        if !stamp.exists() {
            eprintln!("reading Debian's package lists");
            run(&mut archive.apt(["update"]))?;
            fs::write(stamp, "")?;
        }
        Ok(archive)
    }

    fn configuration(&self) -> String {
        let folder = self.folder.display();
        format!(
            "Dir::State \"{folder}\";\nDir::State::lists \"{folder}/lists\";\nDir::State::status \"{folder}/status\";\n\
             Dir::Cache \"{folder}\";\n\
             Dir::Etc::sourcelist \"{folder}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             APT::Sandbox::User \"root\";\nAPT::Keep-Downloaded-Packages \"true\";\nAcquire::Retries \"3\";\n"
        )
    }

    fn apt<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut apt = command("apt-get", arguments);
        apt.env("APT_CONFIG", self.folder.join("apt.conf"));
        apt
    }

    /// The folder with `packages` and all that they depend on, unpacked.
    pub fn unpacked(&self, root: &Path, packages: &[&str]) -> Result<()> {
        build_once(root, |root| {
            eprintln!("downloading {} and what they need", packages.join(" "));
            // A folder of its own: what others depend on is not to be unpacked here.
            let archives = root.with_extension("debs");
            fs::create_dir_all(archives.join("partial"))?;
            let options = ["install", "-y", "--no-install-recommends", "--download-only", "-o"];
            run(self.apt(options).arg(format!("Dir::Cache::archives={}", archives.display())).args(packages))?;
            for entry in fs::read_dir(&archives)? {
                let deb = entry?.path();
                if deb.extension().is_some_and(|extension| extension == "deb") {
                    run(command("dpkg-deb", ["-x"]).arg(&deb).arg(root))?;
                }
            }
            // From Debian 13 on packages ship nothing outside of usr.
            for folder in ["bin", "lib", "lib64", "sbin"] {
                if !root.join(folder).exists() && root.join("usr").join(folder).exists() {
                    symlink(Path::new("usr").join(folder), root.join(folder))?;
                }
            }
            Ok(())
        })
    }

    /// The folder with `package` unpacked, and nothing that it depends on.
    pub fn one(&self, package: &str, folder: &Path) -> Result<()> {
        build_once(folder, |folder| {
            run(self.apt(["download", package]).current_dir(folder))?;
            for entry in fs::read_dir(folder)? {
                run(command("dpkg-deb", ["-x"]).arg(entry?.path()).arg(folder))?;
            }
            Ok(())
        })
    }

    /// Downloads and unpacks the source of `package` into `folder`.
    pub fn source(&self, package: &str, version: &str, folder: &Path) -> Result<()> {
        let download = self.folder.join("sources");
        fs::create_dir_all(&download)?;
        let name = format!("{package}={version}");
        run(self.apt(["source", "--download-only", name.as_str()]).current_dir(&download))?;
        let description = download.join(format!("{package}_{version}.dsc"));
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        run(command("dpkg-source", ["--no-check", "-x"]).arg(&description).arg(folder))
            .with_context(|| format!("cannot unpack the source of {name}"))?;
        Ok(())
    }
}
