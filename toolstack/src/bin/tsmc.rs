//! The operator's command: what the agent of this host is doing, stopping it, its keys, and closing the host.

use std::path::Path;
use std::process::ExitCode;

use toolstack::agents::{Agent, Session};
use toolstack::identity::Files;
use toolstack::lockdown::Lockdown;
use toolstack::refusal::Refusal;
use toolstack::watch::Watch;
use toolstack::xenstore::Xenstore;
use toolstack::{identity, recover, status, watch};

const USAGE: &str = "\
Usage: tsmc COMMAND

  status [--json]    this host's migration agent and its sessions: stage, pages left, faults
  cancel SESSION     give up a migration that has not reached its commit; the guest stays where it is
  recover [DOMAIN]   after the agent died: hand its successor the guests that it had in hand, all or one; say what came
                     of each
  discard DOMAIN --other-host-is-gone
                     free what is kept here of a guest that has left, because the host that it went to is lost for good.
                     Should that host be there after all, its guest waits for ever for the memory that is still here
  lockdown [--seal-agent] [--arrivals-only]
                     until the next boot nobody changes the security policy or reaches around it; nor, with the
                     options, starts a further agent, or builds a private guest here
  keygen NAME [--out FILE]
                     make the key pair of this host's agent; the private key goes to FILE (/etc/tsmc/key), the line
                     that other hosts need in their list of peers is printed
  module [--key FILE] [--peers FILE] [--out FILE]
                     compose the module for one start of the agent (ramdisk= in its xl.cfg) from its key (/etc/tsmc/key),
                     the peers it trusts with guests (/etc/tsmc/peers) and a fresh seed, into FILE (/run/tsmc/module)
  watch [--key FILE] [--peers FILE] [--out FILE] [CONFIG]
                     keep the agent of CONFIG (/etc/xen/tsmc-agent.cfg) running: start it, say why it ended, start it
                     again, let it recover what was in hand; with --key or --peers compose a fresh module each time.
                     Ends with status 78 when the agent refuses its configuration

Migrations are started as ever, with 'xl migrate' or libvirt.";

/// The exit status for what will not work until somebody changes it (`EX_CONFIG`): no reason to try again.
const CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["status"] => connect().and_then(|mut store| status::table(&mut store)),
        ["status", "--json"] => connect().and_then(|mut store| status::json(&mut store)),
        ["cancel", session] => cancel(session),
        ["recover"] | ["recover", "--all"] => connect().and_then(|mut store| recover::recover(&mut store, None)),
        ["recover", domain] => match domain.parse() {
            Ok(domain) => connect().and_then(|mut store| recover::recover(&mut store, Some(domain))),
            Err(_) => return usage(),
        },
        ["discard", domain, "--other-host-is-gone"] | ["discard", "--other-host-is-gone", domain] => {
            match domain.parse() {
                Ok(domain) => connect().and_then(|mut store| recover::discard(&mut store, domain)),
                Err(_) => return usage(),
            }
        }
        ["lockdown", ref options @ ..] => match Lockdown::parse(options) {
            Some(lockdown) => lockdown.apply(),
            None => return usage(),
        },
        ["keygen", name] => keygen(name, identity::KEY_FILE),
        ["keygen", name, "--out", file] | ["keygen", "--out", file, name] => keygen(name, file),
        ["module", ref options @ ..] => match Options::parse(options) {
            Some(Options { files, config: None, .. }) => files
                .write_module()
                .map(|()| format!("{} is for one start of the agent\n", files.module.display()))
                .map_err(Refusal::from),
            _ => return usage(),
        },
        ["watch", ref options @ ..] => match Options::parse(options) {
            Some(Options { files, composes, config }) => {
                let config = Path::new(config.unwrap_or(watch::CONFIG_FILE));
                let Err(refusal) = Watch { config, files: composes.then_some(files) }.run();
                Err(refusal)
            }
            None => return usage(),
        },
        ["--help" | "-h"] => Ok(format!("{USAGE}\n")),
        ["--version" | "-V"] => Ok(format!("tsmc {}\n", env!("CARGO_PKG_VERSION"))),
        _ => return usage(),
    };
    match outcome {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(refusal) => {
            eprintln!("tsmc: {refusal}");
            match refusal {
                Refusal::AgentRefuses { .. } | Refusal::Key(_) => ExitCode::from(CONFIGURATION),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn connect() -> Result<Xenstore, Refusal> {
    Ok(Xenstore::connect()?)
}

fn keygen(name: &str, file: &str) -> Result<String, Refusal> {
    let line = identity::generate(name, Path::new(file))?;
    eprintln!("the private key is in {file}; the line below belongs into the list of peers of each other host");
    Ok(line)
}

/// What `module` and `watch` take: files that have a usual place.
#[derive(Default)]
struct Options<'a> {
    files: Files<'a>,
    /// Key or peers were named.
    composes: bool,
    config: Option<&'a str>,
}

impl<'a> Options<'a> {
    fn parse(words: &[&'a str]) -> Option<Self> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let place = match *word {
                "--key" => &mut options.files.key,
                "--peers" => &mut options.files.peers,
                "--out" => &mut options.files.module,
                file if options.config.is_none() && !file.starts_with('-') => {
                    options.config = Some(file);
                    continue;
                }
                _ => return None,
            };
            *place = Path::new(*words.next()?);
            options.composes |= *word != "--out";
        }
        Some(options)
    }
}

fn cancel(name: &str) -> Result<String, Refusal> {
    let mut store = connect()?;
    let agent = Agent::find(&mut store)?;
    let known = agent.sessions(&mut store)?;
    let Some(id) = known.into_iter().find(|id| id.as_str() == name) else {
        return Err(Refusal::NoSession(name.into()));
    };
    Session { agent, id }.cancel(&mut store)?;
    Ok(format!("asked the agent to give up {name}; 'tsmc status' shows when it has\n"))
}
