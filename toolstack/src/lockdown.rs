//! Taking from dom0, until the next boot, what would undo the policy: `tsmc lockdown`.
//!
//! The policy's booleans say how much (`toolstack/flask/tsmc.te`). Setting `tsmc_locked` takes away the right to set a boolean too,
//! so it comes last.

use std::process::Command;

use crate::refusal::Refusal;

/// How much is taken, beyond the policy itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lockdown {
    /// No further agent can be started.
    pub seal_agent: bool,
    /// No private guest can be built; it can only arrive.
    pub arrivals_only: bool,
}

impl Lockdown {
    /// From the words of a command line, each option at most once.
    pub fn parse(words: &[&str]) -> Option<Self> {
        let mut lockdown = Self::default();
        for word in words {
            let option = match *word {
                "--seal-agent" => &mut lockdown.seal_agent,
                "--arrivals-only" => &mut lockdown.arrivals_only,
                _ => return None,
            };
            if std::mem::replace(option, true) {
                return None;
            }
        }
        Some(lockdown)
    }

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
        let lockdown = Lockdown::parse(&["--arrivals-only", "--seal-agent"]).expect("both options");
        let booleans: Vec<_> = lockdown.booleans().collect();
        assert_eq!(booleans, ["tsmc_agent_sealed", "tsmc_arrivals_only", "tsmc_locked"]);
        assert_eq!(Lockdown::default().booleans().collect::<Vec<_>>(), ["tsmc_locked"]);
    }

    #[test]
    fn unknown_and_repeated_options_are_refused() {
        assert_eq!(Lockdown::parse(&["--seal"]), None);
        assert_eq!(Lockdown::parse(&["--seal-agent", "--seal-agent"]), None);
    }

    #[test]
    fn the_current_value_is_read() {
        assert_eq!(value("tsmc_locked: 1\n"), Some(true));
        assert_eq!(value("tsmc_locked: 0 (pending 1)\n"), Some(false));
        assert_eq!(value("no such thing"), None);
    }
}
