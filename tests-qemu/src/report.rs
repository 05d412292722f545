//! What a migration was: `report.json`, and the summary that a person reads.
//!
//! It has three sources: what the agents counted (their [`Summary`]), what the guest's workload and the prober saw
//! ([`crate::load`], [`crate::probe`]), and what the runner measured. A figure that is not known is `null`: Xen's own helper, for
//! one, counts no pages.

mod summary;
mod text;

use std::time::Duration;

use common::control::Summary;
use serde::{Deserialize, Serialize};

use crate::load::{Check, Status};
use crate::probe::Outcome;

/// A migration from host A to host B.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// `tsmc`, `precopy`, `postcopy` or `xl`.
    pub mode: String,
    /// `sealed` or `plain`, as the agents talk to each other; nothing without agents.
    pub channel: Option<String>,
    /// The limit of the link between the hosts, when there was one.
    pub link_mbit: Option<u32>,
    /// What took part: `agent`, `xen`, `dom0_kernel`, `guest_kernel`, ... and its version; `agent_nic`, by what its packets went.
    pub versions: std::collections::BTreeMap<String, String>,
    /// The guest and its load.
    pub guest: Guest,
    /// From the start of `xl migrate` until nothing of the guest was left on A.
    pub total_ms: Option<u64>,
    /// From the start of `xl migrate` to its end.
    pub xl_ms: Option<u64>,
    /// The longest time in which the guest answered no probe.
    pub downtime_ms: Option<f64>,
    /// What that time consisted of.
    pub silence: Option<Silence>,
    /// Bytes that crossed the link between the hosts, from A to B, headers and all.
    pub wire_bytes: Option<u64>,
    /// The stages, in order; only those that took place.
    pub stages: Vec<Stage>,
    /// What the switch consisted of.
    pub switch: Option<Switch>,
    /// Pages and how they were treated.
    pub pages: Option<Pages>,
    /// What the guest waited for in stage 3.
    pub faults: Option<Faults>,
    /// What comparing all memory found, when it was asked for.
    pub verified: Option<Verified>,
    /// Processor time that the migration took.
    pub cpu_seconds: CpuSeconds,
    /// The prober's record.
    pub probe: Option<Outcome>,
    /// Reading every page of the workload, after the migration.
    pub guest_check: Option<Check>,
    /// The workload's counters before the migration.
    pub guest_before: Option<Status>,
    /// And after it.
    pub guest_after: Option<Status>,
    /// What had to hold, and whether it did.
    pub claims: Vec<Claim>,
    /// All figures of the source's agent.
    #[serde(with = "summary")]
    pub source: Summary,
    /// All figures of the target's agent.
    #[serde(with = "summary")]
    pub target: Summary,
}

/// The parts of the downtime.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Silence {
    /// Until the toolstack let the guest run on the other side.
    pub until_started_ms: f64,
    /// From there to its first answer.
    pub until_answer_ms: f64,
}

impl Silence {
    /// Of the longest outage, if the guest was started in it. `started` counts from the prober's beginning.
    pub fn of(seen: &Outcome, started: Duration) -> Option<Self> {
        let longest = seen.outages.iter().filter(|outage| outage.ended).max_by(|a, b| a.ms.total_cmp(&b.ms))?;
        let until_started_ms = started.as_secs_f64() * 1e3 - longest.at_ms;
        let until_answer_ms = longest.ms - until_started_ms;
        (until_started_ms >= 0.0 && until_answer_ms >= 0.0).then_some(Self { until_started_ms, until_answer_ms })
    }
}

/// The guest that migrates, and what it is busy with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Guest {
    /// Its memory.
    pub memory_mb: u64,
    /// Its virtual processors.
    pub vcpus: u32,
    /// Memory that its workload writes to.
    pub dirty_mb: u64,
    /// Pages that it is asked to write a second.
    pub dirty_rate: u64,
}

/// One stage of a migration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// 1: full copy, 2: switch, 3: dirty copy.
    pub stage: u8,
    /// How long it took.
    pub ms: u64,
    /// Pages sent.
    pub pages: u64,
    /// Bytes sent.
    pub bytes: u64,
}

/// The parts of stage 2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Switch {
    /// From asking for the suspend to the toolstack's answer.
    pub suspend_ms: u64,
    /// From there to having the dirty set and the machine state.
    pub capture_ms: u64,
    /// From there to the target's readiness.
    pub load_ms: u64,
}

/// Pages of the guest and how they were treated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pages {
    /// RAM of the guest.
    pub total: u64,
    /// Zero, so not sent.
    pub zero: u64,
    /// Dirty at the switch.
    pub dirty_at_switch: u64,
    /// Already dirty in stage 1, left for stage 3.
    pub deferred: u64,
    /// How often the page sent most often was sent.
    pub most_sends: u64,
    /// Passes over memory before the suspend.
    pub rounds: u64,
    /// Named stale before the switch.
    pub hints: u64,
    /// Armed while the guest still ran.
    pub armed_early: u64,
    /// Armed in the switch.
    pub armed_switch: u64,
    /// Sent in the background in stage 3.
    pub pushed: u64,
    /// Sent along with a demanded neighbour.
    pub prepull_sent: u64,
    /// Those of them that were wanted.
    pub prepull_hits: u64,
}

/// Page faults and the time each took to be served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Faults {
    /// How many.
    pub count: u64,
    /// Half took at most this long.
    pub p50_us: u64,
    /// All but one in a hundred took at most this long.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// What comparing all memory at the switch found, and what it cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// Pages that are equal.
    pub pages: u64,
    /// Pages that were not compared, since a backend wrote to them after the guest had stopped.
    pub spared: u64,
    /// Pages that differ.
    pub differing: u64,
    /// How long it kept the guest stopped.
    pub stopped_ms: u64,
    /// What the target took to read and compare.
    pub compared_ms: u64,
}

/// Processor seconds of each domain that took part, from the start of the migration to its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuSeconds {
    /// dom0 of the source.
    pub dom0_a: Option<f64>,
    /// The agent of the source.
    pub agent_a: Option<f64>,
    /// dom0 of the target.
    pub dom0_b: Option<f64>,
    /// The agent of the target.
    pub agent_b: Option<f64>,
}

/// Something that had to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// What, as a sentence.
    pub what: String,
    /// Whether it did.
    pub held: bool,
}

impl Report {
    /// Takes over what the prober saw.
    pub fn set_probe(&mut self, seen: Outcome) {
        self.downtime_ms = Some(seen.downtime_ms);
        self.probe = Some(seen);
    }

    /// Notes whether something that had to hold did.
    pub fn claim(&mut self, what: impl Into<String>, held: bool) {
        self.claims.push(Claim { what: what.into(), held });
    }

    /// Notes what has to hold of every migration, as far as it is known: call it last.
    pub fn claim_the_usual(&mut self) {
        if let Some(check) = &self.guest_check {
            let held = check.errors == 0 && check.pages > 0;
            let what = format!("every page the guest owns is as it was written ({} read)", check.pages);
            self.claim(what, held);
        }
        if let (Some(before), Some(after)) = (&self.guest_before, &self.guest_after) {
            // It counts from its start, so a guest that was started anew has a smaller count.
            let held = (after.writes > before.writes || before.rate == 0) && after.t_ms > before.t_ms;
            self.claim("the guest went on with its work", held);
        }
        if let Some(probe) = &self.probe {
            let held = probe.answers_at_end;
            self.claim("the guest's network answers", held);
        }
        if let Some(verified) = &self.verified {
            let held = verified.differing == 0 && verified.pages > 0;
            self.claim("both hosts had the same memory at the switch", held);
        }
        if let Some(pages) = self.pages.as_ref().filter(|pages| pages.rounds <= 1) {
            let held = pages.most_sends <= 2;
            self.claim("no page was sent more than twice", held);
        }
    }

    /// Whether all claims held, and there were any.
    pub fn all_held(&self) -> bool {
        !self.claims.is_empty() && self.claims.iter().all(|claim| claim.held)
    }

    /// As `report.json` has it.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|json| json + "\n")
    }

    /// Pages sent in all stages.
    pub fn pages_sent(&self) -> u64 {
        self.stages.iter().map(|stage| stage.pages).sum()
    }

    /// Bytes sent in all stages.
    pub fn bytes_sent(&self) -> u64 {
        self.stages.iter().map(|stage| stage.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn example() -> Report {
        let mut report = Report {
            mode: "tsmc".to_owned(),
            channel: Some("sealed".to_owned()),
            versions: [("agent", "0.1.0"), ("xen", "4.17.5")].map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
            guest: Guest { memory_mb: 256, vcpus: 1, dirty_mb: 64, dirty_rate: 2000 },
            total_ms: Some(12_345),
            xl_ms: Some(9_876),
            cpu_seconds: CpuSeconds { dom0_a: Some(2.25), agent_a: Some(5.1), dom0_b: Some(3.0), agent_b: None },
            guest_check: Some(Check { pages: 16_384, errors: 0, ms: 300 }),
            guest_before: Some(Status { t_ms: 5_000, writes: 10_000, ..Status::default() }),
            guest_after: Some(Status { t_ms: 17_000, writes: 30_000, ..Status::default() }),
            ..Report::default()
        };
        report.set_probe(Outcome {
            sent: 1500,
            answered: 1470,
            downtime_ms: 300.5,
            outages_over_50ms: 1,
            answers_at_end: true,
            outages: vec![crate::probe::Outage { at_ms: 9000.0, ms: 300.5, ended: true }],
            ..Outcome::default()
        });
        let source = "pages=65536 zero_pages=20000 stage1_pages=64000 stage1_bytes=180224000 stage1_ms=8000 \
                      stage2_pages=40 stage2_bytes=170000 stage2_ms=250 stage3_pages=1496 stage3_bytes=6127616 \
                      stage3_ms=900 most_sends=2 hints=1500 dirty_pages=1536 rounds=1 prepull_sent=400 pushed=900 \
                      suspend_ms=90 capture_ms=60 load_ms=100 total_ms=9200 verified=65536 verify_ms=950";
        let target = "armed_early=1200 armed_switch=336 faults=196 fault_p50_us=1200 fault_p99_us=8100 \
                      fault_max_us=22000 prepull_hits=250 stage1_bytes=1 verified=65530 spared=6 verify_ms=700";
        report.set_figures(source.parse().unwrap(), target.parse().unwrap());
        report
    }

    #[test]
    fn each_end_is_asked_for_what_it_knows() {
        let report = example();
        assert_eq!(report.stages.len(), 3);
        assert_eq!(report.stages[0], Stage { stage: 1, ms: 8000, pages: 64_000, bytes: 180_224_000 });
        assert_eq!(report.pages_sent(), 65_536);
        let (pages, faults) = (report.pages.unwrap(), report.faults.unwrap());
        assert_eq!((pages.armed_early, pages.hints, pages.prepull_hits), (1200, 1500, 250));
        assert_eq!((faults.count, faults.max_us), (196, 22_000));
    }

    #[test]
    fn the_longest_silence_has_the_start_in_it_or_says_nothing_of_it() {
        let outage = |at_ms, ms| crate::probe::Outage { at_ms, ms, ended: true };
        let seen = Outcome { outages: vec![outage(100.0, 60.0), outage(1000.0, 500.0)], ..Outcome::default() };
        let of = |ms| Silence::of(&seen, Duration::from_millis(ms));
        assert_eq!(of(1200), Some(Silence { until_started_ms: 200.0, until_answer_ms: 300.0 }));
        assert_eq!((of(900), of(1600)), (None, None));
    }

    #[test]
    fn the_json_reads_back() {
        let report = example();
        let json = report.to_json().unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        assert!(json.contains("\"downtime_ms\": 300.5"));
        assert!(json.contains("\"prepull_hits\": 250") && json.contains("\"faults\": 0"));
    }

    #[test]
    fn without_agents_there_are_no_figures_and_those_of_older_agents_are_skipped() {
        let json = Report::default().to_json().unwrap();
        assert!(json.contains("\"source\": {}") && json.contains("\"target\": {}"));
        let older = serde_json::from_str::<Report>(r#"{"source": {"of_old": 7, "pages": 9}}"#).unwrap();
        assert_eq!(older.source, Summary { pages: 9, ..Summary::default() });
    }

    #[test]
    fn one_broken_claim_spoils_it() {
        let mut report = example();
        assert!(!report.all_held(), "nothing was claimed");
        report.claim_the_usual();
        assert!(report.all_held());
        assert_eq!(report.claims.len(), 5);
        report.claim("dom0 cannot read the guest on A", false);
        assert!(!report.all_held());
    }

    #[test]
    fn a_wrong_page_a_restarted_guest_a_difference_and_a_third_send_are_noticed() {
        let mut report = example();
        report.guest_check = Some(Check { errors: 1, pages: 16_384, ms: 1 });
        report.guest_after = Some(Status { t_ms: 100, writes: 5, ..Status::default() });
        report.pages.as_mut().unwrap().most_sends = 3;
        report.verified.as_mut().unwrap().differing = 1;
        report.claim_the_usual();
        assert_eq!(report.claims.iter().filter(|claim| !claim.held).count(), 4);
    }
}
