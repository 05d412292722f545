//! The output of `tsmc migrate`: a progress bar on a terminal, lines elsewhere, JSON for programs.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use common::control::{Progress, State};
use serde_json::json;

use super::course::Snapshot;
use super::outcome::Outcome;
use crate::{print, status};

/// Cells of the bar.
const BAR: usize = 24;
/// How often lines say how far it is.
const LINES: Duration = Duration::from_secs(5);
/// How often programs are told.
const EVENTS: Duration = Duration::from_secs(1);

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Bar,
    Lines,
    Json,
}

/// The screen.
pub struct Screen {
    form: Form,
    /// A bar stands in the line.
    open: bool,
    /// The state that was shown last.
    state: Option<State>,
    /// The stage that is shown, and since when.
    stage: Option<(u8, Instant)>,
    /// When progress was said last.
    said: Option<Instant>,
}

impl Screen {
    /// For programs, or for what reads standard output: a terminal or not.
    pub fn new(json: bool) -> Self {
        let form = match (json, io::stdout().is_terminal()) {
            (true, _) => Form::Json,
            (false, true) => Form::Bar,
            (false, false) => Form::Lines,
        };
        Self { form, open: false, state: None, stage: None, said: None }
    }

    /// Shows where it stands, as far as that is news.
    pub fn show(&mut self, seen: &Snapshot) {
        if let Some(state) = seen.state.as_ref().filter(|state| self.state.as_ref() != Some(*state)) {
            self.state = Some(state.clone());
            match self.form {
                Form::Json => self.print(&json!({ "event": "state", "state": status::name(state) }).to_string()),
                _ => {
                    if let Some(line) = line_of(state) {
                        self.say(&line);
                    }
                }
            }
        }
        let Some(progress) = seen.progress.filter(|progress| progress.total > 0) else { return };
        if seen.state.as_ref().is_some_and(State::is_end) {
            return;
        }
        let now = Instant::now();
        let since = match self.stage {
            Some((stage, since)) if stage == progress.stage => since,
            _ => {
                self.stage = Some((progress.stage, now));
                now
            }
        };
        let left = remaining(&progress, now - since);
        let due = |pause| self.said.is_none_or(|said| now - said >= pause);
        match self.form {
            Form::Bar => {
                self.open = true;
                // Nothing can be done about a terminal that is gone.
                let _ = write!(io::stdout(), "\r{}\x1b[K", bar(&progress, left)).and_then(|()| io::stdout().flush());
            }
            Form::Lines if due(LINES) => {
                self.said = Some(now);
                self.print(&text(&progress, left));
            }
            Form::Json if due(EVENTS) => {
                self.said = Some(now);
                self.print(&event(&progress, left).to_string());
            }
            Form::Lines | Form::Json => {}
        }
    }

    /// Says something to people.
    pub fn say(&mut self, line: &str) {
        if self.form == Form::Json {
            print::err(line);
        } else {
            self.print(line);
        }
    }

    /// Says what came of it.
    pub fn end(&mut self, guest: &str, host: &str, outcome: &Outcome) {
        let sentence = outcome.sentence(guest, host);
        if self.form == Form::Json {
            let reason = outcome.reason();
            self.print(&json!({ "event": "end", "outcome": outcome.word(), "reason": reason }).to_string());
        } else if outcome.status() == 0 {
            self.print(&sentence);
        } else {
            self.close();
            print::err(format_args!("tsmc: {sentence}"));
        }
    }

    fn print(&mut self, line: &str) {
        self.close();
        print::out(line);
    }

    /// Takes the bar away.
    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            let _ = write!(io::stdout(), "\r\x1b[K");
        }
    }
}

/// What people must know of a new state.
fn line_of(state: &State) -> Option<String> {
    match state {
        State::Waiting { reason } => Some(format!("waiting for {reason}")),
        State::Copying => Some("stage 1: copying memory while the guest runs".into()),
        State::Suspend => Some("stage 2: suspending the guest".into()),
        State::Committed => Some("stage 3: the guest has left; what is missing follows".into()),
        State::Interrupted { reason } => Some(format!("the agents have lost each other: {reason}")),
        _ => None,
    }
}

/// Seconds that the stage may still take, if it goes on as it has since it began.
fn remaining(progress: &Progress, elapsed: Duration) -> Option<u64> {
    let left = progress.total.saturating_sub(progress.done);
    (elapsed.as_secs() >= 2 && progress.done > 0)
        .then(|| (elapsed.as_secs_f64() * left as f64 / progress.done as f64).ceil() as u64)
}

fn percent(progress: &Progress) -> u64 {
    progress.done.min(progress.total).saturating_mul(100).checked_div(progress.total).unwrap_or(0)
}

/// `45 %, 11.2 MB/s, 36040 pages left, about 12 s`.
fn text(progress: &Progress, left: Option<u64>) -> String {
    let pages = progress.total.saturating_sub(progress.done);
    let about = left.map(|seconds| format!(", about {seconds} s")).unwrap_or_default();
    let rate = progress.rate_kib as f64 / 1024.0;
    format!("stage {}: {} %, {rate:.1} MB/s, {pages} pages left{about}", progress.stage, percent(progress))
}

fn bar(progress: &Progress, left: Option<u64>) -> String {
    let full = percent(progress) as usize * BAR / 100;
    format!("[{}{}] {}", "#".repeat(full), "-".repeat(BAR - full), text(progress, left))
}

fn event(progress: &Progress, left: Option<u64>) -> serde_json::Value {
    let Progress { stage, round, done, total, bytes, rate_kib, faults } = progress;
    json!({
        "event": "progress", "stage": stage, "round": round, "done": done, "total": total, "bytes": bytes,
        "rate_kib": rate_kib, "faults": faults, "remaining_s": left,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Progress =
        Progress { stage: 1, round: None, done: 500, total: 1000, bytes: 2_048_000, rate_kib: 11_469, faults: 0 };

    #[test]
    fn progress_says_stage_percent_rate_pages_and_time() {
        let left = remaining(&HALF, Duration::from_secs(8));
        assert_eq!(text(&HALF, left), "stage 1: 50 %, 11.2 MB/s, 500 pages left, about 8 s");
        assert_eq!(bar(&HALF, None), "[############------------] stage 1: 50 %, 11.2 MB/s, 500 pages left");
        assert_eq!(event(&HALF, left)["remaining_s"], 8);
        assert_eq!(remaining(&HALF, Duration::from_millis(300)), None, "too early to say");
    }

    #[test]
    fn a_bar_is_never_longer_than_full() {
        let beyond = Progress { done: 3000, ..HALF };
        assert!(bar(&beyond, None).starts_with(&format!("[{}] ", "#".repeat(BAR))));
        assert_eq!(remaining(&beyond, Duration::from_secs(9)), Some(0));
    }
}
