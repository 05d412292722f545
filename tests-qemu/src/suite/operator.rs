//! What an operator does to a migration: looks at it, gives it up.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use common::control::State;
use tests_qemu::exec::Dom0;

use super::brake::Brake;
use super::crossings::cross;
use super::fixture::Fixture;
use super::refusals::assert_stayed;
use crate::mode::Mode;

/// `tsmc cancel` in stage 1: the guest stays. The next attempt succeeds, and `tsmc status` tells the truth all along.
pub fn status_and_cancel(fixture: &mut Fixture) -> Result<()> {
    fixture.agents()?;
    let (guest, (from, to)) = fixture.take_guest()?;
    let (source, target) = (fixture.hosts()?.dom0(from), fixture.hosts()?.dom0(to));

    let shown = Once::new();
    let outcome = fixture.migrate(&guest, (from, to), Mode::TSMC, &|session, _| {
        if session.progress.is_some_and(|progress| progress.stage == 1 && progress.done > 0) {
            shown.fill(|| {
                let status = status(&source)?;
                let session = row(&status, "out-", "copying")?.split(' ').next().unwrap_or_default();
                let cancelled = source.run(&["tsmc", "cancel", session])?;
                ensure!(cancelled.success(), "tsmc cancel: {}", String::from_utf8_lossy(&cancelled.stderr));
                Ok(status)
            });
        }
    })?;
    let shown = shown.take()?;
    let copying = row(&shown, "out-", "copying")?;
    ensure!(copying.contains(" 1 ("), "that is not stage 1");
    // Other tests' sessions may have failed on this agent too.
    let session = copying.split(' ').next().unwrap_or_default();
    assert_stayed(fixture, (from, to), &outcome, &["cannot leave", "cancelled"])?;
    ensure!(row(&status(&source)?, session, "failed")?.contains("cancelled"), "the reason is not shown");

    let shown = Once::new();
    let brake = Brake::new(&fixture.hosts()?.run.namespace);
    fixture.set_resident(from);
    cross(fixture, Mode::TSMC, &|leaving, arriving| {
        if leaving.state == Some(State::Suspend) {
            brake.pull();
        }
        if arriving.state == Some(State::Running) && arriving.progress.is_some_and(|progress| progress.stage == 3) {
            shown.fill(|| status(&target));
            brake.release();
        }
    })?;
    let shown = shown.take()?;
    ensure!(row(&shown, "in-", "running")?.contains(" 3 ("), "that is not stage 3");
    for dom0 in [&source, &target] {
        let json = dom0.run(&["tsmc", "status", "--json"])?.text();
        let json: serde_json::Value = serde_json::from_str(&json).with_context(|| format!("not JSON: {json}"))?;
        let states: Vec<&str> =
            json["sessions"].as_array().into_iter().flatten().filter_map(|s| s["state"].as_str()).collect();
        ensure!(states.contains(&"complete"), "none is complete of {states:?}");
    }
    Ok(())
}

/// What `tsmc status` prints.
fn status(dom0: &Dom0) -> Result<String> {
    let output = dom0.run(&["tsmc", "status"])?;
    ensure!(output.success(), "tsmc status: {}", String::from_utf8_lossy(&output.stderr));
    let text = output.text();
    println!("{text}");
    Ok(text)
}

/// The line of the session whose name begins like this, the state being this.
fn row<'a>(status: &'a str, name: &str, state: &str) -> Result<&'a str> {
    let state = format!(" {state} ");
    let row = status.lines().find(|line| line.starts_with(name) && line.contains(&state));
    row.with_context(|| format!("tsmc status shows no session '{name}..' that is '{state}':\n{status}"))
}

/// What was done once, while a migration was watched.
struct Once(Mutex<Option<Result<String>>>);

impl Once {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn fill(&self, look: impl FnOnce() -> Result<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(look);
    }

    fn take(self) -> Result<String> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).context("the moment to look never came")?
    }
}
