//! Hosts with another processor than all other tests have.

use anyhow::{Result, ensure};

use super::crossings::assert_held;
use super::fixture::Fixture;
use super::refusals::assert_refused_early;
use crate::mode::Mode;
use crate::qemu::Processor;
use crate::scenario::agents::{self, AGENT_NAME};
use crate::scenario::guest::{Guest, Label};
use crate::scenario::testbed::{A, B};

/// Without AVX the agents compute GHASH by portable code, with it by instruction, and they say so. A guest crosses either way:
/// without, in all other tests.
pub fn seals_by_instruction(fixture: &mut Fixture) -> Result<()> {
    fixture.drop_agents()?;
    expect_code(fixture, "AES-NI and portable GHASH")?;
    fixture.on_other_hosts(|size| size.processors = [Processor::Avx; 2], cross_with_avx)
}

/// B's processor lacks a feature that a guest of A has: it is refused before its memory moves, and goes on. One of B's crosses.
pub fn older_one_takes_no_guest(fixture: &mut Fixture) -> Result<()> {
    let refused = |fixture: &mut Fixture| {
        fixture.agents()?;
        let guest = fixture.shared_guest();
        fixture.start_guest(A, &guest)?;
        assert_refused_early(fixture, &guest, (A, B), &["sse4-2", "cannot give"])?;
        fixture.end_guest()?;
        fixture.start_guest(B, &guest)?;
        let (_, report) = fixture.migrate(&guest, (B, A), Mode::TSMC, &|_, _| ())?;
        assert_held(&report)
    };
    fixture.on_other_hosts(|size| size.processors = [Processor::Plain, Processor::Older], refused)
}

fn cross_with_avx(fixture: &mut Fixture) -> Result<()> {
    expect_code(fixture, "AES-NI and PCLMULQDQ")?;
    let guest = Guest::demo(fixture.artifacts(), Label::Private);
    fixture.start_guest(A, &guest)?;
    let (_, report) = fixture.migrate(&guest, (A, B), Mode::TSMC, &|_, _| ())?;
    assert_held(&report)
}

/// Fails unless both agents, which are started here, say that they seal with `code`.
fn expect_code(fixture: &mut Fixture, code: &str) -> Result<()> {
    fixture.agents()?;
    let command = format!("grep -o 'seals with [^;]*' {} | tail -n 1", agents::console_log(AGENT_NAME));
    for place in [A, B] {
        let said = fixture.testbed()?.dom0(place).sh(&command)?.text();
        println!("the agent of {} {}", place.letter, said.trim());
        ensure!(said.trim() == format!("seals with {code}"), "the agent of {} {}", place.letter, said.trim());
    }
    Ok(())
}
