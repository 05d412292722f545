//! Which pages of a guest are absent, when the agent that made them so is gone.
//!
//! Xen has no question for it: to a toolstack an absent page looks like any RAM, and one that kept its frame is not counted
//! (`paged_pages`). But while a dirty log is on, a page that is present reads as one that cannot be written to as it is, and
//! an absent one does not (`p2m_is_readonly`, `p2m_recalc_type` in `xen/arch/x86`): nothing about a page must change to tell.
//!
//! A page that the guest has written to since then looks absent too, and what the log holds does not tell the two apart: a
//! write to an absent page is logged as well (`hvm_hap_nested_page_fault`). So what looks absent while the guest runs is
//! looked at again while it stands still.

use alloc::vec;
use alloc::vec::Vec;

use common::{BATCH, DomId, Gfn, PageMask, PageSet, Span};
use xen_abi::Errno;
use xen_abi::domctl::DOMINF_HAP;
use xen_abi::hvm::MEM_RAM_RW;

use super::dirty_log::DirtyLog;
use super::error::{Error, Operation, Result};
use super::kind::Kind;
use super::ram::Scan;
use super::{domctl, memory};

/// The pages of a guest.
pub(super) struct Pages {
    /// Those that are absent.
    pub(super) absent: PageSet,
    /// A few that are present.
    pub(super) present: Vec<Gfn>,
}

/// How many present pages are remembered.
const PRESENT: usize = 64;

/// Looks at every page of a guest that the agent may have made absent: at those below `frames`.
pub(super) fn find(domain: DomId, kind: &'static Kind, frames: u64) -> Result<Pages> {
    let mut bits = vec![0; frames.div_ceil(64) as usize];
    let mut present = Vec::new();
    // Only hardware-assisted paging can make pages absent.
    if domctl::live_info(domain)?.flags & DOMINF_HAP != 0 {
        Scan::new(kind).find(domain, Span { first: Gfn(0), count: frames }, &mut bits)?;
        look(domain, &mut bits, &mut present)?;
        if bits.iter().any(|word| *word != 0) {
            domctl::pause(domain)?;
            let looked = look(domain, &mut bits, &mut present);
            domctl::unpause(domain)?;
            looked?;
        }
    }
    Ok(Pages { absent: PageSet::from_words(bits, frames), present })
}

/// Leaves those frames in `bits` that look absent, and remembers a few of the others.
fn look(domain: DomId, bits: &mut [u64], present: &mut Vec<Gfn>) -> Result {
    let log = start_log(domain)?;
    for (first, word) in (0..).step_by(BATCH).zip(bits).filter(|(_, word)| **word != 0) {
        let mut gfns = [Gfn(0); BATCH];
        let mut count = 0;
        for bit in PageMask(*word).iter() {
            gfns[count] = Gfn(first + bit as u64);
            count += 1;
        }
        for (gfn, kind) in gfns[..count].iter().zip(memory::types(domain, &gfns[..count])?) {
            if kind != MEM_RAM_RW {
                *word &= !(1 << (gfn.0 - first));
                if present.len() < PRESENT {
                    present.push(*gfn);
                }
            }
        }
    }
    log.stop()
}

/// Turns the dirty log on; an agent that looked before us may have died over it.
fn start_log(domain: DomId) -> Result<DirtyLog> {
    match DirtyLog::start(domain) {
        Err(Error::Xen { operation: Operation::DirtyLog, errno: Errno::EINVAL }) => {
            DirtyLog::adopt(domain).stop()?;
            DirtyLog::start(domain)
        }
        result => result,
    }
}
