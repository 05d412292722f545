//! Which tests run. The faults take long, so an ordinary run has all of the core, and what a seed draws: a few faults, and
//! hosts of one other kind.

use std::path::Path;

use clap::{Args, ValueEnum};

use super::{HOSTS, TESTS, Test, all, faults};
use crate::command::{command, run};

/// The tests to run.
#[derive(Args, Clone, Debug)]
pub struct Choice {
    /// Parts of names: run the tests, of any group, whose name contains one of them.
    pub filters: Vec<String>,
    /// Run all tests of this group, and no others.
    #[arg(long, value_enum)]
    pub group: Option<Group>,
    /// How many faults to draw when no group is asked for.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub sample: usize,
    /// What draws them. The default is made of the commit that is checked out.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// A group of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Migrations as they should be, refusals, and what operators do.
    Core,
    /// Other network interfaces and processors.
    Hosts,
    /// Something breaks: every fault in every phase.
    Faults,
    /// dom0 attacks; the agent's permissions are taken away, one by one.
    Policy,
}

impl Choice {
    /// The tests, in order; says how to repeat what was drawn.
    pub(super) fn tests(&self, workspace: &Path) -> Vec<&'static Test> {
        if !self.filters.is_empty() {
            return all()
                .filter(|test| self.filters.iter().any(|filter| test.name.contains(filter.as_str())))
                .collect();
        }
        match self.group {
            Some(Group::Core) => TESTS.iter().collect(),
            Some(Group::Hosts) => HOSTS.iter().collect(),
            Some(Group::Faults) => faults::all().collect(),
            Some(Group::Policy) => faults::POLICY.iter().collect(),
            None => {
                let seed = self.seed.unwrap_or_else(|| seed_of_commit(workspace));
                let drawn = draw(faults::TESTS, self.sample, seed);
                println!(
                    "{} of {} faults, drawn by seed {seed}; again: cargo run -p tests-qemu -- test --sample {} --seed {seed}",
                    drawn.len(),
                    faults::TESTS.len(),
                    self.sample
                );
                TESTS.iter().chain(draw(HOSTS, 1, seed)).chain(drawn).collect()
            }
        }
    }
}

/// A number for the commit that is checked out: a run of it is repeated by doing the same again.
fn seed_of_commit(workspace: &Path) -> u64 {
    let commit = run(command("git", ["rev-parse", "HEAD"]).current_dir(workspace)).unwrap_or_default();
    // Sources without their history have one seed for ever.
    commit.get(..15).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default()
}

/// `count` of `tests`, in their order.
fn draw<T>(tests: &[T], count: usize, seed: u64) -> Vec<&T> {
    let mut state = seed;
    let mut keyed: Vec<(u64, usize)> = (0..tests.len()).map(|index| (next(&mut state), index)).collect();
    keyed.sort_unstable();
    let mut drawn: Vec<usize> = keyed.into_iter().take(count).map(|(_, index)| index).collect();
    drawn.sort_unstable();
    drawn.into_iter().map(|index| &tests[index]).collect()
}

/// The next number of SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::draw;

    #[test]
    fn a_seed_draws_the_same_again_and_another_something_else() {
        let tests: Vec<u32> = (0..40).collect();
        let drawn = draw(&tests, 6, 1);
        assert_eq!(drawn.len(), 6);
        assert!(drawn.is_sorted() && drawn.iter().collect::<std::collections::BTreeSet<_>>().len() == 6);
        assert_eq!(drawn, draw(&tests, 6, 1));
        assert_ne!(drawn, draw(&tests, 6, 2));
        assert_eq!(draw(&tests, 99, 3).len(), 40);
    }
}
