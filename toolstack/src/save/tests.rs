use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::events::Signals;
use crate::stream::{HEAD, Owner, owner};
use crate::testing::{FakeLibxl, FakeStore};

const HOME: &str = "/local/domain/1/data/tsmc";
const LISTENING: &str = "listening session=a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5 address=10.77.0.11 port=7077";

/// Before each migration xenstored is told that the guest runs: an earlier one may have been forgotten.
const AT_THE_BEGINNING: [&str; 1] = ["5"];

/// One migration of domain 5: what the agent sees, the stream's other end, the signals' other end.
struct Scene {
    agent: FakeStore,
    session: String,
    request: String,
    stream: File,
    signals: UnixStream,
    libxl: FakeLibxl,
    helper: thread::JoinHandle<Result<(), String>>,
}

fn scene(suspend: i32) -> Scene {
    let (scene, go) = scene_that_waits(suspend, Duration::ZERO);
    go.send(()).expect("a helper");
    scene
}

/// The same, of which the helper does not look at what the agent says until it is told to go; it asked `earlier` than it did.
fn scene_that_waits(suspend: i32, earlier: Duration) -> (Scene, mpsc::Sender<()>) {
    let (agent, mut store) = FakeStore::with_agent();
    let stale = agent.add_completed();
    let (libxl, mut ours) = FakeLibxl::start(suspend);
    let (from, to) = rustix::pipe::pipe().expect("a pipe");
    let (signals, theirs) = UnixStream::pair().expect("a pair");
    let (go, gone) = mpsc::channel();
    let helper = thread::spawn(move || {
        let mut waiter = Waiter::new(Signals::from_socket(theirs), to);
        let order = Order { domain: DomId(5), parameters: Parameters::default() };
        let save = Save::start(&mut ours, &mut store, &mut waiter, order).map(|mut save| {
            save.asked = save.asked.and_then(|asked| asked.checked_sub(earlier));
            gone.recv().expect("a test");
            save
        });
        save.and_then(Save::run).map_err(|refusal| refusal.to_string())
    });
    let (name, request) = agent.wait_for(&format!("{HOME}/request"), "out-5-");
    assert_eq!(request, "out domain=5 mode=tsmc");
    assert!(!agent.has(stale), "the note of a migration that is complete stays");
    let session = format!("{HOME}/session/{name}/state");
    let request = format!("{HOME}/request/{name}");
    (Scene { agent, session, request, stream: File::from(from), signals, libxl, helper }, go)
}

impl Scene {
    fn agent_says(&self, state: &str) {
        self.agent.set(&self.session, state);
    }

    fn invitation(&mut self) -> Invitation {
        let mut head = [0; HEAD];
        self.stream.read_exact(&mut head).expect("a head");
        let Ok(Owner::Us { body, rest }) = owner(&head) else { panic!("not ours") };
        let mut bytes = vec![0; rest];
        self.stream.read_exact(&mut bytes).expect("our record");
        Invitation::decode(&bytes, body).expect("an invitation")
    }

    fn end(self) -> (Result<(), String>, Vec<String>) {
        (self.helper.join().expect("the helper"), self.libxl.messages())
    }
}

#[test]
fn a_guest_leaves() {
    let mut scene = scene(1);
    scene.agent_says(LISTENING);
    assert_eq!(scene.invitation().peer.to_string(), "10.77.0.11:7077");
    scene.agent_says("copying");
    let progress = scene.session.replace("/state", "/progress");
    scene.agent.set(&progress, "stage=1 done=500 total=1000 bytes=1 rate_kib=2048");
    scene.agent_says("suspend");
    assert_eq!(scene.agent.wait_for(&scene.request, "suspended").1, "yes");
    scene.agent_says("committed");
    let agent = scene.agent.clone();
    let mut rest = Vec::new();
    scene.stream.read_to_end(&mut rest).expect("the end");
    assert!(rest.is_empty(), "libxl's end follows ours");
    let (outcome, messages) = scene.end();
    assert_eq!(outcome, Ok(()));
    let expected = ["suspend", "progress", "log 5 stage 1: 500 of 1000 pages, 50 %, 2.0 MB/s"];
    for message in expected {
        assert!(messages.iter().any(|line| line == message), "{message} in {messages:?}");
    }
    let last = messages.last().expect("a last line");
    assert!(last.starts_with("log 6 domain 5 has left"), "{last}");
    assert!(last.contains("'Unable to destroy guest' is expected"), "{last}");
    assert_eq!(agent.resumed(), AT_THE_BEGINNING);
}

#[test]
fn a_refusal_before_anything_moved_reaches_the_operator() {
    let scene = scene(1);
    scene.agent_says("failed reason=the FLASK policy must allow shadow { logdirty }");
    let agent = scene.agent.clone();
    let (outcome, messages) = scene.end();
    assert_eq!(outcome, Err("the FLASK policy must allow shadow { logdirty }".into()));
    assert!(messages.is_empty(), "{messages:?}");
    assert_eq!(agent.resumed(), AT_THE_BEGINNING);
}

#[test]
fn a_failure_after_the_suspend_tells_xenstored_that_the_guest_runs_on() {
    let mut scene = scene(1);
    scene.agent_says(LISTENING);
    scene.invitation();
    scene.agent_says("suspend");
    scene.agent.wait_for(&scene.request, "suspended");
    scene.agent_says("failed reason=the target died");
    let agent = scene.agent.clone();
    let (outcome, messages) = scene.end();
    assert_eq!(outcome, Err("the target died".into()));
    assert_eq!(agent.resumed(), ["5", "5"]);
    assert!(messages.last().is_some_and(|line| line.contains("the guest runs on here")), "{messages:?}");
}

#[test]
fn a_guest_whose_libxl_died_in_the_suspend_is_told_to_xenstored_all_the_same() {
    let scene = scene(FakeLibxl::DIES);
    scene.agent_says("suspend");
    scene.agent.wait_for(&scene.request, "cancel");
    scene.agent_says("failed cause=cancelled reason=cancelled by the toolstack");
    let agent = scene.agent.clone();
    assert_eq!(scene.end().0, Err("the toolstack process that asked for the migration died".into()));
    assert_eq!(agent.resumed(), ["5", "5"]);
}

/// It asked so long ago that it would have given up on an agent that says nothing.
#[test]
fn a_helper_waits_as_long_as_its_agent_says_that_it_waits() {
    let (mut scene, go) = scene_that_waits(1, 2 * PATIENCE);
    scene.agent_says("waiting reason=memory of this host's agent");
    go.send(()).expect("a helper");
    thread::sleep(2 * TICK);
    assert!(!scene.helper.is_finished());
    scene.agent_says(LISTENING);
    scene.invitation();
    // The target waits, too.
    scene.agent_says("waiting reason=the other host's agent");
    scene.agent_says("committed");
    let (outcome, messages) = scene.end();
    assert_eq!(outcome, Ok(()));
    assert!(messages.iter().any(|line| line.contains("waiting for memory of this host's agent")), "{messages:?}");
}

#[test]
fn a_guest_that_waits_for_its_turn_can_be_kept() {
    let mut scene = scene(1);
    scene.agent_says("waiting reason=memory of this host's agent");
    scene.signals.write_all(b"x").expect("a signal");
    scene.agent.wait_for(&scene.request, "cancel");
    scene.agent_says("failed cause=cancelled reason=cancelled by the toolstack");
    assert_eq!(scene.end().0, Err("cancelled".into()));
}

#[test]
fn a_guest_that_does_not_suspend_stays() {
    let scene = scene(0);
    scene.agent_says("suspend");
    assert_eq!(scene.agent.wait_for(&scene.request, "suspended").1, "no");
    scene.agent_says("failed reason=the guest did not suspend");
    let agent = scene.agent.clone();
    assert_eq!(scene.end().0, Err("the guest did not suspend".into()));
    assert_eq!(agent.resumed(), AT_THE_BEGINNING);
}

#[test]
fn the_receiver_s_death_cancels() {
    let mut scene = scene(1);
    scene.agent_says(LISTENING);
    scene.invitation();
    scene.agent_says("copying");
    scene.stream = File::open("/dev/null").expect("a file");
    scene.agent.wait_for(&scene.request, "cancel");
    scene.agent_says("failed cause=cancelled reason=cancelled by the toolstack");
    assert_eq!(scene.end().0, Err("the other host's toolstack gave up; its own messages say why".into()));
}

#[test]
fn the_agent_may_know_better_why_the_receiver_died() {
    let mut scene = scene(1);
    scene.agent_says(LISTENING);
    scene.invitation();
    scene.stream = File::open("/dev/null").expect("a file");
    scene.agent.wait_for(&scene.request, "cancel");
    scene.agent_says("failed cause=other reason=the target cancelled its claim for memory");
    assert_eq!(scene.end().0, Err("the target cancelled its claim for memory".into()));
}

#[test]
fn libxl_may_stop_it() {
    let mut scene = scene(1);
    scene.agent_says("copying");
    scene.signals.write_all(b"x").expect("a signal");
    scene.agent.wait_for(&scene.request, "cancel");
    scene.agent_says("failed cause=cancelled reason=cancelled by the toolstack");
    assert_eq!(scene.end().0, Err("cancelled".into()));
}

#[test]
fn a_commit_that_came_first_stands() {
    let mut scene = scene(1);
    scene.agent_says("copying");
    scene.signals.write_all(b"x").expect("a signal");
    scene.agent.wait_for(&scene.request, "cancel");
    scene.agent_says("committed");
    assert_eq!(scene.end().0, Ok(()));
}

#[test]
fn an_agent_that_dies_is_noticed() {
    let scene = scene(1);
    scene.agent_says("copying");
    scene.agent.remove("/local/domain/1");
    assert_eq!(scene.end().0, Err("the migration agent of this host died during the migration".into()));
}

#[test]
fn another_agent_takes_the_guest_up_however_long_the_first_one_had_it() {
    let (scene, go) = scene_that_waits(1, 2 * PATIENCE);
    scene.agent_says("copying");
    scene.agent.set(&scene.session.replace("/state", "/note"), "00ff");
    go.send(()).expect("a helper");
    scene.agent.wait_for("/tool/tsmc/out", "5");
    scene.agent.remove("/local/domain/1");
    scene.agent.add_agent(2);
    let home = HOME.replace("/1/", "/2/");
    let (name, request) = scene.agent.wait_for(&format!("{home}/request"), "out-5-");
    assert_eq!(request, "recover note=00ff");
    scene.agent.set(&format!("{home}/session/{name}/state"), "failed reason=the guest has not left");
    assert_eq!(scene.end().0, Err("the guest has not left".into()));
}
