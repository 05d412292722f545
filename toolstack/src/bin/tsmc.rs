//! The operator's command: what the agent of this host is doing, stopping it, and closing the host.

use std::process::ExitCode;

use toolstack::agents::{Agent, Session};
use toolstack::lockdown::Lockdown;
use toolstack::refusal::Refusal;
use toolstack::xenstore::Xenstore;
use toolstack::{recover, status};

const USAGE: &str = "\
Usage: tsmc COMMAND

  status [--json]    this host's migration agent and its sessions: stage, pages left, faults
  cancel SESSION     give up a migration that has not reached its commit; the guest stays where it is
  recover [DOMAIN]   after the agent died: hand its successor the guests that it had in hand, all or one; say what came
                     of each
  lockdown [--seal-agent] [--arrivals-only]
                     until the next boot nobody changes the security policy or reaches around it; nor, with the
                     options, starts a further agent, or builds a private guest here

Migrations are started as ever, with 'xl migrate' or libvirt.";

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
        ["lockdown", ref options @ ..] => match Lockdown::parse(options) {
            Some(lockdown) => lockdown.apply(),
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
            ExitCode::FAILURE
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
