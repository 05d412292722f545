//! The receiving end of a migration, between libxl and the local agent.
//!
//! ```text
//!   libxl                       this helper                   agent
//!     | headers, our record, end -> |                           |
//!     | <-------- static_data_done  |                           |
//!     |                             | ------- in ------------>  | connects to the sending agent
//!     | <-------- restore_results   | <---- built ------------  | the frame stands, memory follows
//!     | <-------------- complete(0) |                           |
//! ```
//!
//! The helper leaves before the memory is there. libxl then waits for its own end of the stream, which the sending side
//! withholds until the guest belongs to this one; nothing of ours is left in the way of the switch.

use std::io::Read;
use std::time::{Duration, Instant};

use agent::control::{Request, State};
use agent::platform::{Backends, DomId};

use crate::agents::{Agent, Session};
use crate::arguments::RestoreArguments;
use crate::callbacks::{Level, Libxl, Message};
use crate::events::{Event, Waiter};
use crate::refusal::Refusal;
use crate::stream::{HEAD, Invitation};
use crate::xenstore::Xenstore;

/// How long the agents may take to find each other and to build the domain's frame.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to look whether the agent is alive while nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// Takes our part out of the stream; `body` and `rest` are from [`crate::stream::owner`].
pub fn take_invitation(stream: &mut impl Read, body: usize, rest: usize) -> Result<Invitation, Refusal> {
    let mut bytes = vec![0; HEAD + rest];
    stream.read_exact(&mut bytes)?;
    Ok(Invitation::decode(&bytes[HEAD..], body)?)
}

/// Lets this host's agent fill the domain; returns when its frame stands.
pub fn restore(
    libxl: &mut Libxl,
    store: &mut Xenstore,
    waiter: &mut Waiter,
    arguments: &RestoreArguments,
    invitation: &Invitation,
) -> Result<(), Refusal> {
    let agent = Agent::find(store)?;
    if libxl.allows(&Message::StaticDataDone) && libxl.ask(&Message::StaticDataDone)? != 0 {
        return Err(Refusal::Libxl("the domain's static data"));
    }
    let backends = Backends {
        store_port: arguments.store_port,
        store_domain: DomId(arguments.store_domain),
        console_port: arguments.console_port,
        console_domain: DomId(arguments.console_domain),
    };
    let Invitation { peer, session, .. } = *invitation;
    let request = Request::In { domain: DomId(arguments.domain), peer, session, backends };
    let session = Session::ask(store, agent, &request)?;
    libxl.log(Level::Info, &format!("the agent fetches domain {} from the agent at {peer}", arguments.domain));
    match follow(libxl, store, waiter, &session) {
        Ok((store_gfn, console_gfn)) => Ok(libxl.send(&Message::RestoreResults { store_gfn, console_gfn })?),
        Err(refusal) => {
            // The domain is about to be destroyed: the agent must let go of it.
            let _ = session.cancel(store);
            Err(refusal)
        }
    }
}

/// Waits until the agent has built the domain's frame; returns where xenstore's and the console's rings are.
fn follow(
    libxl: &Libxl,
    store: &mut Xenstore,
    waiter: &mut Waiter,
    session: &Session,
) -> Result<(u64, u64), Refusal> {
    let asked = Instant::now();
    loop {
        while store.take_change().is_some() {}
        match session.state(store)? {
            Some(State::Built { store, console }) => return Ok((store.0, console.0)),
            Some(State::Failed { reason } | State::Interrupted { reason }) => return Err(Refusal::Agent(reason)),
            _ if asked.elapsed() > PATIENCE => return Err(Refusal::AgentSilent),
            _ => {}
        }
        if store.has_change() {
            continue;
        }
        match waiter.wait(libxl, store, TICK)? {
            Event::Store => store.receive_change()?,
            Event::Terminated => return Err(Refusal::Cancelled),
            Event::ParentGone => return Err(Refusal::ParentGone),
            Event::StreamGone => return Err(Refusal::PeerGone),
            Event::Quiet if !session.agent.is_alive(store)? => return Err(Refusal::AgentLost),
            Event::Quiet | Event::Answer => {}
        }
    }
}
