//! The output of a scenario for people: one line for each event, with the time since the start.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The teller of one scenario.
pub struct Story {
    begun: Instant,
    last_progress: Mutex<String>,
}

impl Story {
    /// Starts the clock.
    pub fn new() -> Self {
        Self { begun: Instant::now(), last_progress: Mutex::default() }
    }

    /// A step of the scenario.
    pub fn say(&self, line: &str) {
        println!("{:>7.1} s  {line}", self.begun.elapsed().as_secs_f64());
    }

    /// Something below a step.
    pub fn detail(&self, line: &str) {
        self.say(&format!("  {line}"));
    }

    /// How far something is; a line that says nothing new is not repeated.
    pub fn progress(&self, line: &str) {
        let mut last = self.last_progress.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != line {
            line.clone_into(&mut last);
            self.detail(line);
        }
    }

    /// What another program said: the whole lines in `pending`, which keeps the rest.
    pub fn quote(&self, program: &str, pending: &mut String) {
        while let Some((line, rest)) = pending.split_once('\n') {
            if !line.trim().is_empty() {
                self.detail(&format!("{program}: {}", line.trim_end()));
            }
            *pending = rest.to_owned();
        }
    }
}
