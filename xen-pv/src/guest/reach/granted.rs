//! Guests' memory by grants that dom0's broker makes, a window of the guest at a time: the hypervisor copies, and nothing is mapped.

use alloc::vec::Vec;

use common::{BATCH, Content, DomId, Gfn, PAGE_SIZE, Page, PageMask};
use xen_abi::broker::{LOGGED, NO_GRANT, WINDOW, WRITABLE};
use xen_abi::grant_table::{
    COPY_DEST_GREF, COPY_SOURCE_GREF, CopyEnd, GNTST_OKAY, GNTST_PERMISSION_DENIED, GNTTABOP_COPY, GrantCopy,
};
use xen_abi::{Errno, GrantRef};

use crate::guest::error::{Error, Operation, Result};
use crate::memory::machine_frame;
use crate::window::Access;
use crate::{broker, hypercall};

/// A page of zeros to copy from.
static ZEROS: Page = [0; PAGE_SIZE];

const NO_ROOM: &str =
    "the guest's grant table has no room for the agent: raise max_grant_frames in the guest's configuration";

const FORBIDDEN: &str =
    "this hypervisor forbids grants between guests (xsm=silo on its command line): the agent can reach no guest";

/// What one guest grants now.
#[derive(Default)]
pub(super) struct Granted {
    writable: bool,
    /// What is copied must be in the dirty log when it is written again.
    logged: bool,
    /// The pages that were asked for, by their places, and behind them those that follow the last of them.
    asked: Vec<Gfn>,
    window: Vec<Entry>,
    /// Pages that were copied by grants which did not stand the test, since somebody asked.
    lost: Vec<Gfn>,
}

/// A page that is granted, if there was room.
struct Entry {
    reference: GrantRef,
    copied: bool,
}

impl Granted {
    /// Copies up to [`BATCH`] pages out; says which could be read.
    pub(super) fn read(&mut self, domain: DomId, gfns: &[Gfn], into: &mut [Page]) -> Result<PageMask> {
        self.lend(domain, gfns, Access::Read)?;
        let pages = gfns.iter().zip(into).map(|(gfn, page)| (*gfn, page.as_mut_ptr().cast_const()));
        self.copy(domain, pages, Access::Read)
    }

    /// Writes up to [`BATCH`] pages; says which could be written.
    pub(super) fn write(&mut self, domain: DomId, pages: &[(Gfn, Content<'_>)]) -> Result<PageMask> {
        let gfns: Vec<Gfn> = pages.iter().map(|page| page.0).collect();
        self.lend(domain, &gfns, Access::Write)?;
        let pages = pages.iter().map(|(gfn, content)| match content {
            Content::Bytes(page) => (*gfn, page.as_ptr()),
            Content::Zero => (*gfn, ZEROS.as_ptr()),
        });
        self.copy(domain, pages, Access::Write)
    }

    /// Ends all grants. Gives the pages that were copied since the last call by grants which did not stand the test.
    pub(super) fn end(&mut self, domain: DomId, logged: bool) -> Result<Vec<Gfn>> {
        self.take_window(domain, &[], Access::Read)?;
        self.logged = logged;
        Ok(core::mem::take(&mut self.lost))
    }

    /// Sees to it that all these pages are granted, with as many of those that follow them as there is room for.
    fn lend(&mut self, domain: DomId, gfns: &[Gfn], access: Access) -> Result {
        let may = access == Access::Read || self.writable;
        if may && gfns.iter().all(|gfn| self.find(*gfn).is_some()) {
            return Ok(());
        }
        self.take_window(domain, gfns, access)?;
        if gfns.iter().all(|gfn| self.find(*gfn).is_some()) { Ok(()) } else { Err(Error::Refused(NO_ROOM)) }
    }

    fn take_window(&mut self, domain: DomId, gfns: &[Gfn], access: Access) -> Result {
        let writable = access == Access::Write;
        let how = if writable { WRITABLE } else { 0 } | if self.logged { LOGGED } else { 0 };
        let mut wanted = gfns.to_vec();
        if let Some(last) = gfns.iter().max() {
            wanted.extend((1..).map(|distance| Gfn(last.0.wrapping_add(distance))).take(WINDOW - gfns.len()));
        }
        let used = self.window.iter().enumerate().filter(|(_, entry)| entry.copied).map(|(place, _)| place);
        let lent = broker::lend(domain, &wanted, how, used).map_err(|errno| Operation::Lend.error(errno))?;
        self.lost.extend(lent.lost);
        (self.writable, self.asked) = (writable, gfns.to_vec());
        self.window = lent.references.into_iter().map(|reference| Entry { reference, copied: false }).collect();
        Ok(())
    }

    /// Where a page is in the window.
    fn find(&self, gfn: Gfn) -> Option<usize> {
        let last = self.asked.iter().max()?;
        let place = match gfn.0.checked_sub(last.0) {
            None | Some(0) => self.asked.iter().position(|asked| *asked == gfn)?,
            Some(distance) => self.asked.len() - 1 + usize::try_from(distance).ok()?,
        };
        self.window.get(place).filter(|entry| entry.reference.0 != NO_GRANT).map(|_| place)
    }

    /// Copies between pages of the guest and places of ours, as many as one hypercall takes; says which pages were copied whole.
    fn copy(
        &mut self,
        domain: DomId,
        pages: impl Iterator<Item = (Gfn, *const u8)>,
        access: Access,
    ) -> Result<PageMask> {
        let mut pieces = Vec::with_capacity(2 * BATCH);
        let mut count = 0;
        for (gfn, page) in pages {
            let entry = self.find(gfn).map(|at| &mut self.window[at]).ok_or(Error::Refused(NO_ROOM))?;
            entry.copied = true;
            pieces.extend(of_page(domain, entry.reference, page, access)?);
            count += 1;
        }
        // SAFETY: the places of ours that are written are pages that the caller lends us mutably.
        unsafe { hypercall::grant_table_op(GNTTABOP_COPY, &mut pieces) }
            .map_err(|errno| Operation::CopyGranted.error(errno))?;
        if pieces.iter().any(|piece| piece.status == GNTST_PERMISSION_DENIED) {
            return Err(Error::Refused(FORBIDDEN));
        }
        let mut mask = PageMask::first(count);
        let mut page = 0;
        for piece in &pieces {
            let (guest, _) = ends(piece, access);
            if piece.status != GNTST_OKAY {
                mask = mask - core::iter::once(page).collect();
            }
            page += usize::from(usize::from(guest.offset) + usize::from(piece.len) == PAGE_SIZE);
        }
        Ok(mask)
    }
}

fn ends(piece: &GrantCopy, access: Access) -> (CopyEnd, CopyEnd) {
    match access {
        Access::Read => (piece.source, piece.dest),
        Access::Write => (piece.dest, piece.source),
    }
}

/// One page: a piece for each page of ours that it lies in.
fn of_page(
    domain: DomId,
    GrantRef(reference): GrantRef,
    page: *const u8,
    access: Access,
) -> Result<impl Iterator<Item = GrantCopy>> {
    let offset = page as usize % PAGE_SIZE;
    let first = PAGE_SIZE - offset;
    let piece = |at: usize, length: usize| {
        let ours = page.wrapping_add(at);
        let frame = machine_frame(ours).ok_or(Operation::CopyGranted.error(Errno::EFAULT))?;
        let own = CopyEnd { frame: frame.0, domid: DomId::SELF.0, offset: (ours as usize % PAGE_SIZE) as u16, pad: 0 };
        let guest = CopyEnd { frame: reference.into(), domid: domain.0, offset: at as u16, pad: 0 };
        let (source, dest, flags) = match access {
            Access::Read => (guest, own, COPY_SOURCE_GREF),
            Access::Write => (own, guest, COPY_DEST_GREF),
        };
        Ok::<_, Error>(GrantCopy { source, dest, len: length as u16, flags, status: GNTST_OKAY, pad: 0 })
    };
    let rest = if offset == 0 { None } else { Some(piece(first, offset)?) };
    Ok(core::iter::once(piece(0, first)?).chain(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_found_among_those_asked_for_or_behind_the_last_of_them_if_it_is_granted() {
        let references =
            [50, 51, 52, 53, NO_GRANT, 55].map(|reference| Entry { reference: GrantRef(reference), copied: false });
        let asked = [5, 9, 7].map(Gfn).to_vec();
        let granted = Granted { asked, window: references.into(), ..Granted::default() };
        let found = [5, 9, 7, 10, 12].map(|gfn| granted.find(Gfn(gfn)));
        assert_eq!(found, [Some(0), Some(1), Some(2), Some(3), Some(5)]);
        for gfn in [0, 4, 6, 8, 11, 13, u64::MAX] {
            assert_eq!(granted.find(Gfn(gfn)), None, "{gfn}");
        }
        assert_eq!(Granted::default().find(Gfn(0)), None);
    }
}
