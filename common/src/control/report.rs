//! Progress and the figures of a whole migration.

use core::fmt;
use core::str::FromStr;

use crate::line::{Line, ParseError};

/// How far a stage is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// 1, 2 or 3.
    pub stage: u8,
    /// The round, when a pre-copy iterates.
    pub round: Option<u32>,
    /// Stage 1: pages looked at. Stage 3: dirty pages that have arrived.
    pub done: u64,
    /// The same, when the stage is over.
    pub total: u64,
    /// Bytes sent or received in this stage.
    pub bytes: u64,
    /// KiB per second, since the last report.
    pub rate_kib: u64,
    /// Stage 3, at the target: faults met so far.
    pub faults: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stage={}", self.stage)?;
        if let Some(round) = self.round {
            write!(f, " round={round}")?;
        }
        let Self { done, total, bytes, rate_kib, faults, .. } = self;
        write!(f, " done={done} total={total} bytes={bytes} rate_kib={rate_kib} faults={faults}")
    }
}

impl FromStr for Progress {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let line = Line::new(text);
        Ok(Self {
            stage: line.field("stage")?,
            round: line.optional("round")?,
            done: line.field("done")?,
            total: line.field("total")?,
            bytes: line.field("bytes")?,
            rate_kib: line.field("rate_kib")?,
            faults: line.optional("faults")?.unwrap_or(0),
        })
    }
}

/// Declares [`Summary`] and the one list of its fields that formatting and parsing walk.
macro_rules! summary {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The figures of one migration as one end saw it. A figure that the end cannot know is 0.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Summary {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Summary {
            /// Every figure with its name.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
            fn field_mut(&mut self, name: &str) -> Option<&mut u64> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)*
                    _ => None,
                }
            }
        }
    };
}

summary! {
    /// Pages of RAM that the guest has.
    pages,
    /// Pages that were zero and went as a bit, not as bytes.
    zero_pages,
    /// Pages sent in stage 1, zero pages counted.
    stage1_pages,
    /// Bytes on the connections in stage 1.
    stage1_bytes,
    /// Pages sent in stage 2, before the guest ran again.
    stage2_pages,
    /// Bytes on the connections in stage 2.
    stage2_bytes,
    /// Pages sent in stage 3.
    stage3_pages,
    /// Bytes on the connections in stage 3.
    stage3_bytes,
    /// How often the page that was sent most often was sent.
    most_sends,
    /// Pages that were already dirty when their turn came in stage 1, and left for stage 3.
    deferred,
    /// Dirty pages at the switch.
    dirty_pages,
    /// Passes over memory before the suspend (pre-copy has several).
    rounds,
    /// Pages named stale before the switch.
    hints,
    /// Pages armed while the guest still ran.
    armed_early,
    /// Pages armed in the switch.
    armed_switch,
    /// Faults that the guest or a backend met.
    faults,
    /// Median time from a fault to its page.
    fault_p50_us,
    /// 99th percentile of the same.
    fault_p99_us,
    /// Longest of the same.
    fault_max_us,
    /// Neighbours sent along with demanded pages.
    prepull_sent,
    /// Those of them that the guest wanted next.
    prepull_hits,
    /// Pages sent in the background in stage 3.
    pushed,
    /// Time of stage 1.
    stage1_ms,
    /// Time of stage 2, from asking for the suspend to the commit.
    stage2_ms,
    /// Time of stage 3.
    stage3_ms,
    /// Time from the first message of the peer to completion.
    total_ms,
    /// Within stage 2: from asking for the suspend to the toolstack's answer.
    suspend_ms,
    /// Within stage 2: from the answer to having the dirty set and the machine state.
    capture_ms,
    /// Within stage 2: from there to the target's readiness.
    load_ms,
    /// What the source spent on asking the hypervisor which pages are still write-protected.
    ask_ms,
    /// On reading pages out of the guest.
    read_ms,
    /// On telling which of them are zero, or must be there before the guest runs.
    scan_ms,
    /// On sealing records.
    seal_ms,
    /// What the target spent on opening records.
    open_ms,
    /// On allocating memory for the guest.
    populate_ms,
    /// On writing pages into the guest.
    write_ms,
    /// On making pages absent.
    arm_ms,
    /// Pages that a datagram brought, because TCP did not in time.
    rescued,
    /// How often pages were asked for by datagram.
    rescue_asked,
    /// Round trip between the agents in stage 3, as the target measured it by datagram; 0 if none came through.
    rescue_rtt_us,
    /// Datagrams of this session that were not the peer's, or made no sense.
    rescue_refused,
    /// How often the agents found each other again after the commit.
    recoveries,
    /// Source: pages that were on their way when the agents lost each other, and went again.
    resent,
    /// 1 if the agents' connections were sealed.
    sealed,
    /// Pages whose digests were told (source) or found equal (target), when the migration is verified.
    verified,
    /// Pages left out of that: a backend wrote to them after the guest had stopped.
    spared,
    /// Pages that differ from what they were at the switch, found when the guest had run already.
    differing,
    /// What verifying took: at the source, how long it kept the guest stopped; at the target, reading and comparing.
    verify_ms,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.fields().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{name}={value}")?;
        }
        Ok(())
    }
}

impl FromStr for Summary {
    type Err = ParseError;
    /// Figures that are not known here are skipped, missing ones are 0.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut summary = Self::default();
        for (name, value) in Line::new(text).pairs() {
            if let Some(field) = summary.field_mut(name) {
                *field = value.parse().map_err(|_| ParseError::Bad("figure"))?;
            }
        }
        Ok(summary)
    }
}
