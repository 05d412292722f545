//! `tsmc migrate`: `xl migrate` with checks beforehand, a progress bar, a safe way to cancel, and a clear result.
//!
//! Nothing here moves a guest: stock `xl` does, with our save helper. This asks both hosts beforehand whether the guest can move, follows
//! the agent's session, gives the session up when the operator does, and waits until all is clear.

mod course;
mod outcome;
pub mod preflight;
mod screen;
mod xl;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use common::control::{Mode, State};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::refusal::Refusal;
use crate::xenstore::Xenstore;
use course::{Course, Snapshot};
pub use outcome::{EXIT_STATUS, Outcome};
use preflight::Guest;
use screen::Screen;
use xl::Xl;

/// How often to look how far it is.
const LOOK: Duration = Duration::from_millis(250);
/// How long it may take until it is clear what became of a guest whose `xl` has failed: a follower sees to it meanwhile.
const CLEAR: Duration = Duration::from_secs(30);

/// What to migrate, where, and how. The fields' comments are the text of `tsmc migrate --help`.
#[derive(Args, Clone, Debug)]
pub struct Migrate {
    /// The guest's name or number.
    guest: String,
    /// The other host, as ssh knows it.
    #[arg(value_parser = host)]
    host: String,
    /// How to reach the other host's dom0, where the name of the host and a command are added. It must not ask for anything.
    #[arg(short = 's', long, value_name = "COMMAND", default_value = "ssh -o BatchMode=yes")]
    ssh: String,
    /// How memory moves: tsmc, precopy or postcopy [default: TSMC_MODE in the environment, else tsmc].
    #[arg(long)]
    mode: Option<Mode>,
    /// Compare all of the guest's memory at the switchover, while the guest stands still.
    #[arg(long)]
    verify: bool,
    /// Let the guest stay if it would have to stand still for more than so many milliseconds until its memory is there [default:
    /// TSMC_MAX_DOWNTIME in the environment, else however long that takes].
    #[arg(long, value_name = "MILLISECONDS")]
    max_downtime: Option<u64>,
    /// Give it up when the guest has not moved after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Say what happens to programs: a JSON object in each line.
    #[arg(long)]
    json: bool,
    /// Show all that xl prints.
    #[arg(long, short)]
    verbose: bool,
}

/// A host is a word of a shell's command line, and no option.
fn host(word: &str) -> Result<String, String> {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "._-:@%[]".contains(character);
    let is_host = !word.is_empty() && !word.starts_with('-') && word.chars().all(is_plain);
    is_host.then(|| word.to_owned()).ok_or_else(|| "this is no host".into())
}

impl Migrate {
    /// Does it, and says what came of it. An error is one before anything was begun.
    pub fn run(&self) -> Result<Outcome, Refusal> {
        let mut store = Xenstore::connect()?;
        let guest = Guest::find(&self.guest)?;
        let mut obstacles = guest.obstacles(&mut store)?;
        let said = guest.needs.ask(&self.ssh, &self.host)?;
        obstacles.extend(said.obstacles);
        if !obstacles.is_empty() {
            return Err(Refusal::Preflight(obstacles));
        }
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, stop.clone())?;
        }
        let course = Course::new(&mut store, guest.domain)?;
        let mut screen = Screen::new(self.json);
        said.warnings.iter().for_each(|warning| screen.say(&format!("warning: {warning}")));
        let mut attempt = Attempt { order: self, store, course, xl: Xl::start(self)?, screen, stop, given_up: None };
        let succeeded = attempt.until_xl_ends()?;
        let outcome = attempt.until_clear(succeeded);
        attempt.screen.end(&guest.needs.name, &self.host, &outcome);
        Ok(outcome)
    }
}

/// A migration under way.
struct Attempt<'a> {
    order: &'a Migrate,
    store: Xenstore,
    course: Course,
    xl: Xl,
    screen: Screen,
    stop: Arc<AtomicBool>,
    given_up: Option<&'static str>,
}

impl Attempt<'_> {
    /// Follows `xl` to its end; whether it succeeded.
    fn until_xl_ends(&mut self) -> io::Result<bool> {
        let begun = Instant::now();
        loop {
            let seen = self.look();
            if let Some(succeeded) = self.xl.ended()? {
                return Ok(succeeded);
            }
            let late = self.order.timeout.is_some_and(|seconds| begun.elapsed() > Duration::from_secs(seconds));
            let interrupted = self.is_interrupted();
            if self.given_up.is_none() && !seen.has_left() && (interrupted || late) {
                self.given_up = Some(if interrupted { "interrupted" } else { "it took too long" });
                self.screen.say("giving it up");
                // As long as no agent knows of it, or can be told, `xl` is ended; its helper puts everything back.
                if !self.course.cancel(&mut self.store).unwrap_or_default() {
                    self.xl.terminate();
                }
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until it is clear what became of the guest.
    fn until_clear(&mut self, succeeded: bool) -> Outcome {
        let mut open_since = Instant::now();
        loop {
            let seen = self.look();
            let begun = self.course.has_begun();
            match seen.state {
                Some(State::Complete) => return Outcome::Moved,
                Some(State::Failed { reason, .. }) => return Outcome::stayed(reason, self.given_up),
                // Not a guest for an agent.
                None if succeeded && !begun => return Outcome::Moved,
                None if !begun => return Outcome::stayed(self.xl.reason(), self.given_up),
                Some(State::Interrupted { reason }) if succeeded && open_since.elapsed() > CLEAR => {
                    return Outcome::Interrupted(reason);
                }
                Some(State::Committed) if succeeded => open_since = Instant::now(),
                _ if open_since.elapsed() > CLEAR && succeeded => {
                    return Outcome::Interrupted(Refusal::AgentLost.to_string());
                }
                _ if open_since.elapsed() > CLEAR => return Outcome::Unclear(self.xl.reason()),
                _ => {}
            }
            if succeeded && self.is_interrupted() {
                return Outcome::Follows;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Looks how far it is, and says so.
    fn look(&mut self) -> Snapshot {
        // A xenstored that does not answer is no reason to leave `xl` alone.
        let seen = self.course.look(&mut self.store).unwrap_or_default();
        for line in self.xl.lines() {
            if self.order.verbose {
                self.screen.say(&line);
            }
        }
        self.screen.show(&seen);
        seen
    }

    fn is_interrupted(&self) -> bool {
        self.stop.swap(false, Ordering::Relaxed)
    }
}
