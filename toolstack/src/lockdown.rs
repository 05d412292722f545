//! Taking from dom0, until the next boot, what would undo the policy: `tsmc lockdown`.
//!
//! The policy's booleans say how much (`toolstack/flask/tsmc.te`). Each takes rights that the steps before it need, so their order
//! counts: the memory of the agent's card goes before the boolean that closes the rest of the card, and the right to set booleans last.

use std::process::Command;

use clap::Args;

use crate::agents::Agent;
use crate::card::{self, Card};
use crate::refusal::Refusal;
use crate::xenstore::Xenstore;

/// What no boolean can take from dom0 has gone before this one: the memory of the agent's card.
const CARD_SEALED: &str = "tsmc_nic_sealed";

/// How much is taken, beyond the policy itself. The fields' comments are the text of `tsmc lockdown --help`.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lockdown {
    /// Keep dom0 also from starting a further agent, and from the network card of the one that runs.
    ///
    /// The price: an agent that dies is not replaced before the next boot. One that has a card of its own must be ready. dom0 can then
    /// neither use that card nor manage the PCIe ports above it, and destroying that agent takes minutes.
    #[arg(long)]
    pub seal_agent: bool,
    /// Keep dom0 also from building private guests: they can only arrive.
    #[arg(long)]
    pub arrivals_only: bool,
}

impl Lockdown {
    /// The booleans to set, in order.
    fn booleans(self, has_card: bool) -> Vec<&'static str> {
        [
            (CARD_SEALED, self.seal_agent && has_card),
            ("tsmc_agent_sealed", self.seal_agent),
            ("tsmc_arrivals_only", self.arrivals_only),
            ("tsmc_locked", true),
        ]
        .into_iter()
        .filter_map(|(name, wanted)| wanted.then_some(name))
        .collect()
    }

    /// Does it; says what holds now.
    pub fn apply(self) -> Result<String, Refusal> {
        let cards = if self.seal_agent { cards(&mut Xenstore::connect()?) } else { Ok(Vec::new()) };
        let cards = cards.map_err(|reason| Refusal::Lockdown(format!("{reason}; nothing was done")))?;
        let booleans = self.booleans(!cards.is_empty());
        let mut text = String::new();
        for (index, name) in booleans.iter().enumerate() {
            let left = || booleans[index..].join(", ");
            set(name, &cards).map_err(|reason| Refusal::Lockdown(format!("{reason}; still off: {}", left())))?;
            text.push_str(&format!("{name} is on until the next boot\n"));
        }
        if !cards.is_empty() {
            text.push_str(&format!("dom0 no longer reaches {}\n", cards.join(", ")));
        }
        Ok(text)
    }
}

/// The PCI devices of the agent that runs. Until it is ready dom0's backend touches them for it.
fn cards(store: &mut Xenstore) -> Result<Vec<String>, Refusal> {
    match Agent::find(store) {
        Ok(agent) => Ok(card::addresses(store, agent.domain)?),
        Err(refusal @ (Refusal::AgentNotReady { domain } | Refusal::AgentRefuses { domain, .. })) => {
            let cards = card::addresses(store, domain)?;
            if cards.is_empty() { Ok(cards) } else { Err(refusal) }
        }
        Err(Refusal::NoAgent) => Ok(Vec::new()),
        Err(other) => Err(other),
    }
}

/// Sets a boolean, unless it is on already, after what must go before it.
fn set(name: &str, cards: &[String]) -> Result<(), String> {
    if is_set(name)? {
        return Ok(());
    }
    if name == CARD_SEALED {
        for address in cards {
            Card::find(address)?.take()?;
        }
    }
    run("flask-set-bool", &[name, "1"])?;
    // What Xen says counts, not the tool's exit status.
    if is_set(name)? { Ok(()) } else { Err(format!("{name} does not change")) }
}

/// Whether a boolean of the running policy is on.
fn is_set(name: &str) -> Result<bool, String> {
    // It prints `tsmc_locked: 1`, or `tsmc_locked: 0 (pending 1)`; its status says nothing.
    let answer = run("flask-get-bool", &[name])?;
    value(&answer).ok_or_else(|| format!("flask-get-bool says: {}", answer.trim()))
}

fn value(answer: &str) -> Option<bool> {
    match answer.split_once(": ")?.1.split_whitespace().next()? {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// Runs one of Xen's own tools.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}, of Xen's utilities: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", arguments.join(" "), said.trim()))
}

#[cfg(test)]
mod tests {
    use common::DomId;

    use super::*;
    use crate::testing::FakeStore;

    #[test]
    fn the_right_to_set_booleans_goes_last() {
        let all = Lockdown { seal_agent: true, arrivals_only: true };
        assert_eq!(all.booleans(true), ["tsmc_nic_sealed", "tsmc_agent_sealed", "tsmc_arrivals_only", "tsmc_locked"]);
        assert_eq!(all.booleans(false), ["tsmc_agent_sealed", "tsmc_arrivals_only", "tsmc_locked"]);
        assert_eq!(Lockdown::default().booleans(true), ["tsmc_locked"]);
    }

    #[test]
    fn a_card_is_closed_only_when_its_agent_needs_dom0_no_more() {
        let (fake, mut store) = FakeStore::start();
        assert_eq!(cards(&mut store).expect("no agent"), Vec::<String>::new());
        fake.set("/local/domain/3/name", "tsmc-agent");
        assert_eq!(cards(&mut store).expect("no card"), Vec::<String>::new());
        fake.set("/local/domain/0/backend/pci/3/0/dev-0", "0000:01:00.0");
        assert!(matches!(cards(&mut store), Err(Refusal::AgentNotReady { domain: DomId(3) })));
        fake.add_agent(3);
        assert_eq!(cards(&mut store).expect("an agent with a card"), ["0000:01:00.0"]);
    }

    #[test]
    fn the_current_value_is_read() {
        assert_eq!(value("tsmc_locked: 1\n"), Some(true));
        assert_eq!(value("tsmc_locked: 0 (pending 1)\n"), Some(false));
        assert_eq!(value("no such thing"), None);
    }
}
