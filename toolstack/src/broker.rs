//! The broker: on a hypervisor without FLASK the agent has no right on guests, and dom0 lends it one at a time. A thread of the
//! helper's follower makes the hypercalls that the agent asks for on that guest, and grants the agent the guest's pages in the guest's own
//! grant table, a window at a time ([`xen_abi::broker`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use common::control::{RINGS, Ring};
use common::{BATCH, DomId, Gfn, PAGE_SIZE, PageMask, Span};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mm::MlockAllFlags;
use xen_abi::broker::{
    ANSWERED, ASKED, COMMAND, DATA, DATA_PAGES, LEND, LENGTH, LENT, LOGGED, MAPPED, NOBODY, OPERATION, RAM, RAM_SPAN,
    REFERENCES, RESERVE, SPOKEN, STATUS, USED, VERSION, WINDOW, WRITABLE,
};
use xen_abi::domctl::{self, SHADOW_OP_ENABLE_LOGDIRTY, SHADOW_OP_OFF};
use xen_abi::grant_table::{GTF_WRITING, GrantEntryV1};
use xen_abi::hypercall::DOMCTL;
use xen_abi::privcmd::{GrantFrames, Notifier, Privcmd, Shared};
use xen_abi::{Errno, GrantRef, Port};

use crate::agents::Agent;
use crate::refusal::Refusal;
use crate::xenstore::Xenstore;

mod held;
mod window;

pub use held::undo_abandoned;
use held::{Held, Seat};
use window::{Ended, Window};

/// A guest that is lent to the agent, until this is dropped.
pub struct Broker {
    agent: DomId,
    /// Closing it ends the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    /// Lends the agent this guest; nothing if the agent has rights of its own.
    pub fn lend(store: &mut Xenstore, agent: &Agent, domain: DomId) -> Result<Option<Self>, Refusal> {
        let Some(rings) = agent.read(store, RINGS)? else { return Ok(None) };
        for (index, ring) in rings.split(' ').enumerate() {
            if let (Ok(ring), Some(mut seat)) = (ring.parse(), Seat::take(index)?) {
                seat.settle()?;
                return Ok(Some(Self::start(Server::new(agent.domain, ring, domain, seat)?)?));
            }
        }
        Err(Refusal::NoRing)
    }

    fn start(mut server: Server) -> io::Result<Self> {
        let (stopped, stop) = rustix::pipe::pipe()?;
        let agent = server.held.agent;
        let thread = std::thread::Builder::new().name("broker".into()).spawn(move || server.run(&stopped))?;
        Ok(Self { agent, stop: Some(stop), thread: Some(thread) })
    }

    /// The agent that it is lent to.
    pub fn agent(&self) -> DomId {
        self.agent
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One ring, and the guest behind it.
struct Server {
    ring: Shared,
    notifier: Notifier,
    privcmd: Privcmd,
    seat: Seat,
    held: Held,
    window: Option<Window>,
    /// What is granted now must be protected when that ends.
    logged: bool,
}

impl Server {
    fn new(agent: DomId, Ring { reference, port }: Ring, domain: DomId, mut seat: Seat) -> Result<Self, Refusal> {
        // A hypercall's memory must not be elsewhere when Xen looks for it.
        rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).map_err(io::Error::from)?;
        let header = Shared::map(agent, &[GrantRef(reference)])?;
        if header.word(SPOKEN) != VERSION {
            return Err(Refusal::OtherRing);
        }
        let held = Held { domain, agent, logs: false, pauses: 0 };
        seat.write(Some(held))?;
        let data = (0..DATA_PAGES).map(|page| GrantRef(header.word(REFERENCES + 4 * page)));
        let references: Vec<GrantRef> = std::iter::once(GrantRef(reference)).chain(data).collect();
        let ring = Shared::map(agent, &references)?;
        let (notifier, privcmd) = (Notifier::bind(agent, Port(port))?, Privcmd::open()?);
        ring.set_word(ANSWERED, ring.word(ASKED));
        ring.set_word(LENT, domain.0.into());
        Ok(Self { ring, notifier, privcmd, seat, held, window: None, logged: false })
    }

    /// Answers until `stopped` hangs up.
    fn run(&mut self, stopped: &OwnedFd) {
        loop {
            let mut fds =
                [PollFd::new(&self.notifier, PollFlags::IN), PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN)];
            let polled = poll(&mut fds, None);
            let [asked, ended] = fds.map(|fd| fd.revents());
            match polled {
                Err(rustix::io::Errno::INTR) => continue,
                Ok(_) if ended.is_empty() && !asked.is_empty() && self.notifier.take().is_ok() => self.answer(),
                _ => return,
            }
        }
    }

    fn answer(&mut self) {
        let asked = self.ring.word(ASKED);
        if asked == self.ring.word(ANSWERED) {
            return;
        }
        let (operation, command) = (self.ring.word(OPERATION).into(), self.ring.word(COMMAND));
        let length = (self.ring.word(LENGTH) as usize).min(DATA);
        let request = self.ring.read(PAGE_SIZE, length / NUMBER);
        let (outcome, answer) = self.carry_out(operation, command, &request);
        let status = outcome.map_or_else(|errno| -i64::from(errno.0), |number| number as i64);
        let answer = &answer[..answer.len().min(DATA / NUMBER)];
        self.ring.write(PAGE_SIZE, answer);
        self.ring.set_word(LENGTH, size_of_val(answer) as u32);
        self.ring.write(STATUS, &[status as u64]);
        self.ring.set_word(ANSWERED, asked);
        // Should it fail, the agent's patience ends this.
        let _ = self.notifier.notify();
    }

    fn carry_out(&mut self, operation: u64, command: u32, request: &[u64]) -> Answer {
        let answer = match operation {
            LEND => self.lend(request, command),
            MAPPED => self.mapped(),
            RESERVE => self.reserve(request),
            RAM => self.ram(request),
            _ => return self.hypercall(operation, command, request),
        };
        answer.map_or_else(|errno| (Err(errno), Vec::new()), |answer| (Ok(0), answer))
    }

    fn hypercall(&mut self, operation: u64, command: u32, request: &[u64]) -> Answer {
        // What is going to be done is written down before.
        let (before, mut held) = (self.held, self.held);
        let log = request.get(2).copied().unwrap_or_default() as u32;
        match (operation, command) {
            (DOMCTL, domctl::PAUSEDOMAIN) => held.pauses += 1,
            (DOMCTL, domctl::UNPAUSEDOMAIN) => held.pauses = held.pauses.saturating_sub(1),
            (DOMCTL, domctl::SHADOW_OP) if [SHADOW_OP_ENABLE_LOGDIRTY, SHADOW_OP_OFF].contains(&log) => {
                held.logs = log == SHADOW_OP_ENABLE_LOGDIRTY;
            }
            _ => {}
        }
        if self.hold(held).is_err() {
            return (Err(Errno::EIO), Vec::new());
        }
        let (outcome, answer) = self.privcmd.on_guest(operation, command, held.domain, request);
        if outcome.is_err() && self.hold(before).is_err() {
            return (Err(Errno::EIO), Vec::new());
        }
        (outcome, answer)
    }

    fn hold(&mut self, held: Held) -> io::Result<()> {
        if held != self.held {
            self.seat.write(Some(held))?;
            self.held = held;
        }
        Ok(())
    }

    fn lend(&mut self, request: &[u64], how: u32) -> Result<Vec<u64>, Errno> {
        let (used, gfns) = request.split_at_checked(USED).ok_or(Errno::EINVAL)?;
        let gfns: Vec<Gfn> = gfns.iter().copied().map(Gfn).collect();
        if gfns.len() > WINDOW {
            return Err(Errno::E2BIG);
        }
        let window = match &mut self.window {
            Some(window) => window,
            None if gfns.is_empty() => return Ok(Vec::new()),
            none => none.insert(Window::open(&self.privcmd, self.held.domain)?),
        };
        let Ended { kept, mut lost } = window.clear(|place| used[place / 64] >> (place % 64) & 1 == 1);
        if self.logged {
            for gfns in kept.chunks(BATCH) {
                let protected = self.privcmd.protected(self.held.domain, gfns)?;
                lost.extend((PageMask::first(gfns.len()) - protected).pick(gfns.iter().copied()));
            }
        }
        self.logged = how & LOGGED != 0;
        let references = window.fill(self.held.agent, &gfns, how & WRITABLE != 0);
        Ok(references.into_iter().map(u64::from).chain(lost.iter().map(|gfn| gfn.0)).collect())
    }

    fn mapped(&self) -> Result<Vec<u64>, Errno> {
        let (count, _) = self.privcmd.grant_frames(self.held.domain)?;
        let table = GrantFrames::map(&self.privcmd, self.held.domain, 0, count).map_err(|_| Errno::ENOMEM)?;
        let entries = (0..table.entries()).map(|index| GrantEntryV1::of_word(table.entry(index)));
        let written = entries.filter(|entry| entry.flags & GTF_WRITING != 0);
        Ok(written.map(|entry| entry.frame.into()).collect())
    }

    fn ram(&self, request: &[u64]) -> Result<Vec<u64>, Errno> {
        match *request {
            [first, count] if count <= RAM_SPAN => {
                self.privcmd.ram(self.held.domain, Span { first: Gfn(first), count })
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn reserve(&self, own: &[u64]) -> Result<Vec<u64>, Errno> {
        if own.len() != 2 {
            return Err(Errno::EINVAL);
        }
        let frame = GrantFrames::map(&self.privcmd, self.held.domain, 0, 1).map_err(|_| Errno::ENOMEM)?;
        for index in 0..frame.entries() {
            let new = own.get(index).copied().unwrap_or_default();
            // The domain has never run.
            if !frame.exchange(index, frame.entry(index), new) {
                return Err(Errno::EBUSY);
            }
        }
        Ok(Vec::new())
    }
}

/// What came of it, and what goes back.
type Answer = (Result<u64, Errno>, Vec<u64>);

/// Bytes of one.
const NUMBER: usize = size_of::<u64>();

impl Drop for Server {
    /// The guest is as it was: nobody uses its table, or logs what it writes, or holds it.
    fn drop(&mut self) {
        self.ring.set_word(LENT, NOBODY);
        self.held.undo(&self.privcmd);
        // What is still written down is undone once more, which changes nothing.
        let _ = self.seat.write(None);
    }
}
