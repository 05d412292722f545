//! A guest at its source.

use agent::error::PlatformError;
use agent::platform::{DirtyLog, Guest, GuestInfo, Result, SaveMachine, SourceHold, SourceMemory};
use common::{Gfn, Page, PageMask, Span};

use super::super::guest::{Here, PINNED, Shared, page_of, value_of};
use super::{MEMO, Machine, Op, RESUMED, mask};

/// The source's end.
pub struct Leaving(pub(super) Machine, pub(super) Shared);

impl Leaving {
    fn call(&self, op: Op, pages: usize) -> Result<()> {
        self.0.call(op, pages)?;
        if self.1.borrow().here == Here::Gone { Err(PlatformError::Gone) } else { Ok(()) }
    }
}

impl Guest for Leaving {
    fn info(&mut self) -> Result<GuestInfo> {
        let guest = self.1.borrow();
        if guest.here == Here::Gone {
            return Err(PlatformError::Gone);
        }
        let pages = guest.truth.iter().flatten().count() as u64;
        Ok(GuestInfo {
            uuid: guest.uuid,
            pages,
            vcpus: guest.vcpus.len() as u32,
            paged_pages: 0,
            suspended: guest.here == Here::Suspended,
            stopped: guest.here == Here::Stopped,
            paused: guest.paused_by_dom0 || guest.paused_here && guest.here != Here::Destroyed,
            hap: true,
        })
    }
}

impl SourceMemory for Leaving {
    fn is_private(&mut self) -> Result<bool> {
        Ok(self.1.borrow().is_private)
    }

    fn frames(&mut self) -> Result<u64> {
        Ok(self.1.borrow().frames())
    }

    fn find_ram(&mut self, span: Span, ram: &mut [u64]) -> Result<()> {
        self.call(Op::FindRam, span.count as usize / 64)?;
        let guest = &mut *self.1.borrow_mut();
        for gfn in span.first.0..span.end().0 {
            let bit = 1 << (gfn % 64);
            let word = &mut ram[gfn as usize / 64];
            *word = if guest.truth[gfn as usize].is_some() { *word | bit } else { *word & !bit };
        }
        // The guest runs on between one look and the next.
        guest.scans += u32::from(span.first.0 == 0);
        if guest.moves_in_scan == Some(guest.scans) {
            guest.moves_in_scan = None;
            guest.move_page_down(span.end().0 as usize);
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
    fn config(&mut self) -> Result<Vec<u8>> {
        self.call(Op::Config, 0)?;
        Ok(b"a configuration".to_vec())
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
    fn memo(&self) -> u64 {
        MEMO + u64::from(self.is_retained())
    }

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

    fn give_back(&mut self) -> Result<()> {
        self.call(Op::GiveBack, 0)?;
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

    fn free(&mut self, gfns: &[Gfn]) -> Result<()> {
        self.call(Op::Free, gfns.len())?;
        let mut guest = self.1.borrow_mut();
        assert_eq!(guest.here, Here::Retained);
        guest.freed += gfns.len();
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

fn copy(into: &mut [u64], from: &[u64]) {
    into.fill(0);
    into[..from.len()].copy_from_slice(from);
}
