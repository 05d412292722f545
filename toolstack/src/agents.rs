//! A client of this host's agent: finds it, sends it requests, follows their sessions.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::str::FromStr;

use common::control::{
    AGENT, AgentStatus, Progress, REFUSED, RINGS, ROOT, Request, RequestId, SESSIONS, State, Summary,
};
use common::{DomId, Rings};

use crate::name::AGENT_NAME;
use crate::refusal::Refusal;
use crate::xenstore::{Xenstore, XenstoreError};

/// The agent of this host.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its domain.
    pub domain: DomId,
    /// What it says about itself.
    pub status: AgentStatus,
}

impl Agent {
    /// Finds this host's agent.
    pub fn find(store: &mut Xenstore) -> Result<Self, Refusal> {
        let mut waiting = None;
        for name in store.list("/local/domain")? {
            let Ok(domain) = name.parse() else { continue };
            if store.read(&format!("/local/domain/{domain}/name"))?.as_deref() != Some(AGENT_NAME) {
                continue;
            }
            match Self::status(store, domain)? {
                Some(status) => return Ok(Self { domain, status }),
                None => waiting = Some(domain),
            }
        }
        let Some(domain) = waiting else { return Err(Refusal::NoAgent) };
        Err(match store.read(&node(domain, REFUSED))? {
            Some(reason) => Refusal::AgentRefuses { domain, reason },
            None => Refusal::AgentNotReady { domain },
        })
    }

    /// Whether the agent is still there.
    pub fn is_alive(&self, store: &mut Xenstore) -> Result<bool, XenstoreError> {
        Self::is_at(store, self.domain)
    }

    /// The sessions that the agent remembers, oldest name first.
    pub fn sessions(&self, store: &mut Xenstore) -> Result<Vec<RequestId>, XenstoreError> {
        let names = store.list(&node(self.domain, SESSIONS))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Whether it has no right of its own on guests: dom0 lends it each one.
    pub fn is_lent_guests(&self, store: &mut Xenstore) -> Result<bool, XenstoreError> {
        Ok(self.read(store, RINGS)?.is_some())
    }

    /// Whether an agent serves in this domain.
    pub fn is_at(store: &mut Xenstore, domain: DomId) -> Result<bool, XenstoreError> {
        Ok(Self::status(store, domain)?.is_some())
    }

    /// What it says at this place.
    pub fn read(&self, store: &mut Xenstore, name: &str) -> Result<Option<String>, XenstoreError> {
        store.read(&node(self.domain, name))
    }

    fn status(store: &mut Xenstore, domain: DomId) -> Result<Option<AgentStatus>, XenstoreError> {
        Ok(store.read(&node(domain, AGENT))?.and_then(|text| text.parse().ok()))
    }
}

/// Which way a guest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It leaves this host.
    Out,
    /// It arrives on this host.
    In,
}

impl FromStr for Way {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "out" => Ok(Self::Out),
            "in" => Ok(Self::In),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Out => "out",
            Self::In => "in",
        })
    }
}

/// One thing that the agent was asked to do.
#[derive(Clone, Debug)]
pub struct Session {
    /// Who does it.
    pub agent: Agent,
    /// Its name.
    pub id: RequestId,
}

impl Session {
    /// Asks the agent; `what` begins the session's name. From now on its reports are changes in `store`.
    pub fn ask(
        store: &mut Xenstore,
        agent: Agent,
        what: impl fmt::Display,
        domain: DomId,
        request: &Request,
    ) -> Result<Self, Refusal> {
        let session = Self { agent, id: new_id(what, domain)? };
        store.watch(&session.node(&session.id.session()))?;
        store.write(&session.node(&session.id.request()), &request.to_string())?;
        Ok(session)
    }

    /// Which way a guest goes, and its domain here, as the helper has named the session; nothing if it is about neither.
    pub fn guest(&self) -> Option<(Way, DomId)> {
        let mut parts = self.id.as_str().split('-');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// Where it stands; nothing if the agent has not answered, or no longer remembers.
    pub fn state(&self, store: &mut Xenstore) -> Result<Option<State>, XenstoreError> {
        Ok(store.read(&self.node(&self.id.state()))?.and_then(|text| text.parse().ok()))
    }

    /// Where the rings of the domain that is being filled are, once its frame stands.
    pub fn rings(&self, store: &mut Xenstore) -> Result<Option<Rings>, XenstoreError> {
        let built = store.read(&self.node(&self.id.built()))?.and_then(|text| text.parse().ok());
        Ok(built.and_then(|state| match state {
            State::Built { store, console } => Some(Rings { store, console }),
            _ => None,
        }))
    }

    /// What the agent's next life must know of it, if there is anything yet.
    pub fn note(&self, store: &mut Xenstore) -> Result<Option<String>, XenstoreError> {
        store.read(&self.node(&self.id.note()))
    }

    /// How far the current stage is.
    pub fn progress(&self, store: &mut Xenstore) -> Result<Option<Progress>, XenstoreError> {
        Ok(store.read(&self.node(&self.id.progress()))?.and_then(|text| text.parse().ok()))
    }

    /// The figures at the end.
    pub fn summary(&self, store: &mut Xenstore) -> Result<Option<Summary>, XenstoreError> {
        Ok(store.read(&self.node(&self.id.summary()))?.and_then(|text| text.parse().ok()))
    }

    /// The request as it was made; nothing once the agent has tidied up.
    pub fn request(&self, store: &mut Xenstore) -> Result<Option<Request>, XenstoreError> {
        Ok(store.read(&self.node(&self.id.request()))?.and_then(|text| text.parse().ok()))
    }

    /// Whether `path`, which changed, is the node of the progress.
    pub fn is_progress(&self, path: &str) -> bool {
        path == self.node(&self.id.progress())
    }

    /// Tells the agent whether the guest has suspended.
    pub fn answer_suspend(&self, store: &mut Xenstore, suspended: bool) -> Result<(), XenstoreError> {
        store.write(&self.node(&self.id.suspended()), if suspended { "yes" } else { "no" })
    }

    /// Asks the agent to give up. It will, unless the guest has left already.
    pub fn cancel(&self, store: &mut Xenstore) -> Result<(), XenstoreError> {
        store.write(&self.node(&self.id.cancel()), "yes")
    }

    fn node(&self, relative: &str) -> String {
        node(self.agent.domain, relative)
    }
}

fn node(domain: DomId, relative: &str) -> String {
    format!("/local/domain/{domain}/{ROOT}/{relative}")
}

/// A name that no other helper chooses: `out-5-` or `in-7-` and a random number.
fn new_id(what: impl fmt::Display, domain: DomId) -> Result<RequestId, Refusal> {
    let mut random = [0; 4];
    File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random)).map_err(Refusal::System)?;
    let text = format!("{what}-{domain}-{:08x}", u32::from_ne_bytes(random));
    text.parse().map_err(|_| Refusal::System(std::io::ErrorKind::InvalidInput.into()))
}
