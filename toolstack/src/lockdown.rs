//! Taking from dom0, until the next boot, what would undo the policy: `tsmc lockdown`.
//!
//! The policy's booleans say how much (`toolstack/flask/tsmc.te`). Setting `tsmc_locked` takes away the right to set a boolean too,
//! so it comes last.

use std::process::Command;

use clap::Args;

use crate::refusal::Refusal;

/// How much is taken, beyond the policy itself. The fields' comments are the text of `tsmc lockdown --help`.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lockdown {
    /// Nobody starts a further agent either.
    #[arg(long)]
    pub seal_agent: bool,
    /// Nobody builds a private guest here either: it can only arrive.
    #[arg(long)]
    pub arrivals_only: bool,
}

impl Lockdown {
    /// The booleans to set, in order.
    fn booleans(self) -> impl Iterator<Item = &'static str> {
        [("tsmc_agent_sealed", self.seal_agent), ("tsmc_arrivals_only", self.arrivals_only), ("tsmc_locked", true)]
            .into_iter()
            .filter_map(|(name, wanted)| wanted.then_some(name))
    }

    /// Does it; says what holds now.
    pub fn apply(self) -> Result<String, Refusal> {
        let mut text = String::new();
        for name in self.booleans() {
            if !is_set(name)? {
                run("flask-set-bool", &[name, "1"])?;
            }
            // What Xen says counts, not the tool's exit status.
            if !is_set(name)? {
                return Err(Refusal::Lockdown(format!("{name} is still off")));
            }
            text.push_str(&format!("{name} is on until the next boot\n"));
        }
        Ok(text)
    }
}

/// Whether a boolean of the running policy is on.
fn is_set(name: &str) -> Result<bool, Refusal> {
    // It prints `tsmc_locked: 1`, or `tsmc_locked: 0 (pending 1)`; its status says nothing.
    let answer = run("flask-get-bool", &[name])?;
    value(&answer).ok_or_else(|| Refusal::Lockdown(format!("flask-get-bool says: {}", answer.trim())))
}

fn value(answer: &str) -> Option<bool> {
    match answer.split_once(": ")?.1.split_whitespace().next()? {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// Runs one of Xen's own tools.
fn run(program: &str, arguments: &[&str]) -> Result<String, Refusal> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| Refusal::Lockdown(format!("{program}, of Xen's utilities: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Refusal::Lockdown(format!("{program} {}: {}", arguments.join(" "), said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_to_set_booleans_goes_last() {
        let booleans: Vec<_> = Lockdown { seal_agent: true, arrivals_only: true }.booleans().collect();
        assert_eq!(booleans, ["tsmc_agent_sealed", "tsmc_arrivals_only", "tsmc_locked"]);
        assert_eq!(Lockdown::default().booleans().collect::<Vec<_>>(), ["tsmc_locked"]);
    }

    #[test]
    fn the_current_value_is_read() {
        assert_eq!(value("tsmc_locked: 1\n"), Some(true));
        assert_eq!(value("tsmc_locked: 0 (pending 1)\n"), Some(false));
        assert_eq!(value("no such thing"), None);
    }
}
