//! The machine under an agent: [`agent::platform`] over a [`Guest`](super::guest::Guest).

mod source;
mod target;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use agent::error::PlatformError;
use agent::platform::{Platform, Result, SourceHold};
use common::time::Instant;
use common::{BATCH, Backends, DomId, Features, Gfn, Hold, PageMask, PageSet};

use super::guest::{Here, Shared};
use super::random::Random;
use source::Leaving;
use target::Coming;

/// An operation that a test can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    OpenSource,
    Config,
    LogOn,
    FindRam,
    Read,
    Peek,
    Clean,
    MachineState,
    Retain,
    GiveBack,
    Free,
    Destroy,
    OpenTarget,
    Build,
    Populate,
    Write,
    ReadBack,
    Arm,
    LoadState,
    Fill,
    LetRun,
    Finish,
}

/// Everything that may fail after it, and is tried again.
pub const AFTER_COMMIT: [Op; 6] = [Op::Read, Op::Fill, Op::LetRun, Op::Finish, Op::Free, Op::Destroy];

/// Everything that may fail before the commit.
pub const BEFORE_COMMIT: [Op; 16] = [
    Op::OpenSource,
    Op::Config,
    Op::LogOn,
    Op::FindRam,
    Op::Read,
    Op::Peek,
    Op::Clean,
    Op::MachineState,
    Op::Retain,
    Op::OpenTarget,
    Op::Build,
    Op::Populate,
    Op::Write,
    Op::ReadBack,
    Op::Arm,
    Op::LoadState,
];

/// Which call of which operation fails.
pub type Trouble = Rc<RefCell<Option<(Op, u32)>>>;

/// What one call costs.
const CALL_NS: u64 = 2_000;
const PAGE_NS: u64 = 500;

/// From here on domains are numbered into which guests arrive: those of the guests by the same order.
pub const THERE: u16 = 1000;

#[derive(Clone)]
pub struct Machine {
    pub clock: Rc<Cell<u64>>,
    /// All guests, by the number of the domain that they leave.
    pub guests: Rc<RefCell<Vec<Shared>>>,
    pub trouble: Trouble,
    pub random: Rc<RefCell<Random>>,
    /// Whether the policy is enforced here.
    pub enforces: Rc<Cell<bool>>,
    /// Guests bear labels here.
    pub labels: bool,
    /// Some pages refuse to be armed.
    pub stubborn: bool,
    /// The agent on it was killed: nothing that it still drops has any effect.
    pub dead: Rc<Cell<bool>>,
}

impl Machine {
    fn guest(&self, domain: DomId) -> Result<Shared> {
        self.guests.borrow().get(usize::from(domain.0 % THERE)).cloned().ok_or(PlatformError::Gone)
    }

    fn call(&self, op: Op, pages: usize) -> Result<()> {
        self.clock.set(self.clock.get() + CALL_NS + PAGE_NS * pages as u64);
        let mut trouble = self.trouble.borrow_mut();
        match trouble.as_mut() {
            Some((bad, after)) if *bad == op => {
                if *after == 0 {
                    *trouble = None;
                    return Err(PlatformError::Failed { operation: "an operation of the test", errno: 5 });
                }
                *after -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Platform for Machine {
    type Source = Leaving;
    type Target = Coming;

    fn now(&self) -> Instant {
        Instant::from_ns(self.clock.get())
    }
    fn random(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.random.borrow_mut().next() as u8);
    }
    fn features(&self) -> Features {
        Features { paging: true, labels: self.labels }
    }
    fn open_source(&mut self, domain: DomId) -> Result<Leaving> {
        self.call(Op::OpenSource, 0)?;
        Ok(Leaving(self.clone(), self.guest(domain)?))
    }
    fn open_target(&mut self, domain: DomId, _: Backends) -> Result<Coming> {
        self.call(Op::OpenTarget, 0)?;
        let guest = self.guest(domain)?;
        guest.borrow_mut().held_there = true;
        Ok(Coming(self.clone(), guest))
    }
    fn adopt_source(&mut self, domain: DomId, uuid: [u8; 16], memo: u64) -> Result<Leaving> {
        self.call(Op::OpenSource, 0)?;
        let guest = self.guest(domain)?;
        if guest.borrow().here == Here::Destroyed {
            return Err(PlatformError::Gone);
        }
        let leaving = Leaving(self.clone(), guest);
        assert_eq!((leaving.1.borrow().uuid, memo), (uuid, leaving.memo()));
        Ok(leaving)
    }
    fn adopt_target(&mut self, domain: DomId, uuid: [u8; 16], hold: Hold, frames: u64) -> Result<(Coming, PageSet)> {
        self.call(Op::OpenTarget, 0)?;
        let shared = self.guest(domain)?;
        let guest = &mut *shared.borrow_mut();
        if !guest.created {
            return Err(PlatformError::Gone);
        }
        assert_eq!(guest.uuid_there, uuid);
        assert!(hold == Hold::Held || !guest.held_there, "the note says otherwise");
        let mut missing = PageSet::new(frames);
        let absent = guest.there.iter().enumerate().filter(|(_, frame)| frame.is_some_and(|frame| frame.armed));
        absent
            .for_each(|(gfn, _)| assert!(missing.insert(Gfn(gfn as u64)), "the note says that the guest ends before"));
        guest.faults = guest.vcpus.iter().flatten().map(|(gfn, _)| *gfn).collect();
        Ok((Coming(self.clone(), shared.clone()), missing))
    }
    fn can_retain(&self) -> Result<()> {
        if self.enforces.get() { Ok(()) } else { Err(PlatformError::Refused { reason: NOT_ENFORCED }) }
    }
    fn has_run(&self, domain: DomId) -> Result<bool> {
        Ok(self.guest(domain)?.borrow().ran_there)
    }
    fn discard(&mut self, domain: DomId) -> Result<()> {
        self.call(Op::Destroy, 0)?;
        let shared = self.guest(domain)?;
        let guest = &mut *shared.borrow_mut();
        match guest.here {
            Here::Retained => guest.here = Here::Destroyed,
            Here::Destroyed | Here::Gone => return Err(PlatformError::Gone),
            Here::Running | Here::Suspended | Here::Stopped => {
                return Err(PlatformError::Refused { reason: "the guest has not left this host" });
            }
        }
        Ok(())
    }
}

/// Why a guest that dom0 has resumed does not leave.
pub const RESUMED: &str = "the guest was resumed after its state had been taken";

/// Why nobody moves a guest here.
pub const NOT_ENFORCED: &str = "the policy is not enforced";

/// What every guest gives its agent to keep.
const MEMO: u64 = 0x1234_5678_9abc_def0;

/// Set bits within the mask of `count` pages.
fn mask(count: usize, is_set: impl Fn(usize) -> bool) -> PageMask {
    assert!(count <= BATCH);
    (0..count).filter(|index| is_set(*index)).collect()
}
