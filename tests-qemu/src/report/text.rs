//! A report for a person to read.

use std::fmt::{self, Display, Formatter};

use super::{CpuSeconds, Report, Stage};

const STAGE_NAMES: [&str; 3] = ["full copy", "switch", "dirty copy"];

impl Display for Report {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let guest = &self.guest;
        let channel = self.channel.as_ref().map(|channel| format!(", {channel},")).unwrap_or_default();
        write!(f, "{}{channel} of a guest with {} MB, {} vCPU", self.mode, guest.memory_mb, guest.vcpus)?;
        write!(f, ", writing {} pages/s over {} MB", count(guest.dirty_rate), guest.dirty_mb)?;
        match self.link_mbit {
            Some(limit) => writeln!(f, ", link of {limit} Mbit/s")?,
            None => writeln!(f)?,
        }
        let xl = self.xl_ms.map(|time| format!("   xl returned after {}", seconds(time))).unwrap_or_default();
        line(f, "total", format_args!("{}{xl}", known(self.total_ms.map(seconds))))?;
        match (&self.probe, self.downtime_ms) {
            (Some(probe), _) => line(f, "downtime", format_args!("{probe}, measured from outside"))?,
            (None, Some(downtime)) => line(f, "downtime", format_args!("{downtime:.0} ms"))?,
            (None, None) => {}
        }
        self.stages(f)?;
        self.page_lines(f)?;
        if let Some(bytes) = self.wire_bytes {
            line(f, "on the wire", format_args!("{}", megabytes(bytes)))?;
        }
        line(f, "CPU seconds", format_args!("{}", self.cpu_seconds))?;
        if let Some(check) = &self.guest_check {
            let pages = count(check.pages);
            line(f, "guest's memory", format_args!("{pages} pages read after it, {} wrong", check.errors))?;
        }
        if let Some(after) = &self.guest_after {
            let (gap, gaps) = (after.longest_gap_ms, after.gaps_over_50ms);
            line(f, "guest's view", format_args!("longest pause {gap} ms, {gaps} over 50 ms"))?;
        }
        if !self.versions.is_empty() {
            let versions: Vec<String> =
                self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
            line(f, "versions", format_args!("{}", versions.join(", ")))?;
        }
        for claim in &self.claims {
            writeln!(f, "  {} {}", if claim.held { "[ok]  " } else { "[FAIL]" }, claim.what)?;
        }
        Ok(())
    }
}

impl Report {
    fn stages(&self, f: &mut Formatter) -> fmt::Result {
        for stage in &self.stages {
            let name = STAGE_NAMES.get(usize::from(stage.stage).wrapping_sub(1)).unwrap_or(&"");
            line(f, &format!("{} {name}", stage.stage), format_args!("{stage}"))?;
        }
        if let Some(switch) = &self.switch {
            let (suspend, capture, load) = (switch.suspend_ms, switch.capture_ms, switch.load_ms);
            let what = format_args!("suspend {suspend} ms, capture {capture} ms, load {load} ms");
            line(f, "in the switch", what)?;
        }
        Ok(())
    }

    fn page_lines(&self, f: &mut Formatter) -> fmt::Result {
        if let Some(pages) = &self.pages {
            let [total, zero, dirty, hints, early, late, pushed, prepulled] = [
                pages.total,
                pages.zero,
                pages.dirty_at_switch,
                pages.hints,
                pages.armed_early,
                pages.armed_switch,
                pages.pushed,
                pages.prepull_sent,
            ]
            .map(count);
            let most = pages.most_sends;
            line(
                f,
                "pages",
                format_args!("{total}, {zero} zero, {dirty} dirty at the switch, each sent {most} times at most"),
            )?;
            line(f, "armed", format_args!("{early} early (hints: {hints}), {late} in the switch"))?;
            let rate = (pages.prepull_hits * 100).checked_div(pages.prepull_sent);
            let hits = rate.map(|percent| format!(" ({percent} % wanted)")).unwrap_or_default();
            line(f, "stage 3 by", format_args!("push {pushed}, prepull {prepulled}{hits}"))?;
        }
        if let Some(faults) = &self.faults {
            let [p50, p99, max] = [faults.p50_us, faults.p99_us, faults.max_us].map(microseconds);
            line(f, "faults", format_args!("{}, served in p50 {p50}, p99 {p99}, max {max}", count(faults.count)))?;
        }
        if let Some(verified) = &self.verified {
            let [equal, differing, spared] = [verified.pages, verified.differing, verified.spared].map(count);
            let (stopped, compared) = (verified.stopped_ms, verified.compared_ms);
            let what = format_args!(
                "{equal} equal, {differing} differing, {spared} spared; {stopped} ms of the downtime, {compared} ms to compare"
            );
            line(f, "verified", what)?;
        }
        Ok(())
    }
}

impl Display for Stage {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let rate = self.bytes as f64 / 1e3 / self.ms.max(1) as f64;
        write!(f, "{}   {} pages, {}, {rate:.1} MB/s", seconds(self.ms), count(self.pages), megabytes(self.bytes))
    }
}

impl Display for CpuSeconds {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let all =
            [("dom0 A", self.dom0_a), ("agent A", self.agent_a), ("dom0 B", self.dom0_b), ("agent B", self.agent_b)];
        let known = all.into_iter().filter_map(|(who, seconds)| Some(format!("{who} {:.1}", seconds?)));
        f.write_str(&known.collect::<Vec<_>>().join(", "))
    }
}

fn line(f: &mut Formatter, name: &str, what: fmt::Arguments) -> fmt::Result {
    writeln!(f, "  {name:<14} {what}")
}

fn known(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

fn seconds(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{:.1} s", ms as f64 / 1e3) }
}

fn microseconds(us: u64) -> String {
    if us < 1000 { format!("{us} us") } else { format!("{:.1} ms", us as f64 / 1e3) }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A number with its thousands apart.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn the_summary_reads_as_it_should() {
        let mut report = example();
        report.claim_the_usual();
        let expected = "\
tsmc, sealed, of a guest with 256 MB, 1 vCPU, writing 2,000 pages/s over 64 MB
  total          12.3 s   xl returned after 9.9 s
  downtime       300 ms (1470 of 1500 probes answered), measured from outside
  1 full copy    8.0 s   64,000 pages, 180.2 MB, 22.5 MB/s
  2 switch       250 ms   40 pages, 0.2 MB, 0.7 MB/s
  3 dirty copy   900 ms   1,496 pages, 6.1 MB, 6.8 MB/s
  in the switch  suspend 90 ms, capture 60 ms, load 100 ms
  pages          65,536, 20,000 zero, 1,536 dirty at the switch, each sent 2 times at most
  armed          1,200 early (hints: 1,500), 336 in the switch
  stage 3 by     push 900, prepull 400 (62 % wanted)
  faults         196, served in p50 1.2 ms, p99 8.1 ms, max 22.0 ms
  verified       65,530 equal, 0 differing, 6 spared; 950 ms of the downtime, 700 ms to compare
  CPU seconds    dom0 A 2.2, agent A 5.1, dom0 B 3.0
  guest's memory 16,384 pages read after it, 0 wrong
  guest's view   longest pause 0 ms, 0 over 50 ms
  versions       agent 0.1.0, xen 4.17.5
  [ok]   every page the guest owns is as it was written (16384 read)
  [ok]   the guest went on with its work
  [ok]   the guest's network answers
  [ok]   both hosts had the same memory at the switch
  [ok]   no page was sent more than twice
";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn a_migration_without_agents_shows_only_what_is_known() {
        let report = Report { mode: "xl".to_owned(), total_ms: Some(21_000), ..Report::default() };
        let text = report.to_string();
        assert!(text.contains("total          21.0 s\n"), "{text}");
        assert!(!text.contains("faults") && !text.contains("stage"), "{text}");
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }
}
