//! Packets get lost while the guest runs on B and its pages are on A.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use common::control::{State, Summary};

use super::brake::Brake;
use super::crossings::cross;
use super::fixture::Fixture;
use crate::mode::Mode;
use crate::trouble::{Between, Trouble};
use tests_qemu::report::Report;

/// Packets of a thousand that get lost. A packet of the agents has up to 64 KiB here: in a migration there are few.
const LOST: u32 = 20;
/// What the link carries from stage 1 on: it is to lose packets, not to take long; and where agents copy as fast as they can, a
/// guest that shares their only processor dirties too little for stage 3 to last until it runs.
const LINK_MBIT: u32 = 32;
/// What TCP takes to send a packet once more, at least: no virtual CPU may wait for that.
const TCP_WAITS_US: u64 = 1_000_000;

/// Whether the agents' datagrams get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Datagrams {
    Pass,
    AreDenied,
}

/// Where TCP waits for its timer, datagrams bring what the guest waits for.
pub fn stalls_no_vcpu(fixture: &mut Fixture) -> Result<()> {
    let report = cross_with_losses(fixture, Datagrams::Pass)?;
    let longest = report.faults.as_ref().context("the agents counted no faults")?.max_us;
    ensure!(longest < TCP_WAITS_US, "a virtual CPU waited for {longest} us");
    ensure!(report.target.rescued > 0, "no datagram brought a page");
    Ok(())
}

/// A firewall that lets no datagram through makes faults slow where packets are lost, and nothing wrong.
pub fn is_survived_without_datagrams(fixture: &mut Fixture) -> Result<()> {
    let report = cross_with_losses(fixture, Datagrams::AreDenied)?;
    ensure!(report.target.rescued == 0, "datagrams passed");
    Ok(())
}

/// The shared guest crosses over a link that is slow, and loses packets from the commit on, until half of stage 3 is done. Datagrams
/// that are denied are denied to the end, and packets lost.
fn cross_with_losses(fixture: &mut Fixture, datagrams: Datagrams) -> Result<Report> {
    let namespace = fixture.hosts()?.run.namespace.clone();
    let brake = Brake::to(&namespace, LINK_MBIT);
    let trouble = Mutex::new(None);
    let report = cross(fixture, Mode::TSMC, &|source, target| {
        if matches!(source.state, Some(State::Copying | State::Suspend | State::Committed)) {
            brake.pull();
        }
        let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let half = target.progress.is_some_and(|progress| progress.stage == 3 && progress.done * 2 > progress.total);
        match &mut *trouble {
            None if source.state == Some(State::Committed) => {
                let begun = match datagrams {
                    Datagrams::Pass => Trouble::lose(&namespace, Between::Agents, LOST),
                    Datagrams::AreDenied => Trouble::lose_and_deny_datagrams(&namespace, LOST),
                };
                *trouble = Some(begun.map(Some));
            }
            Some(Ok(losing)) if half => {
                if datagrams == Datagrams::Pass {
                    *losing = None;
                }
                brake.release();
            }
            _ => {}
        }
    })?;
    let trouble = trouble.into_inner().unwrap_or_else(PoisonError::into_inner);
    drop(trouble.context("the packets were never lost: nobody saw the commit")??);
    let faults = report.faults.as_ref().context("the agents counted no faults")?;
    let Summary { rescue_rtt_us, rescued, rescue_asked, .. } = report.target;
    println!(
        "datagrams {datagrams:?}, {LOST} of 1000 packets lost: {} faults, us: p50 {}, p99 {}, longest {}; round trip {rescue_rtt_us} us; \
         {rescued} rescued, {rescue_asked} asked for by datagram",
        faults.count, faults.p50_us, faults.p99_us, faults.max_us
    );
    ensure!(faults.count > 0, "no fault was served");
    Ok(report)
}
