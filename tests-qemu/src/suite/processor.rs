//! Hosts with another processor than all other tests have.

use anyhow::{Result, ensure};

use super::crossings::assert_held;
use super::fixture::Fixture;
use crate::mode::Mode;
use crate::qemu::Processor;
use crate::scenario::agents::AGENT_NAME;
use crate::scenario::guest::{Guest, Label};
use crate::scenario::testbed::{A, B};

/// Without AVX the agents compute GHASH by portable code, with it by instruction, and they say so. A guest crosses either way:
/// without, in all other tests.
pub fn seals_by_instruction(fixture: &mut Fixture) -> Result<()> {
    fixture.drop_agents()?;
    expect_code(fixture, "AES-NI and portable GHASH")?;
    fixture.on_other_hosts(|size| size.processor = Processor::Avx, cross_with_avx)
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
    let command = format!("grep -o 'seals with [^;]*' /var/log/xen/console/guest-{AGENT_NAME}.log | tail -n 1");
    for place in [A, B] {
        let said = fixture.testbed()?.dom0(place).sh(&command)?.text();
        println!("the agent of {} {}", place.letter, said.trim());
        ensure!(said.trim() == format!("seals with {code}"), "the agent of {} {}", place.letter, said.trim());
    }
    Ok(())
}
