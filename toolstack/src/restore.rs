//! The receiving end of a migration, between libxl and the local agent.
//!
//! ```text
//!   libxl                       this helper                   agent
//!     | headers, our record, end -> |                           |
//!     | <-------- static_data_done  |                           |
//!     |                             | ------- in ------------>  | connects to the sending agent
//!     |                             | <---- built ------------  | the frame stands, memory follows
//!     |                             | <---- running ----------  | the guest belongs to this side
//!     | <-------- restore_results   |                           |
//!     | <-------------- complete(0) |                           |
//!     | libxl's end, devices, GO    |                           |
//! ```
//!
//! The helper stays until the commit, although nothing is left for it to do once the frame stands. libxl takes a stream
//! that breaks off between two records for one that has ended: without a helper to say otherwise it would start the
//! devices of a guest that never came.

use std::io::Read;
use std::time::{Duration, Instant};

use common::control::{FailureCause, Request, State};
use common::{Backends, DomId, Rings};

use crate::agents::{Agent, Session, Way};
use crate::arguments::RestoreArguments;
use crate::callbacks::{Level, Libxl, Message};
use crate::events::{Event, Waiter};
use crate::kept::End;
use crate::recover;
use crate::refusal::Refusal;
use crate::stream::{HEAD, Invitation};
use crate::xenstore::Xenstore;

/// How long the agents may take to find each other and to build the domain's frame, and to give up when told to.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });
/// How often to look whether the agent is alive while nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// Takes our part out of the stream; `body` and `rest` are from [`crate::stream::owner`].
pub fn take_invitation(stream: &mut impl Read, body: usize, rest: usize) -> Result<Invitation, Refusal> {
    let mut bytes = vec![0; HEAD + rest];
    stream.read_exact(&mut bytes)?;
    Ok(Invitation::decode(&bytes[HEAD..], body)?)
}

/// Lets this host's agent fill the domain; returns when the guest belongs to this side.
pub fn restore(
    libxl: &mut Libxl,
    store: &mut Xenstore,
    waiter: &mut Waiter,
    arguments: &RestoreArguments,
    invitation: &Invitation,
) -> Result<(), Refusal> {
    let agent = Agent::find(store)?;
    recover::tidy(store, &agent)?;
    if libxl.allows(&Message::StaticDataDone) && libxl.ask(&Message::StaticDataDone)? != 0 {
        return Err(Refusal::Libxl("the domain's static data"));
    }
    let backends = Backends {
        store_port: arguments.store_port,
        store_domain: arguments.store_domain,
        console_port: arguments.console_port,
        console_domain: arguments.console_domain,
    };
    let Invitation { peer, key, session, size, .. } = *invitation;
    let request = Request::In { domain: arguments.domain, peer, key, session, size, backends };
    let lent = agent.is_lent_guests(store)?;
    let session = Session::ask(store, agent, Way::In, arguments.domain, &request)?;
    libxl.log(Level::Info, &format!("the agent fetches domain {} from the agent at {peer}", arguments.domain));
    let rings = follow(libxl, store, waiter, session, arguments.domain, lent)?;
    Ok(libxl.send(&Message::RestoreResults(rings))?)
}

/// Waits until the guest belongs to this side; gives its rings. `lent`: the agent has no right on it but what dom0's broker does.
fn follow(
    libxl: &mut Libxl,
    store: &mut Xenstore,
    waiter: &mut Waiter,
    mut session: Session,
    domain: DomId,
    lent: bool,
) -> Result<Rings, Refusal> {
    let arrived = wait_for_guest(libxl, store, waiter, &mut session, domain, lent);
    if arrived.is_err() {
        // The domain is about to be destroyed: the agent must let go of it.
        let _ = session.cancel(store);
        let _ = End::arriving(domain).forget(store);
    }
    arrived
}

/// What the agent has said of the session.
#[derive(Default)]
struct Said {
    state: Option<State>,
    rings: Option<Rings>,
    note: Option<String>,
    waits: bool,
}

impl Said {
    /// Reads what is new. That a session waits is logged once.
    fn update(
        &mut self,
        libxl: &mut Libxl,
        store: &mut Xenstore,
        session: &Session,
        domain: DomId,
    ) -> Result<(), Refusal> {
        self.state = session.state(store)?;
        self.rings = session.rings(store)?.or(self.rings);
        if let Some(note) = recover::keep(store, session, End::arriving(domain))? {
            self.note = Some(note);
        }
        if let Some(State::Waiting { reason }) = &self.state
            && !std::mem::replace(&mut self.waits, true)
        {
            libxl.log(Level::Notice, &format!("waiting for {reason}"));
        }
        Ok(())
    }
}

fn wait_for_guest(
    libxl: &mut Libxl,
    store: &mut Xenstore,
    waiter: &mut Waiter,
    session: &mut Session,
    domain: DomId,
    lent: bool,
) -> Result<Rings, Refusal> {
    let mut said = Said::default();
    // What nobody looks at here comes most often: how far the agent is.
    let mut look = true;
    let mut waits_since = Instant::now();
    let mut cancelled: Option<Refusal> = None;
    loop {
        while let Some(path) = store.take_change() {
            look |= !session.is_progress(&path);
        }
        if std::mem::take(&mut look) {
            said.update(libxl, store, session, domain)?;
        }
        match &said.state {
            Some(State::Running | State::Complete | State::Interrupted { .. }) => {
                return said.rings.ok_or(Refusal::NoRings);
            }
            Some(State::Failed { cause, reason }) => {
                return Err(match cancelled {
                    Some(why) if *cause == FailureCause::Cancelled => why,
                    _ => Refusal::Agent(reason.clone()),
                });
            }
            Some(_) if cancelled.is_none() => waits_since = Instant::now(),
            _ if waits_since.elapsed() > PATIENCE => return Err(cancelled.unwrap_or(Refusal::AgentSilent)),
            _ => {}
        }
        if store.has_change() {
            continue;
        }
        let event = waiter.wait(libxl, store, TICK)?;
        look = event != Event::Store;
        let why = match event {
            Event::Store => {
                store.receive_change()?;
                continue;
            }
            Event::Terminated => Refusal::Cancelled,
            Event::ParentGone => Refusal::ParentGone,
            Event::StreamGone => Refusal::PeerGone,
            // Another agent could do nothing with what was lent to this one.
            Event::Quiet if lent && !session.agent.is_alive(store)? => return Err(Refusal::AgentLost),
            Event::Quiet if !session.agent.is_alive(store)? => {
                // Without a note it had not got so far that the other side may have let the guest go.
                let note = said.note.as_deref().ok_or(Refusal::AgentLost)?;
                libxl.log(Level::Notice, "the migration agent of this host died; waiting for another one");
                *session =
                    recover::hand_on(store, session.agent.domain, End::arriving(domain), note, Some(recover::RESTART))?;
                waits_since = Instant::now();
                continue;
            }
            Event::Quiet | Event::Answer => continue,
        };
        if cancelled.is_none() {
            // The agent decides: the guest may be on this side by now.
            session.cancel(store)?;
            cancelled = Some(why);
            waits_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use common::PublicKey;
    use common::control::{Mode, SessionToken, Size};

    use super::*;
    use crate::events::Signals;
    use crate::testing::{FakeLibxl, FakeStore};
    use common::XenVersion;

    const HOME: &str = "/local/domain/1/data/tsmc";
    const ARGUMENTS: RestoreArguments = RestoreArguments {
        stream: 0,
        domain: DomId(7),
        store_port: 1,
        store_domain: DomId(0),
        console_port: 2,
        console_domain: DomId(0),
        callbacks: u32::MAX,
        plain: true,
    };

    fn invitation() -> Invitation {
        let peer = "10.77.0.11:7077".parse().expect("an address");
        let (session, key) = (SessionToken([0xa5; 16]), Some(PublicKey([0x5a; 32])));
        Invitation { session, peer, key, mode: Mode::Tsmc, size: Size { frames: 9, digests: 0 } }
    }

    type Helper = thread::JoinHandle<Result<(), String>>;

    fn start(mut store: Xenstore) -> (Helper, FakeLibxl, File) {
        let (libxl, mut ours) = FakeLibxl::start(1);
        let (from, to) = rustix::pipe::pipe().expect("a pipe");
        let helper = thread::spawn(move || {
            let (_signals, theirs) = UnixStream::pair().expect("a pair");
            let mut waiter = Waiter::new(Signals::from_socket(theirs), from);
            restore(&mut ours, &mut store, &mut waiter, &ARGUMENTS, &invitation())
                .map_err(|refusal| refusal.to_string())
        });
        (helper, libxl, File::from(to))
    }

    #[test]
    fn the_helper_leaves_when_the_guest_belongs_to_this_side() {
        let (agent, store) = FakeStore::with_agent();
        let (helper, libxl, _stream) = start(store);
        let (name, request) = agent.wait_for(&format!("{HOME}/request"), "in-7-");
        assert_eq!(
            request,
            format!(
                "in domain=7 peer=10.77.0.11:7077 session=a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5 frames=9 digests=0 key={} \
                 store_port=1 store_domain=0 console_port=2 console_domain=0",
                "5a".repeat(32)
            )
        );
        agent.set(&format!("{HOME}/session/{name}/built"), "built store_gfn=1044476 console_gfn=1044479");
        for state in ["built store_gfn=1044476 console_gfn=1044479", "ready", "running"] {
            assert!(!helper.is_finished(), "before {state}");
            agent.set(&format!("{HOME}/session/{name}/state"), state);
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(helper.join().expect("the helper"), Ok(()));
        let messages = libxl.messages();
        assert_eq!(messages[0], "static_data_done");
        assert_eq!(messages.last().expect("a last message"), "restore_results 0xfeffc 0xfefff");
    }

    /// However long: it is the agent that says when its turn has come, and whoever asked may give up.
    #[test]
    fn a_helper_waits_as_long_as_its_agent_says_that_it_waits() {
        let (agent, store) = FakeStore::with_agent();
        let (helper, libxl, stream) = start(store);
        let (name, _) = agent.wait_for(&format!("{HOME}/request"), "in-7-");
        agent.set(&format!("{HOME}/session/{name}/state"), "waiting reason=memory of this host's agent");
        thread::sleep(2 * PATIENCE);
        agent.set(&format!("{HOME}/session/{name}/state"), "waiting reason=memory of this host's agent");
        thread::sleep(2 * PATIENCE);
        assert!(!helper.is_finished());
        drop(stream);
        agent.wait_for(&format!("{HOME}/request/{name}"), "cancel");
        agent.set(&format!("{HOME}/session/{name}/state"), "failed cause=cancelled reason=cancelled by the toolstack");
        assert!(helper.join().expect("the helper").is_err());
        let waits = |line: &&String| line.contains("waiting for memory of this host's agent");
        assert_eq!(libxl.messages().iter().filter(waits).count(), 1);
    }

    #[test]
    fn the_agent_s_refusal_reaches_the_operator_and_the_agent_lets_go() {
        let (agent, store) = FakeStore::with_agent();
        let (helper, _libxl, _stream) = start(store);
        let (name, _) = agent.wait_for(&format!("{HOME}/request"), "in-7-");
        agent.set(&format!("{HOME}/session/{name}/state"), "failed reason=the host has too little free memory");
        assert_eq!(helper.join().expect("the helper"), Err("the host has too little free memory".into()));
        agent.wait_for(&format!("{HOME}/request/{name}"), "cancel");
    }

    #[test]
    fn the_sender_s_death_cancels() {
        let (agent, store) = FakeStore::with_agent();
        let (helper, _libxl, stream) = start(store);
        let (name, _) = agent.wait_for(&format!("{HOME}/request"), "in-7-");
        agent.set(&format!("{HOME}/session/{name}/state"), "built store_gfn=1044476 console_gfn=1044479");
        drop(stream);
        agent.wait_for(&format!("{HOME}/request/{name}"), "cancel");
        agent.set(&format!("{HOME}/session/{name}/state"), "failed cause=cancelled reason=cancelled by the toolstack");
        let refusal = "the other host's toolstack gave up; its own messages say why";
        assert_eq!(helper.join().expect("the helper"), Err(refusal.into()));
    }

    #[test]
    fn a_guest_that_is_already_here_is_kept() {
        let (agent, store) = FakeStore::with_agent();
        let stale = agent.add_completed();
        let (helper, _libxl, stream) = start(store);
        let (name, _) = agent.wait_for(&format!("{HOME}/request"), "in-7-");
        assert!(!agent.has(stale), "the note of a migration that is complete stays");
        agent.set(&format!("{HOME}/session/{name}/built"), "built store_gfn=1044476 console_gfn=1044479");
        drop(stream);
        agent.wait_for(&format!("{HOME}/request/{name}"), "cancel");
        agent.set(&format!("{HOME}/session/{name}/state"), "running");
        assert_eq!(helper.join().expect("the helper"), Ok(()));
    }

    #[test]
    fn a_host_without_an_agent_refuses() {
        let (_fake, store) = FakeStore::start();
        let (helper, _libxl, _stream) = start(store);
        let refusal = helper.join().expect("the helper").expect_err("no agent");
        assert_eq!(refusal, "no migration agent on this host: no domain is named tsmc-agent");
    }

    #[test]
    fn exactly_our_part_of_the_stream_is_taken() {
        let mut stream = invitation().encode(XenVersion { major: 4, minor: 17 });
        let whole = stream.len();
        stream.extend_from_slice(b"libxl's own end");
        let head = stream[..HEAD].try_into().expect("a head");
        let Ok(crate::stream::Owner::Us { body, rest }) = crate::stream::owner(&head) else { panic!("not ours") };
        let mut left = stream.as_slice();
        assert_eq!(take_invitation(&mut left, body, rest).expect("an invitation"), invitation());
        assert_eq!(left, &stream[whole..]);
    }
}
