//! One migration, by stock `xl migrate` or `tsmc migrate`, watched through the agents' sessions.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use common::control::{Progress, State};
use tests_qemu::exec::{Event, Request};

use super::agents::Agents;
use super::guest;
use super::sessions::{Follower, Session};
use super::story::Story;
use super::testbed::Testbed;
use crate::mode::Mode;
use crate::network::Place;

/// Xen's own save helper. Ours is in the environment of everything in dom0, by dom0's init.
const STOCK_HELPER: &str = "/usr/lib/xen-4.17/bin/libxl-save-helper";

/// What `xl migrate-receive` says when it has let the guest run.
const STARTED: &str = "Domain started";

/// How long after `xl`'s end the agents may take to complete.
const COMPLETION_LIMIT: Duration = Duration::from_secs(180);

/// How long `xl migrate` may take.
const XL_LIMIT: Duration = Duration::from_secs(600);

/// How long to wait for the last reports of sessions that have ended, or never began.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How often what the agents have reported is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(1);

/// How a migration went.
#[derive(Clone, Debug)]
pub struct Crossing {
    /// `xl migrate`'s exit status.
    pub status: i32,
    /// All that it printed, in order.
    pub printed: String,
    /// Its start.
    pub begun: Instant,
    /// When it said that the guest may run on the other side.
    pub started: Option<Instant>,
    /// From its start to its end.
    pub xl_time: Duration,
    /// From its start until the last page had arrived and both agents were done.
    pub total_time: Duration,
    /// What the source's and the target's agent said, when agents moved the memory.
    pub sessions: Option<(Session, Session)>,
}

impl Crossing {
    /// Whether the guest is on the other side, whole.
    pub fn is_success(&self) -> bool {
        self.status == 0
            && self.sessions.as_ref().is_none_or(|(source, target)| source.is_complete() && target.is_complete())
    }
}

/// Sees the source's and the target's session each time they are looked at.
pub type OnLook<'a> = &'a (dyn Fn(&Session, &Session) + Sync);

/// Runs `xl migrate` from one host to the other and waits until every page is there.
pub fn migrate(
    testbed: &Testbed,
    (from, to): (&Place, &Place),
    mode: Mode,
    agents: Option<&Agents>,
    on_look: OnLook<'_>,
    story: &Story,
) -> Result<Crossing> {
    let followers = match agents {
        Some((source, target)) => Some((Follower::start(source)?, Follower::start(target)?)),
        None => None,
    };
    let mut request = request(guest::NAME, to, testbed.shell, mode);
    testbed.program.clone_into(&mut request.argv[0]);
    if testbed.verify {
        verify(&mut request);
    }
    story.say(&format!("{} in dom0 of {}", command_line(&request), from.letter));
    let begun = Instant::now();
    let ended = OnceLock::new();
    std::thread::scope(|scope| {
        let watcher = followers.as_ref().map(|followers| scope.spawn(|| watch(followers, &ended, on_look, story)));
        let running = testbed.dom0(from).start(&request);
        let (mut printed, mut pending, mut started) = (String::new(), String::new(), None);
        let output = running.and_then(|running| {
            running.finish_with(Some(XL_LIMIT), |event| {
                if let Event::Stdout(bytes) | Event::Stderr(bytes) = event {
                    let text = String::from_utf8_lossy(bytes);
                    printed.push_str(&text);
                    if started.is_none() && printed.contains(STARTED) {
                        started = Some(Instant::now());
                    }
                    pending.push_str(&text);
                    story.quote(testbed.program, &mut pending);
                }
            })
        });
        let xl_time = begun.elapsed();
        let _ = ended.set(output.as_ref().is_ok_and(|output| output.success()));
        let sessions = match watcher.map(std::thread::ScopedJoinHandle::join) {
            Some(Ok(sessions)) => Some(sessions),
            Some(Err(_)) => bail!("the watcher of the sessions died"),
            None => None,
        };
        Ok(Crossing { status: output?.status, printed, begun, started, xl_time, total_time: begun.elapsed(), sessions })
    })
}

/// The command that migrates the guest; `shell` runs a command on the other side.
pub fn request(guest: &str, to: &Place, shell: &str, mode: Mode) -> Request {
    let address = to.dom0.to_string();
    match mode {
        Mode::Agents(mode) => {
            let mut request = Request::new(&["xl", "migrate", "-s", shell, guest, &address]);
            request.env.push(("TSMC_MODE".to_owned(), mode.to_string()));
            request
        }
        // With an empty -s the last word is the whole command for the other side: both ends get Xen's own helper.
        Mode::Xl => {
            let remote = format!("{shell} {address} LIBXL_SAVE_HELPER={STOCK_HELPER} xl migrate-receive");
            let mut request = Request::new(&["xl", "migrate", "-s", "", guest, &remote]);
            request.env.push(("LIBXL_SAVE_HELPER".to_owned(), STOCK_HELPER.to_owned()));
            request
        }
    }
}

/// Makes the agents compare all memory at the switch.
pub fn verify(request: &mut Request) {
    request.env.push(("TSMC_VERIFY".to_owned(), "1".to_owned()));
}

fn command_line(request: &Request) -> String {
    let quote = |word: &String| if word.is_empty() || word.contains(' ') { format!("'{word}'") } else { word.clone() };
    request.argv.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Follows a migration until both agents are done, telling each step once and progress as it comes.
fn watch(
    followers: &(Follower, Follower),
    ended: &OnceLock<bool>,
    on_look: OnLook<'_>,
    story: &Story,
) -> (Session, Session) {
    let mut told = (None, None);
    let mut told_progress = Instant::now();
    let mut deadline: Option<Instant> = None;
    loop {
        // One agent may be both.
        let session =
            |follower: &Follower, way| follower.session_of(way).map(|(_, session)| session).unwrap_or_default();
        let (source, target) = (session(&followers.0, "out-"), session(&followers.1, "in-"));
        on_look(&source, &target);
        let news =
            tell_state("source", &source, &mut told.0, story) | tell_state("target", &target, &mut told.1, story);
        if news || told_progress.elapsed() > PROGRESS {
            tell_progress(&source, &target, story);
            told_progress = Instant::now();
        }
        let (over, xl) = (source.is_over() && target.is_over(), ended.get());
        let complete = over && source.summary.is_some() && target.summary.is_some();
        // When xl has failed, or passed the agents by, nothing but last words follows.
        let limit = if over || xl == Some(&false) || source.state.is_none() { LAST_WORDS } else { COMPLETION_LIMIT };
        if (over || xl.is_some()) && deadline.get_or_insert_with(Instant::now).elapsed() > limit || complete {
            return (source, target);
        }
        std::thread::sleep(LOOK);
    }
}

/// Tells a state that is new; whether it was.
fn tell_state(side: &str, session: &Session, told: &mut Option<State>, story: &Story) -> bool {
    if session.state == *told {
        return false;
    }
    told.clone_from(&session.state);
    if let Some(state) = told {
        story.detail(&format!("agent at the {side}: {state}"));
    }
    true
}

fn tell_progress(source: &Session, target: &Session, story: &Story) {
    // Pages leave the source in stages 1 and 2; in stage 3 the target knows what it still misses.
    let latest = [source.progress, target.progress].into_iter().flatten().max_by_key(|progress| progress.stage);
    if let Some(progress) = latest.filter(|_| !(source.is_over() && target.is_over())) {
        story.progress(&describe(&progress));
    }
}

fn describe(progress: &Progress) -> String {
    let name = match progress.stage {
        1 => "stage 1, full copy ",
        2 => "stage 2, switch    ",
        _ => "stage 3, dirty copy",
    };
    let percent = (progress.done * 100).checked_div(progress.total).unwrap_or(100);
    let rate = progress.rate_kib as f64 / 1024.0;
    let round = progress.round.map(|round| format!("  round {round}")).unwrap_or_default();
    format!("{name} {percent:>3} %  {:>7} of {} pages  {rate:>6.1} MB/s{round}", progress.done, progress.total)
}
