//! A run: hosts that are up, and the file by which other runners find them.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tests_qemu::exec::Dom0;

use crate::artifacts::Artifacts;
use crate::cleanup::{self, Process, Undo};
use crate::network::{self, PLACES, PREFIX, Place};
use crate::paths::Paths;
use crate::qemu::{self, HostSize, Lifetime};

/// How long a host may take to boot. It takes 6 s alone on two cores, several times that beside a build.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// What is written down about a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Its name, chosen by the user or made of the runner's process number.
    pub name: String,
    /// Its network namespace.
    pub namespace: String,
    /// When it was started.
    pub started: SystemTime,
    /// The runner; it may be gone when the hosts are kept.
    runner: Process,
    /// The hosts, A first.
    hosts: Vec<Process>,
}

impl Run {
    /// Boots `count` hosts and waits until each dom0 answers. The calling thread ends up in the run's namespace.
    pub fn start(
        paths: &Paths,
        artifacts: &Artifacts,
        name: Option<&str>,
        count: usize,
        size: HostSize,
        lifetime: Lifetime,
    ) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "hosts and their network need root");
        sweep(paths)?;
        let number = std::process::id();
        let name = name.map_or_else(|| format!("run{number}"), str::to_owned);
        if let Some(other) = load_all(paths)?.into_iter().find(|run| run.name == name) {
            bail!("run {} is already up: take it down first or choose another --name", other.name);
        }
        let places = &PLACES[..count.clamp(1, PLACES.len())];
        let namespace = format!("{PREFIX}{number}");
        network::create(&namespace, places)?;
        network::enter(&namespace)?;
        let runner = Process::this().context("no /proc")?;
        let mut run = Self { name, namespace, started: SystemTime::now(), runner, hosts: Vec::new() };
        cleanup::register(Undo::File(run.file(paths)));
        run.boot(paths, artifacts, places, size, lifetime)?;
        Ok(run)
    }

    fn boot(
        &mut self,
        paths: &Paths,
        artifacts: &Artifacts,
        places: &[Place],
        size: HostSize,
        lifetime: Lifetime,
    ) -> Result<()> {
        qemu::check_version(&size)?;
        for place in places {
            self.hosts.push(qemu::start(place, &artifacts.boot, size, &self.logs(paths), lifetime)?);
        }
        fs::write(self.file(paths), serde_json::to_vec_pretty(&self)?)?;
        places.iter().try_for_each(|place| self.wait_booted(paths, place))
    }

    /// Ends the hosts and boots them afresh, in the network that stands.
    pub fn reboot(&mut self, paths: &Paths, artifacts: &Artifacts, size: HostSize) -> Result<()> {
        let places = self.places();
        for host in self.hosts.drain(..) {
            host.kill();
        }
        self.boot(paths, artifacts, places, size, Lifetime::Runner)
    }

    /// Takes the power of one host away, at this instant.
    pub fn cut_power(&self, place: &Place) -> Result<()> {
        self.hosts[self.index(place)?].kill();
        Ok(())
    }

    /// Boots a host whose power was taken away.
    pub fn boot_again(&mut self, paths: &Paths, artifacts: &Artifacts, place: &Place, size: HostSize) -> Result<()> {
        let index = self.index(place)?;
        self.hosts[index] = qemu::start(place, &artifacts.boot, size, &self.logs(paths), Lifetime::Runner)?;
        fs::write(self.file(paths), serde_json::to_vec_pretty(&self)?)?;
        self.wait_booted(paths, place)
    }

    fn index(&self, place: &Place) -> Result<usize> {
        let index = self.places().iter().position(|known| known == place);
        index.with_context(|| format!("this run has no host {}", place.letter))
    }

    fn wait_booted(&self, paths: &Paths, place: &Place) -> Result<()> {
        let log = self.logs(paths).join(format!("{}-xen.log", place.letter));
        self.dom0(place).wait_ready(BOOT_LIMIT).with_context(|| {
            let text = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(25)..].join("\n");
            format!("host {} did not boot; {} ends:\n{last}\n", place.letter, log.display())
        })
    }

    /// The live run of this name, or the youngest one.
    pub fn find(paths: &Paths, name: Option<&str>) -> Result<Self> {
        let runs = load_all(paths)?;
        let found = match name {
            Some(name) => runs.into_iter().find(|run| run.name == name),
            None => runs.into_iter().max_by_key(|run| run.started),
        };
        found.context("no such run is up: start one with `up` or `migrate --keep`")
    }

    /// The hosts of this run.
    pub fn places(&self) -> &'static [Place] {
        &PLACES[..self.hosts.len().min(PLACES.len())]
    }

    /// The host of this letter.
    pub fn place(&self, letter: char) -> Result<&'static Place> {
        let letter = letter.to_ascii_uppercase();
        self.places()
            .iter()
            .find(|place| place.letter == letter)
            .with_context(|| format!("this run has no host {letter}"))
    }

    /// The dom0 of a host; the calling thread must be in the run's namespace.
    pub fn dom0(&self, place: &Place) -> Dom0 {
        Dom0::at(place.dom0_socket())
    }

    /// The folder of this run's logs.
    pub fn logs(&self, paths: &Paths) -> PathBuf {
        paths.logs.join(&self.name)
    }

    /// Ends the hosts and removes the network.
    pub fn stop(&self, paths: &Paths) {
        for host in &self.hosts {
            cleanup::undo_one(Undo::Process(*host));
        }
        cleanup::undo_one(Undo::Namespace(self.namespace.clone()));
        cleanup::undo_one(Undo::File(self.file(paths)));
    }

    fn file(&self, paths: &Paths) -> PathBuf {
        paths.runs.join(format!("{}.json", self.name))
    }

    fn is_alive(&self) -> bool {
        self.runner.is_alive() || self.hosts.iter().any(|host| host.is_alive())
    }
}

/// The runs that are up.
pub fn load_all(paths: &Paths) -> Result<Vec<Run>> {
    Ok(read_files(paths)?.into_iter().filter(Run::is_alive).collect())
}

fn read_files(paths: &Paths) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(&paths.runs)? {
        let bytes = fs::read(entry?.path())?;
        runs.extend(serde_json::from_slice::<Run>(&bytes));
    }
    Ok(runs)
}

/// Removes what dead runs left: those whose runner was killed outright.
fn sweep(paths: &Paths) -> Result<()> {
    let (alive, dead): (Vec<Run>, Vec<Run>) = read_files(paths)?.into_iter().partition(Run::is_alive);
    for run in dead {
        run.stop(paths);
    }
    // A runner that died before it wrote its file has left a namespace only.
    let Ok(namespaces) = fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in namespaces {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(number) = name.strip_prefix(PREFIX).and_then(|number| number.parse::<u32>().ok()) else { continue };
        let known = alive.iter().any(|run| run.namespace == name);
        if !known && Process::of(number).is_none() && !network::is_inhabited(&name) {
            cleanup::undo_one(Undo::Namespace(name));
        }
    }
    Ok(())
}
