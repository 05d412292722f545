//! A guest at its target.

use agent::error::PlatformError;
use agent::platform::{Guest, GuestInfo, LoadMachine, Pager, Result, TargetHold, TargetMemory};
use common::{Content, Fault, Gfn, Page, PageMask, Rings, Span};

use super::super::guest::{Frame, Here, PINNED, Shared, page_of, value_of};
use super::{Machine, Op, mask};

/// The target's end.
pub struct Coming(pub(super) Machine, pub(super) Shared);

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

impl Guest for Coming {
    fn info(&mut self) -> Result<GuestInfo> {
        let guest = self.1.borrow();
        let info = GuestInfo { uuid: guest.uuid_there, ..GuestInfo::default() };
        if guest.created { Ok(info) } else { Err(PlatformError::Gone) }
    }
}

impl TargetMemory for Coming {
    fn populate(&mut self, run: Span) -> Result<()> {
        // Where it can, 2 MiB at a time.
        self.0.call(Op::Populate, (run.count / 512 + run.count % 512) as usize)?;
        let garbage = self.0.random.borrow_mut().next() | 1;
        for gfn in run.first.0..run.end().0 {
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
    fn build(&mut self, config: &[u8]) -> Result<Rings> {
        self.0.call(Op::Build, 0)?;
        assert_eq!(config, b"a configuration");
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
    fn let_run(&mut self) -> Result<()> {
        self.0.call(Op::LetRun, 0)?;
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
