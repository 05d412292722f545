//! The tests on real Xen: `tests-qemu test`. They share two hosts, which are booted afresh after a test that failed.
//! [`Choice`] says which of them run.

mod adoption;
mod brake;
mod cards;
mod choice;
mod crossings;
mod faults;
mod figures;
mod fixture;
mod image;
mod loss;
mod operator;
mod path;
mod policies;
#[cfg(test)]
mod policy;
mod processor;
mod refusals;
#[cfg(test)]
mod reliability;
mod sealing;
mod security;
mod shutout;
mod watchdog;

use std::time::Instant;

use anyhow::Result;

use crate::artifacts::programs::Build;
use crate::artifacts::{Artifacts, debian_13};
use crate::nic::Nic;
use crate::paths::Paths;
use crate::qemu::HostSize;
pub use choice::Choice;
use fixture::Fixture;

/// A test: its name states the fact it holds.
struct Test {
    name: &'static str,
    run: fn(&mut Fixture) -> Result<()>,
}

/// The tests of migrations as they should be, in the order in which they disturb each other least: those with guests of their own come
/// first, then those that share one.
const TESTS: &[Test] = &[
    Test { name: "image_passes_its_self_test", run: image::passes_its_self_test },
    Test { name: "image_takes_its_address_from_dhcp", run: image::takes_its_address_from_dhcp },
    Test { name: "image_serves_within_two_seconds", run: image::serves_within_two_seconds },
    Test { name: "destroyed_guest_says_whether_it_ran", run: adoption::destroyed_guest_says_whether_it_ran },
    Test { name: "memory_of_a_guest_that_left_is_cleared", run: adoption::freed_memory_is_cleared },
    Test { name: "dom0_reads_ordinary_guests_but_no_private_one", run: image::dom0_reads_no_private_guest },
    Test { name: "demo_guest_crosses_in_three_stages", run: crossings::demo },
    Test { name: "guest_with_two_vcpus_crosses", run: crossings::two_vcpus },
    Test { name: "guest_crosses_by_stock_xl", run: crossings::stock },
    Test { name: "figures_of_a_bench_agree", run: figures::agree },
    Test { name: "guest_runs_on_b_while_pages_are_on_a", run: crossings::hot_working_set },
    Test { name: "lost_packets_stall_no_vcpu", run: loss::stalls_no_vcpu },
    Test { name: "guest_crosses_by_precopy", run: crossings::precopy },
    Test { name: "guest_crosses_over_ssh", run: crossings::over_ssh },
    Test { name: "guest_stays_when_the_policy_forbids", run: refusals::no_permission },
    Test { name: "guest_crosses_there_and_back_by_cards_of_the_agents_own", run: cards::there_and_back },
    Test { name: "guest_stays_when_the_target_has_no_memory", run: refusals::no_memory },
    Test { name: "guest_stays_when_its_grant_table_is_too_long", run: refusals::no_room_for_grants },
    Test { name: "operator_sees_and_cancels_a_migration", run: operator::status_and_cancel },
    Test {
        name: "tsmc_migrate_looks_ahead_and_tells_the_outcome",
        run: faults::command::looks_ahead_and_tells_the_outcome,
    },
    Test { name: "guest_stays_when_the_peer_has_no_agent", run: refusals::no_agent },
    Test { name: "guest_crosses_to_its_own_host", run: crossings::to_its_own_host },
    Test { name: "guest_stays_when_the_agents_are_strangers", run: security::strangers_are_refused },
    Test { name: "watchdog_restarts_an_agent_and_says_why", run: watchdog::keeps_an_agent },
    Test { name: "guest_crosses_there_and_back_on_a_stock_xen", run: faults::lent::there_and_back },
];

/// Hosts and agents of other kinds. They take long: an ordinary run draws one.
const HOSTS: &[Test] = &[
    Test { name: "guest_crosses_through_a_network_driver_domain", run: cards::through_a_driver_domain },
    Test {
        name: "watchdog_replaces_an_agent_with_a_card_at_once",
        run: watchdog::replaces_an_agent_with_a_card_at_once,
    },
    Test { name: "card_of_an_agent_is_taken_away_and_given_back", run: cards::away_and_back },
    Test { name: "agent_takes_its_card_or_else_its_vif", run: cards::choice },
    Test { name: "guest_stays_when_the_target_lacks_a_feature", run: processor::older_one_takes_no_guest },
    Test { name: "guest_stays_whatever_dies_before_the_commit_on_a_stock_xen", run: faults::lent::before_the_commit },
    Test { name: "guest_crosses_between_a_stock_xen_and_one_with_flask", run: faults::lent::between_kinds },
    Test { name: "guest_crosses_whatever_its_grant_table_is_like_on_a_stock_xen", run: faults::lent::tables },
    Test { name: "guest_crosses_from_debian_12_to_debian_13_and_not_back", run: faults::lent::to_a_newer_xen },
    Test { name: "guest_crosses_there_and_back_on_debian_13", run: faults::lent::there_and_back_on_debian_13 },
    Test { name: "guest_stays_where_silo_forbids_grants", run: faults::lent::silo },
    Test { name: "one_guest_runs_wherever_the_two_step_breaks_on_a_stock_xen", run: faults::lent::two_step_broken },
    Test { name: "image_seals_by_the_instructions_that_it_finds", run: processor::seals_by_instruction },
];

/// So many of the slowest tests are named at the end.
const SLOWEST: usize = 10;

/// Runs the chosen tests; returns the exit status.
pub fn run(paths: &Paths, build: Build, name: Option<&str>, size: HostSize, nic: Nic, choice: &Choice) -> Result<u8> {
    let tests = choice.tests(&paths.workspace);
    let artifacts = Artifacts::prepare(paths, build)?;
    artifacts.build_images(paths, build)?;
    debian_13::prepare_for(paths, &size)?;
    if tests.iter().any(|test| test.name.contains("debian_13")) {
        debian_13::prepare(paths)?;
    }
    let mut fixture = Fixture::new(paths, artifacts, name, size, nic);
    let (mut failed, mut times) = (Vec::new(), Vec::new());
    println!("running {} tests on real Xen", tests.len());
    let begun = Instant::now();
    for test in &tests {
        println!("\n---- {}", test.name);
        let started = Instant::now();
        let result = (test.run)(&mut fixture).and_then(|()| fixture.assert_clean());
        let seconds = started.elapsed().as_secs_f64();
        times.push((seconds, test.name));
        match result {
            Ok(()) => println!("test {} ... ok ({seconds:.1} s)", test.name),
            Err(error) => {
                println!("{}", fixture.evidence(test.name));
                println!("test {} ... FAILED ({seconds:.1} s)\n    {error:#}", test.name);
                failed.push(test.name);
                fixture.spoil();
            }
        }
    }
    println!("\nthe slowest:");
    times.sort_by(|one, other| other.0.total_cmp(&one.0));
    times.iter().take(SLOWEST).for_each(|(seconds, name)| println!("{seconds:8.1} s  {name}"));
    for name in &failed {
        println!("failed: {name}");
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s",
        tests.len() - failed.len(),
        failed.len(),
        all().count() - tests.len(),
        begun.elapsed().as_secs_f64()
    );
    Ok(u8::from(!failed.is_empty()))
}

/// All tests.
fn all() -> impl Iterator<Item = &'static Test> {
    TESTS.iter().chain(HOSTS).chain(faults::all()).chain(faults::POLICY)
}

/// The names of all tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    all().map(|test| test.name)
}
