//! The operator's command: migrations, the agent of this host and its keys, and the lockdown of the host.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand, value_parser};
use common::DomId;
use toolstack::agents::{Agent, Session};
use toolstack::identity::{Files, KEY_FILE, MODULE_FILE, PEERS_FILE};
use toolstack::lockdown::Lockdown;
use toolstack::migrate::preflight::{CHECK, Needs};
use toolstack::migrate::{self, Migrate};
use toolstack::refusal::Refusal;
use toolstack::watch::{CONFIG_FILE, Watch};
use toolstack::xenstore::Xenstore;
use toolstack::{identity, print, recover, status};

/// The exit status for what will not work until a configuration is changed (`EX_CONFIG`): no reason to try again.
const CONFIGURATION: u8 = 78;

const EXIT_STATUS: &str = "\
Exit status:
  0   done
  1   it failed; standard error says why
  2   the command line makes no sense
  78  it will fail again until the agent's configuration, its key or its peers are changed";

/// This host's migration agent: what it is doing, its keys, and closing the host.
#[derive(Parser)]
#[command(name = "tsmc", version, mut_subcommands(with_exit_status))]
#[command(after_help = "Migrations can also be started as ever, with 'xl migrate' or libvirt.")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

/// The exit statuses, in the help of each command that has none of its own.
fn with_exit_status(command: clap::Command) -> clap::Command {
    if command.get_after_help().is_some() { command } else { command.after_help(EXIT_STATUS) }
}

// The comments are the text of `--help`.
#[derive(Subcommand)]
enum Command {
    /// Migrate a guest to another host: 'xl migrate' with checks beforehand, progress, and a clear result.
    ///
    /// Ctrl-C gives it up as long as the guest is here. Once it has left, Ctrl-C only ends the waiting for the rest of its memory.
    #[command(after_help = migrate::EXIT_STATUS)]
    Migrate(Migrate),
    /// Ask whether a guest could come, as another host's 'tsmc migrate' does: a JSON object on standard input.
    #[command(name = CHECK, hide = true)]
    CheckArrival,
    /// Show the agent and its sessions: stage, pages left, faults.
    Status {
        /// The same for programs: one JSON object, each value as the agent wrote it.
        #[arg(long)]
        json: bool,
    },
    /// Give up a migration that has not reached its commit; the guest stays where it is.
    Cancel {
        /// Its name, as 'tsmc status' shows it.
        session: String,
    },
    /// After the agent died: hand its successor the guests that it had in hand, and say what came of each.
    Recover {
        /// Only this one.
        #[arg(value_parser = domain())]
        domain: Option<DomId>,
        #[arg(long, hide = true, conflicts_with = "domain")]
        all: bool,
    },
    /// Free what is kept here of a guest that has left, because the host that it went to is lost for good.
    Discard {
        /// What is left of the guest on this host.
        #[arg(value_parser = domain())]
        domain: DomId,
        /// Say that it is. Should that host be there after all, its guest waits for ever for the memory that is still here.
        #[arg(long, required = true)]
        other_host_is_gone: bool,
    },
    /// Until the next boot, keep dom0 from changing the security policy or getting around it.
    Lockdown(Lockdown),
    /// Make the key pair of this host's agent; print the line that other hosts need in their list of peers.
    Keygen {
        /// What the other hosts call this agent.
        name: String,
        /// Where the private key goes. It must not exist.
        #[arg(long, value_name = "FILE", default_value = KEY_FILE)]
        out: PathBuf,
    },
    /// Compose the module for one start of the agent (ramdisk= in its xl.cfg) from key, peers and a fresh seed.
    Module {
        #[command(flatten)]
        files: ModuleFiles,
    },
    /// Keep the agent running: start it, say why it ended, start it again, let it recover what was in hand.
    ///
    /// With --key or --peers each start gets a fresh module, as 'tsmc module' composes it. The command ends when the agent
    /// refuses its configuration.
    Watch {
        #[command(flatten)]
        files: ModuleFiles,
        /// The network card that the xl.cfg passes through (pci=): label it and make it assignable before each start.
        #[arg(long, value_name = "DEVICE")]
        card: Option<String>,
        /// The xl.cfg of the agent's domain.
        #[arg(default_value = CONFIG_FILE)]
        config: PathBuf,
    },
}

#[derive(Args)]
struct ModuleFiles {
    /// The agent's private key [default: /etc/tsmc/key].
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The agents that it trusts with guests [default: /etc/tsmc/peers].
    #[arg(long, value_name = "FILE")]
    peers: Option<PathBuf>,
    /// Where the module goes [default: /run/tsmc/module].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl ModuleFiles {
    fn files(&self) -> Files<'_> {
        fn or<'a>(named: &'a Option<PathBuf>, usual: &'static str) -> &'a Path {
            named.as_deref().unwrap_or(Path::new(usual))
        }
        Files { key: or(&self.key, KEY_FILE), peers: or(&self.peers, PEERS_FILE), module: or(&self.out, MODULE_FILE) }
    }

    fn composes(&self) -> bool {
        self.key.is_some() || self.peers.is_some()
    }
}

/// Reads a domain's number.
fn domain() -> impl TypedValueParser<Value = DomId> {
    value_parser!(u16).map(DomId)
}

fn main() -> ExitCode {
    match CommandLine::parse().command.run() {
        Ok((text, status)) => match io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::from(status),
            Err(error) => {
                print::err(format_args!("tsmc: cannot write to standard output: {error}"));
                ExitCode::FAILURE
            }
        },
        Err(refusal) => {
            print::err(format_args!("tsmc: {refusal}"));
            match refusal {
                Refusal::AgentRefuses { .. } | Refusal::Key(_) => ExitCode::from(CONFIGURATION),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

impl Command {
    /// Does it; what to print, and the exit status.
    fn run(self) -> Result<(String, u8), Refusal> {
        let text = match self {
            Self::Migrate(migrate) => return Ok((String::new(), migrate.run()?.status())),
            Self::CheckArrival => check_arrival(),
            Self::Status { json: false } => status::table(&mut Xenstore::connect()?),
            Self::Status { json: true } => status::json(&mut Xenstore::connect()?),
            Self::Cancel { session } => cancel(&session),
            Self::Recover { domain, .. } => recover::recover(&mut Xenstore::connect()?, domain),
            Self::Discard { domain, .. } => recover::discard(&mut Xenstore::connect()?, domain),
            Self::Lockdown(lockdown) => lockdown.apply(),
            Self::Keygen { name, out } => keygen(&name, &out),
            Self::Module { files } => {
                let files = files.files();
                files.write_module()?;
                Ok(format!("{} is for one start of the agent\n", files.module.display()))
            }
            Self::Watch { files, card, config } => {
                let files = files.composes().then(|| files.files());
                let Err(refusal) = Watch { config: &config, card: card.as_deref(), files }.run();
                Err(refusal)
            }
        }?;
        Ok((text, 0))
    }
}

/// What is in the way of a guest, a line each.
fn check_arrival() -> Result<String, Refusal> {
    let needs = Needs::from_json(&io::read_to_string(io::stdin())?).ok_or(Refusal::Needs)?;
    Ok(needs.missing(&mut Xenstore::connect()?)?.iter().map(|line| format!("{line}\n")).collect())
}

fn keygen(name: &str, file: &Path) -> Result<String, Refusal> {
    let line = identity::generate(name, file)?;
    print::err(format_args!(
        "the private key is in {}; the line below belongs into the list of peers of each other host",
        file.display()
    ));
    Ok(line)
}

fn cancel(name: &str) -> Result<String, Refusal> {
    let mut store = Xenstore::connect()?;
    let agent = Agent::find(&mut store)?;
    let known = agent.sessions(&mut store)?;
    let Some(id) = known.into_iter().find(|id| id.as_str() == name) else {
        return Err(Refusal::NoSession(name.into()));
    };
    Session { agent, id }.cancel(&mut store)?;
    Ok(format!("asked the agent to give up {name}; 'tsmc status' shows when it has\n"))
}
