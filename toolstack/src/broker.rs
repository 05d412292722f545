//! The broker: on a hypervisor without FLASK the agent has no right on guests, and dom0 lends it one at a time. A thread of the
//! helper's follower makes the hypercalls that the agent asks for on that guest, and grants the agent the guest's pages in the guest's own
//! grant table, a window at a time ([`xen_abi::broker`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use common::control::{RINGS, Ring};
use common::{BATCH, DomId, Gfn, PAGE_SIZE, PageMask};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mm::MlockAllFlags;
use xen_abi::broker::{
    ANSWERED, ASKED, COMMAND, DATA, DATA_PAGES, LEND, LENGTH, LENT, LOGGED, MAPPED, NOBODY, OPERATION, REFERENCES,
    RESERVE, STATUS, USED, WINDOW, WRITABLE,
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
    fn new(agent: DomId, Ring { reference, port }: Ring, domain: DomId, mut seat: Seat) -> io::Result<Self> {
        // A hypercall's memory must not be elsewhere when Xen looks for it.
        rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)?;
        let held = Held { domain, agent, logs: false, pauses: 0 };
        seat.write(Some(held))?;
        let header = Shared::map(agent, &[GrantRef(reference)])?;
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
        let mut request = vec![0; length];
        self.ring.read(PAGE_SIZE, &mut request);
        let (status, answer) = match self.carry_out(operation, command, &request) {
            Ok((number, answer)) => (number as i64, answer),
            Err((errno, answer)) => (-i64::from(errno.0), answer),
        };
        self.ring.write(PAGE_SIZE, &answer[..answer.len().min(DATA)]);
        self.ring.set_word(LENGTH, answer.len() as u32);
        self.ring.write(STATUS, &status.to_le_bytes());
        self.ring.set_word(ANSWERED, asked);
        // Should it fail, the agent's patience ends this.
        let _ = self.notifier.notify();
    }

    fn carry_out(&mut self, operation: u64, command: u32, request: &[u8]) -> Result<Answer, (Errno, Vec<u8>)> {
        let answer = match operation {
            LEND => self.lend(request, command),
            MAPPED => self.mapped(),
            RESERVE => self.reserve(request),
            _ => return self.hypercall(operation, command, request),
        };
        answer.map(|answer| (0, answer)).map_err(|errno| (errno, Vec::new()))
    }

    /// Xen leaves something in the structure also when it refuses.
    fn hypercall(&mut self, operation: u64, command: u32, request: &[u8]) -> Result<Answer, (Errno, Vec<u8>)> {
        let (words, rest) = request.as_chunks();
        if !rest.is_empty() {
            return Err((Errno::EINVAL, Vec::new()));
        }
        let mut words: Vec<u64> = words.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        // What is going to be done is written down before.
        let (before, mut held) = (self.held, self.held);
        let log = words.get(2).copied().unwrap_or_default() as u32;
        match (operation, command) {
            (DOMCTL, domctl::PAUSEDOMAIN) => held.pauses += 1,
            (DOMCTL, domctl::UNPAUSEDOMAIN) => held.pauses = held.pauses.saturating_sub(1),
            (DOMCTL, domctl::SHADOW_OP) if [SHADOW_OP_ENABLE_LOGDIRTY, SHADOW_OP_OFF].contains(&log) => {
                held.logs = log == SHADOW_OP_ENABLE_LOGDIRTY;
            }
            _ => {}
        }
        self.hold(held).map_err(|_| (Errno::EIO, Vec::new()))?;
        let outcome = self.privcmd.on_guest(operation, command, held.domain, &mut words);
        let answer: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        match outcome {
            Ok(number) => Ok((number, answer)),
            Err(errno) => {
                self.hold(before).map_err(|_| (Errno::EIO, Vec::new()))?;
                Err((errno, answer))
            }
        }
    }

    fn hold(&mut self, held: Held) -> io::Result<()> {
        if held != self.held {
            self.seat.write(Some(held))?;
            self.held = held;
        }
        Ok(())
    }

    fn lend(&mut self, request: &[u8], how: u32) -> Result<Vec<u8>, Errno> {
        let (used, gfns) = request.split_at_checked(USED).ok_or(Errno::EINVAL)?;
        let gfns: Vec<Gfn> = gfns.as_chunks().0.iter().map(|bytes| Gfn(u64::from_le_bytes(*bytes))).collect();
        if gfns.len() > WINDOW {
            return Err(Errno::E2BIG);
        }
        let window = match &mut self.window {
            Some(window) => window,
            None if gfns.is_empty() => return Ok(Vec::new()),
            none => none.insert(Window::open(&self.privcmd, self.held.domain)?),
        };
        let Ended { kept, mut lost } = window.clear(|place| used[place / 8] >> (place % 8) & 1 == 1);
        if self.logged {
            for gfns in kept.chunks(BATCH) {
                let protected = self.privcmd.protected(self.held.domain, gfns)?;
                lost.extend((PageMask::first(gfns.len()) - protected).pick(gfns.iter().copied()));
            }
        }
        self.logged = how & LOGGED != 0;
        let references = window.fill(self.held.agent, &gfns, how & WRITABLE != 0);
        let mut answer: Vec<u8> = references.iter().flat_map(|reference| reference.to_le_bytes()).collect();
        answer.extend(lost.iter().flat_map(|gfn| gfn.0.to_le_bytes()));
        Ok(answer)
    }

    fn mapped(&self) -> Result<Vec<u8>, Errno> {
        let (count, _) = self.privcmd.grant_frames(self.held.domain)?;
        let table = GrantFrames::map(&self.privcmd, self.held.domain, 0, count).map_err(|_| Errno::ENOMEM)?;
        let entries = (0..table.entries()).map(|index| GrantEntryV1::of_word(table.entry(index)));
        let written = entries.filter(|entry| entry.flags & GTF_WRITING != 0);
        Ok(written.flat_map(|entry| u64::from(entry.frame).to_le_bytes()).collect())
    }

    fn reserve(&self, request: &[u8]) -> Result<Vec<u8>, Errno> {
        let (own, _) = request.as_chunks();
        if own.len() != 2 {
            return Err(Errno::EINVAL);
        }
        let frame = GrantFrames::map(&self.privcmd, self.held.domain, 0, 1).map_err(|_| Errno::ENOMEM)?;
        for index in 0..frame.entries() {
            let new = own.get(index).map_or(0, |entry| u64::from_le_bytes(*entry));
            // The domain has never run.
            if !frame.exchange(index, frame.entry(index), new) {
                return Err(Errno::EBUSY);
            }
        }
        Ok(Vec::new())
    }
}

/// What a hypercall returned, and what goes back.
type Answer = (u64, Vec<u8>);

impl Drop for Server {
    /// The guest is as it was: nobody uses its table, or logs what it writes, or holds it.
    fn drop(&mut self) {
        self.ring.set_word(LENT, NOBODY);
        self.held.undo(&self.privcmd);
        // What is still written down is undone once more, which changes nothing.
        let _ = self.seat.write(None);
    }
}
