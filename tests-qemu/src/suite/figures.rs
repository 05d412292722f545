//! A bench in small: its figures are there and agree with each other. How fast anything was is not its business.

use anyhow::{Context, Result, ensure};

use super::crossings::assert_held;
use super::fixture::Fixture;
use crate::bench::figures::{self, Figure};
use crate::bench::plan::{Experiment, Load, Series};
use crate::bench::processor;
use crate::bench::record::Run;
use crate::mode::Mode;
use crate::scenario::keys::Channel;

/// The guest of the smallest size; its pages.
const MEMORY_MB: u32 = 128;
const PAGES: f64 = MEMORY_MB as f64 * 256.0;
/// How far what the bridge counted may be from what the agents did, headers and acknowledgements included.
const WITHIN: f64 = 0.05;

/// One guest, two modes.
pub fn agree(fixture: &mut Fixture) -> Result<()> {
    let experiment = Experiment { stream: true, ..Experiment::new(MEMORY_MB, Load::Low) };
    for (mode, channel) in [(Mode::Xl, Channel::Plain), (Mode::TSMC, Channel::Sealed)] {
        let run = fixture.measure(&experiment, Series::new(mode, channel))?;
        assert_held(&run.report)?;
        let of = |figure: &Figure| (figure.of)(&run).with_context(|| format!("{mode}: no figure: {}", figure.name));
        for figure in [&figures::TOTAL, &figures::DOWNTIME, &figures::WIRE, &figures::DOM0_A, &figures::STREAM] {
            ensure!(of(figure)? > 0.0, "{mode}: nothing counted: {}", figure.name);
        }
        ensure!(
            of(&figures::DOWNTIME)? < of(&figures::TOTAL)? * 1e3,
            "{mode}: the guest was away for longer than it took"
        );
        let sent = of(&figures::PAGES)?;
        ensure!(sent > PAGES * 0.95 && sent < PAGES * 3.0, "{mode}: {sent} pages of a guest with {PAGES}");
        if mode == Mode::TSMC {
            agents_agree_with_the_bridge(&run)?;
            looks_agree_with_xen(&run)?;
        }
    }
    Ok(())
}

/// Looking at the processors shows about what Xen's own account has for the agents.
fn looks_agree_with_xen(run: &Run) -> Result<()> {
    let cpu = &run.report.cpu_seconds;
    let total = figures::total_s(run).context("no total time")?;
    ensure!(run.seen.processors.len() == 2, "nobody looked at the processors");
    for (looks, xen) in run.seen.processors.iter().zip([cpu.agent_a, cpu.agent_b]) {
        let [agent, xen_for_it, ..] = processor::seconds(&looks.users(), 0.0, total);
        let (seen, xen) = (agent + xen_for_it, xen.context("Xen counts seconds")?);
        println!("Xen's account of the agent: {xen:.1} s, seen: {seen:.1} s");
        ensure!((xen / 2.0..xen * 2.0).contains(&seen), "Xen's account of the agent: {xen:.1} s, seen: {seen:.1} s");
    }
    Ok(())
}

fn agents_agree_with_the_bridge(run: &Run) -> Result<()> {
    let bridge = run.report.wire_bytes.context("the bridge counts bytes")? as f64;
    let agents = run.report.bytes_sent() as f64;
    println!("the bridge counted {bridge} bytes, the agents {agents}");
    ensure!((bridge / agents - 1.0).abs() <= WITHIN, "the bridge counted {bridge} bytes, the agents {agents}");
    // Without a fault nobody knows how long one took; a busy machine may answer nobody for longer than the switch takes;
    // a fast one arms in no time.
    let unknown = figures::ALL.iter().filter(|figure| (figure.of)(run).is_none());
    let unknown = unknown.map(|figure| figure.name);
    let may_be_unknown = ["fault ", "silent ", "target: arms"];
    let unknown: Vec<&str> =
        unknown.filter(|name| !may_be_unknown.iter().any(|start| name.starts_with(start))).collect();
    ensure!(unknown.is_empty(), "no figure: {}", unknown.join(", "));
    let states = ["source copying", "source suspend", "source committed", "target complete"];
    let unseen: Vec<&str> = states.into_iter().filter(|state| run.seen.reached(state).is_none()).collect();
    ensure!(unseen.is_empty(), "nobody saw: {}", unseen.join(", "));
    Ok(())
}
