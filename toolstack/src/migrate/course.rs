//! The state and progress of a migration's session with the agent.

use common::DomId;
use common::control::{Progress, RequestId, State};

use crate::agents::{Agent, Session, Way};
use crate::refusal::Refusal;
use crate::xenstore::{Xenstore, XenstoreError};

/// What is seen of a migration at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Where it stands, if it has begun.
    pub state: Option<State>,
    /// How far the stage is.
    pub progress: Option<Progress>,
}

impl Snapshot {
    /// Whether the guest belongs to the other host.
    pub fn has_left(&self) -> bool {
        matches!(self.state, Some(State::Committed | State::Complete | State::Interrupted { .. }))
    }
}

/// The session of one migration of one domain, whichever agent has it.
pub struct Course {
    domain: DomId,
    /// Sessions of earlier migrations.
    earlier: Vec<RequestId>,
    session: Option<Session>,
}

impl Course {
    /// What will be begun from now on.
    pub fn new(store: &mut Xenstore, domain: DomId) -> Result<Self, Refusal> {
        let earlier = Agent::find(store)?.sessions(store)?;
        Ok(Self { domain, earlier, session: None })
    }

    /// Whether an agent has been asked for it.
    pub fn has_begun(&self) -> bool {
        self.session.is_some()
    }

    /// Looks where it stands.
    pub fn look(&mut self, store: &mut Xenstore) -> Result<Snapshot, Refusal> {
        if let Some(session) = &self.session
            && let Some(state) = session.state(store)?
        {
            return Ok(Snapshot { state: Some(state), progress: session.progress(store)? });
        }
        // Not begun, or in the hands of another agent now.
        if let Some(session) = self.find(store)? {
            self.session = Some(session);
        }
        Ok(Snapshot::default())
    }

    fn find(&self, store: &mut Xenstore) -> Result<Option<Session>, Refusal> {
        let agent = match Agent::find(store) {
            Ok(agent) => agent,
            Err(Refusal::NoAgent | Refusal::AgentNotReady { .. }) => return Ok(None),
            Err(refusal) => return Err(refusal),
        };
        let ids = agent.sessions(store)?.into_iter().filter(|id| !self.earlier.contains(id));
        let mut sessions = ids.map(|id| Session { agent: agent.clone(), id });
        Ok(sessions.rfind(|session| session.guest() == Some((Way::Out, self.domain))))
    }

    /// Asks the agent to give it up; whether there was one to ask.
    pub fn cancel(&self, store: &mut Xenstore) -> Result<bool, XenstoreError> {
        match &self.session {
            Some(session) => session.cancel(store).map(|()| true),
            None => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeStore;

    #[test]
    fn a_migration_is_found_among_others_and_with_the_next_agent() {
        let (fake, mut store) = FakeStore::with_agent();
        let home = "/local/domain/1/data/tsmc/session";
        fake.set(&format!("{home}/out-5-00000001/state"), "failed cause=other reason=an earlier one");
        let mut course = Course::new(&mut store, DomId(5)).expect("an agent");
        fake.set(&format!("{home}/out-6-00000002/state"), "copying");
        let mut look = || course.look(&mut store).map(|seen| seen.state).expect("an answer");
        assert_eq!(look(), None);
        fake.set(&format!("{home}/out-5-00000000/state"), "copying");
        look();
        assert_eq!(look(), Some(State::Copying));
        fake.remove("/local/domain/1");
        assert_eq!(look(), None);
        fake.add_agent(9);
        fake.set("/local/domain/9/data/tsmc/session/out-5-00000003/state", "complete");
        look();
        assert_eq!(look(), Some(State::Complete));
    }
}
