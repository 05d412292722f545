//! Hypercalls on a guest that a program in dom0 makes for an agent ([`crate::broker`]).

use alloc::vec::Vec;

use common::{BATCH, DomId, Gfn, PageMask};

use super::Privcmd;
use crate::Errno;
use crate::broker::{Layout, layout};
use crate::domctl::{self, Domctl, Plain, SHADOW_OP_OFF, ShadowOp};
use crate::grant_table::{GNTST_OKAY, GNTTABOP_GET_VERSION, GNTTABOP_QUERY_SIZE, GetVersion, QuerySize};
use crate::hvm::{HVMOP_GET_MEM_TYPE, HvmGetMemType, MEM_RAM_RO};
use crate::hypercall::{DOMCTL, GRANT_TABLE_OP, MULTICALL, MulticallEntry};

/// How often a call is made again whose memory the kernel has just moved.
const ATTEMPTS: usize = 100;

impl Privcmd {
    /// The hypercall that an agent asks for: its structure and buffers, as [`crate::broker`] describes them, go in and come out. Only
    /// those that have a layout, and only on `domain`.
    pub fn on_guest(&self, operation: u64, command: u32, domain: DomId, request: &mut [u64]) -> Result<u64, Errno> {
        let word = |at: usize| (request.get(at / 8).copied().unwrap_or_default() >> (at % 8 * 8)) as u32;
        let layout = layout(operation, command, word).ok_or(Errno::EPERM)?;
        let Layout { size, domain: place, buffers } = layout;
        if request.len() * 8 != layout.length() || word(place) as u16 != domain.0 {
            return Err(Errno::EPERM);
        }
        let base = request.as_mut_ptr() as u64;
        let mut at = size.next_multiple_of(8);
        for buffer in buffers.iter().flatten() {
            let is_there = buffer.length != 0;
            request[buffer.pointer / 8] = if is_there { base + at as u64 } else { 0 };
            at += buffer.length.next_multiple_of(8);
        }
        let structure = request.as_mut_ptr() as u64;
        let arguments = match operation {
            DOMCTL => [structure, 0, 0, 0, 0],
            GRANT_TABLE_OP => [command.into(), structure, 1, 0, 0],
            _ => [command.into(), structure, 0, 0, 0],
        };
        // SAFETY: a structure that its layout describes; what it points at lies in `request`, as long as the layout says.
        unsafe { self.again(operation, arguments) }
    }

    /// Those of up to [`BATCH`] pages that are RAM of which the next write will be noticed.
    pub fn protected(&self, domain: DomId, gfns: &[Gfn]) -> Result<PageMask, Errno> {
        let gfns = &gfns[..gfns.len().min(BATCH)];
        let question = |gfn: &Gfn| HvmGetMemType { domid: domain, mem_type: 0, pad: [0; 2], pfn: gfn.0 };
        let mut questions: Vec<_> = gfns.iter().map(question).collect();
        let call = |question: &mut HvmGetMemType| MulticallEntry::hvm_op(HVMOP_GET_MEM_TYPE, question);
        let mut calls: Vec<_> = questions.iter_mut().map(call).collect();
        // SAFETY: each call is a complete question; the questions outlive it, and are read only when it is over.
        unsafe { self.again(MULTICALL, [calls.as_mut_ptr() as u64, calls.len() as u64, 0, 0, 0]) }?;
        // Of what cannot be told nothing is known.
        let is_protected = |index: &usize| {
            // SAFETY: the question that Xen has answered.
            let kind = unsafe { (&raw const questions[*index].mem_type).read_volatile() };
            calls[*index].outcome().is_ok() && kind == MEM_RAM_RO
        };
        Ok((0..gfns.len()).filter(is_protected).collect())
    }

    /// Frames of the domain's grant table, and the most it may have.
    pub fn grant_frames(&self, domain: DomId) -> Result<(u32, u32), Errno> {
        let mut question = QuerySize { dom: domain, nr_frames: 0, max_nr_frames: 0, status: GNTST_OKAY };
        let arguments = [GNTTABOP_QUERY_SIZE.into(), (&raw mut question) as u64, 1, 0, 0];
        // SAFETY: the structure of this operation.
        unsafe { self.again(GRANT_TABLE_OP, arguments) }?;
        if question.status == GNTST_OKAY {
            Ok((question.nr_frames, question.max_nr_frames))
        } else {
            Err(Errno::EACCES)
        }
    }

    /// The version of the domain's grant table.
    pub fn grant_version(&self, domain: DomId) -> Result<u32, Errno> {
        let mut question = GetVersion { dom: domain, pad: 0, version: 0 };
        let arguments = [GNTTABOP_GET_VERSION.into(), (&raw mut question) as u64, 1, 0, 0];
        // SAFETY: the structure of this operation.
        unsafe { self.again(GRANT_TABLE_OP, arguments) }?;
        Ok(question.version)
    }

    /// Takes one from the domain's pause count.
    pub fn unpause(&self, domain: DomId) -> Result<(), Errno> {
        // SAFETY: the command takes nothing.
        unsafe { self.domctl(domctl::UNPAUSEDOMAIN, domain, ()) }
    }

    /// Turns the domain's dirty log off.
    pub fn log_off(&self, domain: DomId) -> Result<(), Errno> {
        let log = ShadowOp {
            op: SHADOW_OP_OFF,
            mode: 0,
            mb: 0,
            _pad: 0,
            dirty_bitmap: core::ptr::null_mut(),
            pages: 0,
            fault_count: 0,
            dirty_count: 0,
        };
        // SAFETY: without a bitmap.
        unsafe { self.domctl(domctl::SHADOW_OP, domain, log) }
    }

    /// # Safety
    /// Addresses in `structure` must be valid for what the command reads and writes there.
    unsafe fn domctl<T: Plain>(&self, cmd: u32, domain: DomId, structure: T) -> Result<(), Errno> {
        let mut domctl = Domctl::new(cmd, domain, structure);
        // SAFETY: a whole domctl; the rest is the caller's promise.
        unsafe { self.again(DOMCTL, [(&raw mut domctl) as u64, 0, 0, 0, 0]) }.map(drop)
    }

    /// A hypercall; once more if the kernel has moved its memory just then.
    ///
    /// # Safety
    /// As [`Privcmd::hypercall`].
    unsafe fn again(&self, operation: u64, arguments: [u64; 5]) -> Result<u64, Errno> {
        let mut outcome = Err(Errno::EFAULT);
        for _ in 0..ATTEMPTS {
            // SAFETY: the caller's promise.
            outcome =
                unsafe { self.hypercall(operation, arguments) }.map_err(|errno| Errno(errno.raw_os_error() as u16));
            if outcome != Err(Errno::EFAULT) {
                break;
            }
        }
        outcome
    }
}
