//! The agents' figures in a report. In `report.json` an agent's [`Summary`] is an object of its figures by name, empty if no
//! agent took part.

use std::collections::BTreeMap;

use common::control::Summary;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

use super::{Faults, Pages, Report, Stage, Switch, Verified};

impl Report {
    /// Takes over what the two agents counted: of the sending from the source, of faults and arming from the target. What the
    /// one cannot know, which it writes as 0, is taken from the other.
    pub fn set_figures(&mut self, source: Summary, target: Summary) {
        let first_known = |[first, second]: [u64; 2]| if first > 0 { first } else { second };
        let sent = |figure: fn(&Summary) -> u64| first_known([&source, &target].map(figure));
        let met = |figure: fn(&Summary) -> u64| first_known([&target, &source].map(figure));
        let stage = |stage, ms, pages, bytes| Stage { stage, ms, pages, bytes };
        let stages = [
            stage(1, sent(|of| of.stage1_ms), sent(|of| of.stage1_pages), sent(|of| of.stage1_bytes)),
            stage(2, sent(|of| of.stage2_ms), sent(|of| of.stage2_pages), sent(|of| of.stage2_bytes)),
            stage(3, sent(|of| of.stage3_ms), sent(|of| of.stage3_pages), sent(|of| of.stage3_bytes)),
        ];
        self.stages = stages.into_iter().filter(|stage| stage.ms + stage.pages + stage.bytes > 0).collect();
        self.switch = Some(Switch {
            suspend_ms: sent(|of| of.suspend_ms),
            capture_ms: sent(|of| of.capture_ms),
            load_ms: sent(|of| of.load_ms),
        });
        self.pages = Some(Pages {
            total: sent(|of| of.pages),
            zero: sent(|of| of.zero_pages),
            dirty_at_switch: sent(|of| of.dirty_pages),
            deferred: sent(|of| of.deferred),
            most_sends: sent(|of| of.most_sends),
            rounds: sent(|of| of.rounds),
            hints: sent(|of| of.hints),
            armed_early: met(|of| of.armed_early),
            armed_switch: met(|of| of.armed_switch),
            pushed: sent(|of| of.pushed),
            prepull_sent: sent(|of| of.prepull_sent),
            prepull_hits: met(|of| of.prepull_hits),
        });
        self.faults = Some(Faults {
            count: met(|of| of.faults),
            p50_us: met(|of| of.fault_p50_us),
            p99_us: met(|of| of.fault_p99_us),
            max_us: met(|of| of.fault_max_us),
        });
        self.verified = (source.verified > 0).then_some(Verified {
            pages: target.verified,
            spared: target.spared,
            differing: target.differing,
            stopped_ms: source.verify_ms,
            compared_ms: target.verify_ms,
        });
        (self.source, self.target) = (source, target);
    }
}

pub fn serialize<S: Serializer>(summary: &Summary, to: S) -> Result<S::Ok, S::Error> {
    let is_known = *summary != Summary::default();
    to.collect_map(summary.fields().filter(|_| is_known))
}

/// Figures that are not known here, as of older agents, are skipped.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Summary, D::Error> {
    let figures = BTreeMap::<String, u64>::deserialize(from)?;
    let line: String = figures.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    line.parse().map_err(D::Error::custom)
}
