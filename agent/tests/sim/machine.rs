//! The machine under an agent: [`agent::platform`] over a [`Guest`](super::guest::Guest).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use agent::error::PlatformError;
use agent::platform::{
    self, DirtyLog, GuestInfo, LoadMachine, Pager, Platform, Result, SaveMachine, SourceHold, SourceMemory, TargetHold,
    TargetMemory,
};
use common::{BATCH, Backends, Content, DomId, Fault, Features, Gfn, Hold, Page, PageMask, PageSet, Rings};

use super::guest::{Frame, Here, PINNED, Shared, page_of, value_of};
use super::random::Random;

/// An operation that a test can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    OpenSource,
    Frame,
    LogOn,
    FindRam,
    Read,
    Peek,
    Clean,
    MachineState,
    Retain,
    Release,
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
    ReleaseThere,
    Finish,
}

/// Everything that may fail after it, and is tried again.
pub const AFTER_COMMIT: [Op; 6] = [Op::Read, Op::Fill, Op::ReleaseThere, Op::Finish, Op::Free, Op::Destroy];

/// Everything that may fail before the commit.
pub const BEFORE_COMMIT: [Op; 16] = [
    Op::OpenSource,
    Op::Frame,
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

    fn now_ns(&self) -> u64 {
        self.clock.get()
    }
    fn random(&mut self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.random.borrow_mut().next() as u8);
    }
    fn features(&self) -> Features {
        Features { dirty_log: true, paging: true }
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
        assert_eq!((guest.borrow().uuid, memo), (uuid, MEMO));
        Ok(Leaving(self.clone(), guest))
    }
    fn adopt_target(
        &mut self,
        domain: DomId,
        uuid: [u8; 16],
        memo: u64,
        hold: Hold,
        frames: u64,
    ) -> Result<(Coming, PageSet)> {
        self.call(Op::OpenTarget, 0)?;
        let shared = self.guest(domain)?;
        let guest = &mut *shared.borrow_mut();
        if !guest.created {
            return Err(PlatformError::Gone);
        }
        assert_eq!((guest.uuid_there, memo), (uuid, MEMO));
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

fn copy(into: &mut [u64], from: &[u64]) {
    into.fill(0);
    into[..from.len()].copy_from_slice(from);
}

/// Set bits within the mask of `count` pages.
fn mask(count: usize, is_set: impl Fn(usize) -> bool) -> PageMask {
    assert!(count <= BATCH);
    (0..count).filter(|index| is_set(*index)).fold(0, |mask, index| mask | 1 << index)
}

/// The source's end.
pub struct Leaving(Machine, Shared);

impl Leaving {
    fn call(&self, op: Op, pages: usize) -> Result<()> {
        self.0.call(op, pages)?;
        if self.1.borrow().here == Here::Gone { Err(PlatformError::Gone) } else { Ok(()) }
    }
}

impl platform::Guest for Leaving {
    fn info(&mut self) -> Result<GuestInfo> {
        let guest = self.1.borrow();
        if guest.here == Here::Gone {
            return Err(PlatformError::Gone);
        }
        let pages = guest.truth.iter().flatten().count() as u64;
        Ok(GuestInfo {
            uuid: guest.uuid,
            pages,
            max_gfn: guest.frames() - 1,
            vcpus: guest.vcpus.len() as u32,
            paged_pages: 0,
            suspended: guest.here == Here::Suspended,
            stopped: guest.here == Here::Stopped,
            paused: guest.paused_by_dom0 || guest.paused_here && guest.here != Here::Destroyed,
            hap: true,
        })
    }

    fn memo(&self) -> u64 {
        MEMO
    }
}

impl SourceMemory for Leaving {
    fn find_ram(&mut self, first: Gfn, count: u64, ram: &mut [u64]) -> Result<()> {
        self.call(Op::FindRam, count as usize / 64)?;
        let guest = &mut *self.1.borrow_mut();
        for gfn in first.0..first.0 + count {
            let bit = 1 << (gfn % 64);
            let word = &mut ram[gfn as usize / 64];
            *word = if guest.truth[gfn as usize].is_some() { *word | bit } else { *word & !bit };
        }
        // The guest runs on between one look and the next.
        guest.scans += u32::from(first.0 == 0);
        if guest.moves_in_scan == Some(guest.scans) {
            guest.moves_in_scan = None;
            guest.move_page_down((first.0 + count) as usize);
        }
        Ok(())
    }

    fn are_ram(&mut self, gfns: &[Gfn]) -> Result<bool> {
        self.call(Op::FindRam, 1)?;
        let guest = self.1.borrow();
        Ok(gfns.iter().all(|gfn| guest.truth[gfn.0 as usize].is_some()))
    }

    fn read(&mut self, gfns: &[Gfn], into: &mut [Page]) -> Result<PageMask> {
        self.call(Op::Read, gfns.len())?;
        assert_eq!(gfns.len(), into.len());
        let guest = self.1.borrow();
        assert_eq!(guest.freed, 0, "memory is read that was freed");
        let values: Vec<_> = gfns.iter().map(|gfn| guest.truth[gfn.0 as usize]).collect();
        for (value, page) in values.iter().zip(into) {
            *page = value.map_or([0xaa; 4096], page_of);
        }
        Ok(mask(gfns.len(), |index| values[index].is_some()))
    }

    fn is_pinned(&self, page: &Page) -> bool {
        value_of(page) & PINNED != 0
    }

    fn free(&mut self, gfns: &[Gfn]) -> Result<()> {
        self.call(Op::Free, gfns.len())?;
        let mut guest = self.1.borrow_mut();
        assert_eq!(guest.here, Here::Retained);
        guest.freed += gfns.len();
        Ok(())
    }
}

impl DirtyLog for Leaving {
    fn log_on(&mut self) -> Result<()> {
        self.call(Op::LogOn, 0)?;
        let mut guest = self.1.borrow_mut();
        guest.logging = true;
        guest.protect();
        Ok(())
    }

    fn protected(&mut self, gfns: &[Gfn]) -> Result<PageMask> {
        self.call(Op::Peek, gfns.len())?;
        let guest = self.1.borrow();
        assert!(guest.logging);
        let is_protected = |gfn: Gfn| {
            guest.truth[gfn.0 as usize].is_some() && ![&guest.log, &guest.fresh].iter().any(|set| set.contains(gfn))
        };
        Ok(mask(gfns.len(), |index| is_protected(gfns[index])))
    }

    fn peek(&mut self, dirty: &mut [u64]) -> Result<()> {
        self.call(Op::Peek, 10)?;
        copy(dirty, self.1.borrow().log.words());
        Ok(())
    }

    fn clean(&mut self, dirty: &mut [u64]) -> Result<()> {
        self.call(Op::Clean, 1000)?;
        let mut guest = self.1.borrow_mut();
        copy(dirty, guest.log.words());
        guest.protect();
        Ok(())
    }
}

impl SaveMachine for Leaving {
    fn frame(&mut self) -> Result<Vec<u8>> {
        self.call(Op::Frame, 0)?;
        Ok(b"a frame".to_vec())
    }

    fn machine_state(&mut self, dirty: &mut [u64]) -> Result<Vec<u8>> {
        self.call(Op::MachineState, 100)?;
        let mut guest = self.1.borrow_mut();
        assert_eq!(guest.here, Here::Suspended);
        guest.paused_here = true;
        copy(dirty, guest.log.words());
        guest.protect();
        Ok(b"a machine state".to_vec())
    }

    fn first_touched(&mut self, limit: usize) -> Result<Vec<Gfn>> {
        let guest = self.1.borrow();
        assert!(limit >= 64 * guest.vcpus.len(), "the areas of some virtual CPUs are left out");
        let pinned = |gfn: &u64| guest.truth[*gfn as usize].is_some_and(|value| value & PINNED != 0);
        Ok((0..guest.frames()).filter(pinned).take(limit).map(Gfn).collect())
    }
}

impl SourceHold for Leaving {
    fn is_retained(&self) -> bool {
        self.1.borrow().here == Here::Retained
    }

    fn retain(&mut self) -> Result<()> {
        self.call(Op::Retain, 0)?;
        let mut guest = self.1.borrow_mut();
        if guest.here != Here::Suspended || !guest.paused_here {
            return Err(PlatformError::Refused { reason: RESUMED });
        }
        guest.here = Here::Retained;
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        self.call(Op::Release, 0)?;
        let mut guest = self.1.borrow_mut();
        guest.logging = false;
        guest.log.clear();
        match guest.here {
            Here::Running | Here::Suspended => {}
            Here::Retained => {
                assert!(!guest.created && !guest.ran_there && guest.freed == 0, "the commit is undone");
            }
            // What stopped by itself stays so.
            Here::Stopped => return Ok(()),
            Here::Destroyed | Here::Gone => panic!("nothing is left to give back"),
        }
        guest.paused_here = false;
        guest.here = Here::Running;
        Ok(())
    }

    fn destroy(&mut self) -> Result<()> {
        self.call(Op::Destroy, 0)?;
        let mut guest = self.1.borrow_mut();
        assert_eq!(guest.here, Here::Retained);
        guest.here = Here::Destroyed;
        Ok(())
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if self.0.dead.get() {
            return;
        }
        let mut guest = self.1.borrow_mut();
        guest.logging = false;
        guest.log.clear();
        guest.paused_here &= guest.here == Here::Retained;
    }
}

/// The target's end.
pub struct Coming(Machine, Shared);

impl Coming {
    fn put(&mut self, gfn: Gfn, content: Content<'_>) {
        let value = match content {
            Content::Bytes(page) => value_of(page),
            Content::Zero => 0,
        };
        self.1.borrow_mut().there[gfn.0 as usize] = Some(Frame { value, armed: false });
    }
    fn frame(&self, gfn: Gfn) -> Option<Frame> {
        self.1.borrow().there[gfn.0 as usize]
    }
}

impl platform::Guest for Coming {
    fn info(&mut self) -> Result<GuestInfo> {
        let guest = self.1.borrow();
        let info = GuestInfo { uuid: guest.uuid_there, ..GuestInfo::default() };
        if guest.created { Ok(info) } else { Err(PlatformError::Gone) }
    }

    fn memo(&self) -> u64 {
        MEMO
    }
}

impl TargetMemory for Coming {
    fn populate(&mut self, first: Gfn, order: u8) -> Result<()> {
        self.0.call(Op::Populate, 0)?;
        let garbage = self.0.random.borrow_mut().next() | 1;
        for gfn in first.0..first.0 + (1 << order) {
            let frame = &mut self.1.borrow_mut().there[gfn as usize];
            assert_eq!(*frame, None, "a frame is allocated twice");
            *frame = Some(Frame { value: garbage & !PINNED, armed: false });
        }
        Ok(())
    }

    fn free(&mut self, gfns: &[Gfn]) -> Result<()> {
        self.0.call(Op::Write, gfns.len())?;
        let mut guest = self.1.borrow_mut();
        assert!(!guest.released, "a running guest's memory is taken away");
        gfns.iter().for_each(|gfn| assert!(guest.there[gfn.0 as usize].take().is_some(), "nothing is there"));
        Ok(())
    }

    fn write(&mut self, pages: &[(Gfn, Content<'_>)]) -> Result<PageMask> {
        self.0.call(Op::Write, pages.len())?;
        assert!(!self.1.borrow().released, "a running guest's memory is written to");
        pages.iter().for_each(|(gfn, content)| {
            assert!(!self.frame(*gfn).expect("a frame").armed);
            self.put(*gfn, *content);
        });
        Ok(mask(pages.len(), |_| true))
    }

    fn read(&mut self, gfns: &[Gfn], into: &mut [Page]) -> Result<PageMask> {
        self.0.call(Op::ReadBack, gfns.len())?;
        assert!(!self.1.borrow().released, "a running guest's memory is read");
        for (gfn, page) in gfns.iter().zip(into) {
            let frame = self.frame(*gfn).expect("a frame");
            assert!(!frame.armed, "an absent page is read");
            *page = page_of(frame.value);
        }
        Ok(mask(gfns.len(), |_| true))
    }
}

impl Pager for Coming {
    fn can_page(&self) -> bool {
        self.1.borrow().can_page
    }

    fn arm(&mut self, gfns: &[Gfn]) -> Result<PageMask> {
        self.0.call(Op::Arm, gfns.len())?;
        assert!(!self.1.borrow().released && self.can_page());
        let refuses = |gfn: Gfn| self.0.stubborn && gfn.0.is_multiple_of(7);
        for gfn in gfns.iter().filter(|gfn| !refuses(**gfn)) {
            let frame = &mut self.1.borrow_mut().there[gfn.0 as usize];
            frame.as_mut().expect("only frames that exist are armed").armed = true;
        }
        Ok(mask(gfns.len(), |index| !refuses(gfns[index])))
    }

    fn next_fault(&mut self) -> Result<Option<Fault>> {
        let guest = &mut *self.1.borrow_mut();
        guest.faults.retain(|gfn| guest.there[gfn.0 as usize].is_some_and(|frame| frame.armed));
        if let Some(gfn) = guest.dropped.pop() {
            return Ok(Some(Fault { gfn, vcpu_waits: false, dropped: true }));
        }
        let next = if guest.faults.is_empty() { None } else { Some(guest.faults.remove(0)) };
        Ok(next.map(|gfn| Fault { gfn, vcpu_waits: true, dropped: false }))
    }

    fn fill(&mut self, pages: &[(Gfn, Content<'_>)]) -> Result<PageMask> {
        self.0.call(Op::Fill, pages.len())?;
        if !self.1.borrow().created {
            return Err(PlatformError::Gone);
        }
        pages.iter().for_each(|(gfn, content)| {
            // What the guest gave back, or has put there since, is its own business.
            if self.frame(*gfn).is_some_and(|frame| frame.armed) {
                self.put(*gfn, *content);
            }
        });
        Ok(mask(pages.len(), |_| true))
    }

    fn finish(&mut self) -> Result<()> {
        self.0.call(Op::Finish, 0)?;
        self.1.borrow_mut().finished = true;
        Ok(())
    }
}

impl LoadMachine for Coming {
    fn build(&mut self, frame: &[u8]) -> Result<Rings> {
        self.0.call(Op::Build, 0)?;
        assert_eq!(frame, b"a frame");
        Ok(Rings { store: Gfn(0xfeffc), console: Gfn(0xfeffe) })
    }

    fn load_state(&mut self, state: &[u8]) -> Result<()> {
        self.0.call(Op::LoadState, 0)?;
        assert_eq!(state, b"a machine state");
        self.1.borrow_mut().state_loaded = true;
        Ok(())
    }
}

impl TargetHold for Coming {
    fn release(&mut self) -> Result<()> {
        self.0.call(Op::ReleaseThere, 0)?;
        let mut guest = self.1.borrow_mut();
        assert!(guest.state_loaded);
        if guest.released {
            // An agent before this one has done it.
            return Ok(());
        }
        assert_eq!(guest.here, Here::Retained, "the target runs the guest before the commit");
        assert!(guest.held_there);
        guest.released = true;
        guest.held_there = false;
        Ok(())
    }

    fn has_run(&mut self) -> Result<bool> {
        Ok(self.1.borrow().ran_there)
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if !self.0.dead.get() {
            self.1.borrow_mut().held_there = false;
        }
    }
}
