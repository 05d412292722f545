//! Who an agent is, and whom it trusts.

use anyhow::{Result, ensure};

use super::crossings::assert_held;
use super::fixture::Fixture;
use super::refusals::assert_stayed;
use crate::mode::Mode;
use crate::network::PLACES;
use crate::scenario::guest::{Guest, Label, Workload};
use crate::scenario::keys::Channel;
use crate::scenario::testbed::{A, B};

/// A key that is not in the list, on either side, and a mode that is not the other's: the guest stays, and `xl` says why. Agents that are
/// both plain migrate, and say that they are.
pub fn strangers_are_refused(fixture: &mut Fixture) -> Result<()> {
    let mut guest = Guest::demo(fixture.artifacts(), Label::Private);
    guest.memory_mib = 128;
    guest.load = Workload::new(16, 1000);
    let (everybody, only_a, only_b) = (&PLACES[..], &PLACES[..1], &PLACES[1..]);
    let (sealed, plain) = (Channel::Sealed, Channel::Plain);
    fixture.start_agents_as((sealed, everybody), (sealed, only_b))?;
    fixture.start_guest(A, &guest)?;
    for (a, b, words) in [
        (None, None, ["a key that is not in", "list"]),
        (Some((sealed, only_a)), Some((sealed, everybody)), ["a key that is not in", "list"]),
        (Some((sealed, everybody)), Some((plain, everybody)), ["the other host's agent encrypts", "'plain'"]),
    ] {
        if let (Some(a), Some(b)) = (a, b) {
            fixture.start_agents_as(a, b)?;
        }
        let outcome = fixture.migrate(&guest, (A, B), Mode::TSMC, &|_, _| ())?;
        assert_stayed(fixture, &outcome, &words)?;
    }
    fixture.start_agents_as((plain, everybody), (plain, everybody))?;
    let (_, report) = fixture.migrate(&guest, (A, B), Mode::TSMC, &|_, _| ())?;
    assert_held(&report)?;
    ensure!(report.channel.as_deref() == Some("plain"), "the report says {:?}", report.channel);
    let status = fixture.hosts()?.dom0(B).run(&["tsmc", "status"])?.text();
    ensure!(status.contains("PLAIN"), "tsmc status does not say that the agent is plain:\n{status}");
    fixture.drop_agents()
}
