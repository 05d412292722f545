//! Who an agent is, and whom it trusts.

use anyhow::{Result, ensure};

use super::crossings::cross;
use super::fixture::Fixture;
use super::refusals::assert_refused;
use crate::mode::Mode;
use crate::network::PLACES;
use crate::scenario::keys::Channel;

/// A key that is not in the list, on either side, and a mode that is not the other's: the guest stays, and `xl` says why. Agents that are
/// both plain migrate, and say that they are.
pub fn strangers_are_refused(fixture: &mut Fixture) -> Result<()> {
    let (guest, way) = fixture.take_guest()?;
    let (everybody, only_source, only_target) = (&PLACES[..], &[*way.0][..], &[*way.1][..]);
    let (sealed, plain) = (Channel::Sealed, Channel::Plain);
    for (source, target, words) in [
        ((sealed, everybody), (sealed, only_target), ["a key that is not in", "list"]),
        ((sealed, only_source), (sealed, everybody), ["a key that is not in", "list"]),
        ((sealed, everybody), (plain, everybody), ["the other host's agent encrypts", "'plain'"]),
    ] {
        fixture.start_agents_as(way, source, target)?;
        assert_refused(fixture, &guest, way, &words)?;
    }
    fixture.start_agents_as(way, (plain, everybody), (plain, everybody))?;
    let report = cross(fixture, Mode::TSMC, &|_, _| ())?;
    ensure!(report.channel.as_deref() == Some("plain"), "the report says {:?}", report.channel);
    let status = fixture.hosts()?.dom0(way.1).run(&["tsmc", "status"])?.text();
    ensure!(status.contains("PLAIN"), "tsmc status does not say that the agent is plain:\n{status}");
    fixture.drop_agents()
}
