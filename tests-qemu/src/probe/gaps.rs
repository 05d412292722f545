//! From probes and their answers to downtime: the longest time in which no answer arrived.
//!
//! What counts is when answers *arrive*. A probe sent while the guest was away may wait somewhere and be answered once it
//! is back; by its sending time it would hide the outage. The time before the first answer and after the last one count
//! too, so a guest that never comes back shows as an outage that has not ended.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Silence longer than this is an outage.
pub const OUTAGE: Duration = Duration::from_millis(50);
/// Only so many outages are listed, the longest: beside other work on the machine there are hundreds of short ones.
const LISTED: usize = 20;

/// An answer: to which probe, and when it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// The probe's number, from 0.
    pub probe: usize,
    /// When the answer arrived, since the prober began.
    pub at: Duration,
}

/// A time without answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// When the last answer before it arrived, since the prober began.
    pub at_ms: f64,
    /// How long no answer arrived.
    pub ms: f64,
    /// Whether an answer ended it; otherwise the prober stopped first.
    pub ended: bool,
}

/// What a prober saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// Probes sent.
    pub sent: u64,
    /// Probes answered.
    pub answered: u64,
    /// The longest time without an answer.
    pub downtime_ms: f64,
    /// How many times without an answer were longer than 50 ms.
    pub outages_over_50ms: u64,
    /// The longest of them, at most 20, in order.
    pub outages: Vec<Outage>,
    /// Whether the guest still answered when the prober stopped: its last silence was none of those.
    pub answers_at_end: bool,
    /// Half of the answers took at most this long.
    pub round_trip_p50_us: u64,
    /// All but one in a hundred took at most this long.
    pub round_trip_p99_us: u64,
    /// How many times without an answer were up to 20, 50, 100, 200, 500, 1000 ms, and longer.
    pub histogram: [u64; 7],
}

const BUCKETS_MS: [u64; 6] = [20, 50, 100, 200, 500, 1000];

/// Works out what the probes say. `sent` and `replies` are times since the beginning; the prober stopped at `end`.
pub fn outcome(sent: &[Duration], replies: &[Reply], end: Duration) -> Outcome {
    let mut answered = vec![false; sent.len()];
    let mut arrivals = Vec::with_capacity(replies.len());
    let mut round_trips = Vec::with_capacity(replies.len());
    for reply in replies {
        let Some(seen) = answered.get_mut(reply.probe) else { continue };
        if !std::mem::replace(seen, true) {
            arrivals.push(reply.at);
            round_trips.push(reply.at.saturating_sub(sent[reply.probe]));
        }
    }
    arrivals.sort_unstable();
    round_trips.sort_unstable();
    let mut seen = Outcome {
        sent: sent.len() as u64,
        answered: arrivals.len() as u64,
        round_trip_p50_us: percentile(&round_trips, 50),
        round_trip_p99_us: percentile(&round_trips, 99),
        ..Outcome::default()
    };
    let mut last = sent.first().copied().unwrap_or_default();
    for at in &arrivals {
        seen.silence(last, *at, true);
        last = *at;
    }
    seen.silence(last, end.max(last), false);
    seen.answers_at_end = seen.answered > 0 && seen.outages.last().is_none_or(|last| last.ended);
    seen.outages.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    seen.outages.truncate(LISTED);
    seen.outages.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
    seen
}

impl Outcome {
    fn silence(&mut self, from: Duration, to: Duration, ended: bool) {
        let length = to - from;
        let bucket = BUCKETS_MS.iter().position(|limit| length <= Duration::from_millis(*limit));
        self.histogram[bucket.unwrap_or(BUCKETS_MS.len())] += 1;
        self.downtime_ms = self.downtime_ms.max(ms(length));
        if length > OUTAGE {
            self.outages_over_50ms += 1;
            self.outages.push(Outage { at_ms: ms(from), ms: ms(length), ended });
        }
    }

    /// The longest outage, when there was one.
    pub fn longest(&self) -> Option<&Outage> {
        self.outages.iter().max_by(|a, b| a.ms.total_cmp(&b.ms))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:.0} ms ({} of {} probes answered", self.downtime_ms, self.answered, self.sent)?;
        match self.outages_over_50ms {
            0 | 1 => {}
            count => write!(f, ", {count} outages over 50 ms")?,
        }
        f.write_str(if self.answers_at_end { ")" } else { ", SILENT AT THE END)" })
    }
}

/// Milliseconds, to a tenth.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

fn percentile(sorted: &[Duration], percent: usize) -> u64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).map_or(0, |time| time.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Probes every 10 ms; `delay` says how long the answer to the one sent at that time takes, if it comes.
    fn probed(until: u64, delay: impl Fn(u64) -> Option<u64>) -> Outcome {
        let sent: Vec<Duration> = (0..until / 10).map(|number| at(number * 10)).collect();
        let reply = |probe: usize| {
            let time = probe as u64 * 10;
            delay(time).map(|delay| Reply { probe, at: at(time + delay) })
        };
        let replies: Vec<Reply> = (0..sent.len()).filter_map(reply).collect();
        outcome(&sent, &replies, at(until))
    }

    #[test]
    fn a_guest_that_always_answers_was_never_away() {
        let seen = probed(1000, |_| Some(1));
        assert_eq!((seen.sent, seen.answered, seen.downtime_ms), (100, 100, 10.0));
        assert!(seen.outages.is_empty() && seen.answers_at_end);
        assert_eq!((seen.round_trip_p50_us, seen.round_trip_p99_us), (1000, 1000));
    }

    #[test]
    fn downtime_is_the_longest_silence() {
        let seen = probed(2000, |time| (!(500..800).contains(&time) && !(1500..1600).contains(&time)).then_some(1));
        assert_eq!(seen.downtime_ms, 310.0);
        let expected = [(491.0, 310.0), (1491.0, 110.0)].map(|(at_ms, ms)| Outage { at_ms, ms, ended: true });
        assert_eq!(seen.outages, expected);
        assert_eq!(seen.longest(), Some(&expected[0]));
        assert_eq!(seen.histogram.iter().sum::<u64>(), seen.answered + 1);
    }

    #[test]
    fn late_answers_do_not_hide_an_outage() {
        // Sent while the guest was away, answered at once when it was back.
        let seen = probed(2000, |time| Some(if (500..800).contains(&time) { 800 - time } else { 1 }));
        assert_eq!((seen.answered, seen.downtime_ms), (200, 309.0));
    }

    #[test]
    fn a_guest_that_does_not_come_back_is_noticed() {
        let seen = probed(1000, |time| (time < 600).then_some(1));
        assert_eq!(seen.downtime_ms, 409.0);
        assert!(!seen.answers_at_end && !seen.outages[0].ended);
        assert!(!probed(1000, |_| None).answers_at_end);
    }

    #[test]
    fn the_time_before_the_first_answer_counts() {
        assert_eq!(probed(1000, |time| (time >= 400).then_some(1)).outages[0].at_ms, 0.0);
    }

    #[test]
    fn doubled_and_foreign_answers_are_ignored() {
        let replies = [(0, 1), (0, 2), (9, 3), (1, 11)].map(|(probe, time)| Reply { probe, at: at(time) });
        let seen = outcome(&[at(0), at(10)], &replies, at(20));
        assert_eq!((seen.answered, seen.downtime_ms), (2, 10.0));
    }

    #[test]
    fn of_many_outages_the_longest_are_listed() {
        // Ever longer ones: of 70, 80, ... 360 ms.
        let seen = probed(6_460, |time| (0..=30).any(|n| time == 60 * n + 5 * n * (n + 1)).then_some(1));
        assert_eq!(seen.outages_over_50ms, 30, "{seen:?}");
        assert_eq!(seen.outages.len(), 20);
        assert!(seen.outages.is_sorted_by(|a, b| a.at_ms < b.at_ms));
        assert_eq!((seen.downtime_ms, seen.longest().map(|longest| longest.ms)), (360.0, Some(360.0)));
    }

    #[test]
    fn nothing_sent_is_nothing_seen() {
        let seen = outcome(&[], &[], at(0));
        assert_eq!((seen.sent, seen.downtime_ms), (0, 0.0));
        assert!(!seen.answers_at_end);
    }
}
