//! The scenario runner: boots real Xen hosts in QEMU and migrates real guests between them.

mod artifacts;
mod bench;
mod cleanup;
mod cli;
mod command;
mod gates;
mod mode;
mod monitor;
mod network;
mod nic;
mod paths;
mod qemu;
mod run;
mod scenario;
mod suite;
mod trouble;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tests_qemu::exec::{Event, Request};

use artifacts::Artifacts;
use artifacts::programs::Build;
use cli::{Cli, Command};
use paths::Paths;
use qemu::Lifetime;
use run::Run;

fn main() -> ExitCode {
    let result = cleanup::install().and_then(|()| execute(&Cli::parse()));
    cleanup::undo_all();
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: &Cli) -> Result<u8> {
    let paths = Paths::new()?;
    let build = if cli.no_build { Build::AsIs } else { Build::UpToDate };
    let name = cli.name.as_deref();
    match &cli.command {
        Command::Prepare { source_only } => {
            if *source_only {
                artifacts::fetch_source(&paths)?;
            } else {
                Artifacts::prepare(&paths, build)?;
            }
            artifacts::debian_13::fetch_headers(&paths)?;
        }
        Command::Up { hosts, size } => {
            let artifacts = Artifacts::prepare(&paths, build)?;
            let size = (*size).into();
            artifacts::debian_13::prepare_for(&paths, &size)?;
            let run = Run::start(&paths, &artifacts, name, usize::from(*hosts), size, Lifetime::Kept)?;
            cleanup::keep_all();
            println!("run {} is up; logs in {}", run.name, run.logs(&paths).display());
        }
        Command::Down { all } => {
            let runs = if *all { run::load_all(&paths)? } else { vec![Run::find(&paths, name)?] };
            for run in runs {
                run.stop(&paths);
                println!("run {} is down", run.name);
            }
        }
        Command::HostExec { host, command } => return host_exec(&paths, name, *host, command),
        Command::HostPut { host, local, path } => {
            let run = entered(&paths, name)?;
            std::fs::metadata(local).with_context(|| local.display().to_string())?;
            run.dom0(run.place(*host)?).put_file(local, path)?;
        }
        Command::HostGet { host, path, local } => {
            let run = entered(&paths, name)?;
            std::fs::write(local, run.dom0(run.place(*host)?).get(path)?)?;
        }
        Command::Migrate(options) => return scenario::migrate(&paths, build, name, options),
        Command::Bench(options) => return bench::run(&paths, build, name, options),
        Command::Test { list: true, .. } => suite::names().for_each(|name| println!("{name}")),
        Command::Test { choice, nic, size, .. } => {
            return suite::run(&paths, build, name, (*size).into(), *nic, choice);
        }
        Command::ImageGates => return gates::check(&paths.image(), &paths.self_test_image()),
    }
    Ok(0)
}

/// A live run, with this thread in its network.
fn entered(paths: &Paths, name: Option<&str>) -> Result<Run> {
    let run = Run::find(paths, name)?;
    network::enter(&run.namespace)?;
    Ok(run)
}

/// Runs a command in a dom0, its output passed on as it comes.
fn host_exec(paths: &Paths, name: Option<&str>, host: char, command: &[String]) -> Result<u8> {
    let run = entered(paths, name)?;
    let running = run.dom0(run.place(host)?).start(&Request::new(command))?;
    let output = running.finish_with(None, |event| {
        let _ = match event {
            Event::Stdout(bytes) => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
            Event::Stderr(bytes) => std::io::stderr().write_all(bytes),
            Event::StdinClosed | Event::Exit(_) => Ok(()),
        };
    })?;
    Ok(u8::try_from(output.status).unwrap_or(u8::MAX))
}
