//! What a run creates on the machine, and its removal however the run ends.
//!
//! Everything that outlives a function here is registered in one list: QEMU's processes, the network namespace, the
//! state file. The list is undone, newest first, at the normal end, by the panic hook and by the handler of Ctrl-C.
//! (Guards alone would not do: panics abort in this workspace.) A runner that is killed outright takes its QEMUs along
//! by their parent-death signal, and the next runner sweeps what is left of its namespace.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::command::{command, run};

/// A process that is still the one we started: a number alone may be given to another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pid: i32,
    started: u64,
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        Some(Self { pid, started: start_time(pid)? })
    }

    /// The runner itself.
    pub fn this() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Kills it and waits until it is gone.
    pub fn kill(self) {
        for _ in 0..500 {
            if !self.is_alive() {
                return;
            }
            if let Some(pid) = Pid::from_raw(self.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The fields of /proc/PID/stat from the state on. A zombie counts as gone once its last thread is: until then it has its files,
/// TAP devices among them, which the next QEMU would find busy.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
    let threads: u32 = fields.get(17)?.parse().ok()?;
    (fields.first()? != "Z" || threads > 1).then_some(fields)
}

fn start_time(pid: i32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

/// Something to be undone.
#[derive(Debug)]
pub enum Undo {
    /// Kill a process.
    Process(Process),
    /// Delete a network namespace and all that is in it.
    Namespace(String),
    /// Remove a file.
    File(PathBuf),
}

static PENDING: Mutex<Vec<Undo>> = Mutex::new(Vec::new());

fn pending() -> MutexGuard<'static, Vec<Undo>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes every end of this process undo what is registered.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        eprintln!("\ninterrupted: removing hosts and network");
        undo_all();
        std::process::exit(130);
    })
    .context("cannot handle Ctrl-C")?;
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        undo_all();
    }));
    Ok(())
}

/// Registers something to be undone.
pub fn register(undo: Undo) {
    pending().push(undo);
}

/// Undoes everything, newest first.
pub fn undo_all() {
    // The lock is not held meanwhile, so that an interruption during the undoing finds an empty list and ends.
    let list = std::mem::take(&mut *pending());
    for undo in list.into_iter().rev() {
        undo_one(undo);
    }
}

/// Leaves everything as it is: for runs that are kept up.
pub fn keep_all() {
    pending().clear();
}

/// Undoes one thing; what is gone already is no failure.
pub fn undo_one(undo: Undo) {
    match undo {
        Undo::Process(process) => process.kill(),
        Undo::Namespace(name) => {
            let _ = run(&mut command("ip", ["netns", "delete", &name]));
        }
        Undo::File(path) => {
            let _ = fs::remove_file(path);
        }
    }
}
