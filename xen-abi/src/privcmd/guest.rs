//! Hypercalls on a guest that a program in dom0 makes for an agent ([`crate::broker`]).

use alloc::vec;
use alloc::vec::Vec;

use common::{BATCH, DomId, Gfn, PageMask, Span, bits};

use super::Privcmd;
use crate::Errno;
use crate::broker::{Access, Buffer, Layout, layout};
use crate::domctl::{self, Domctl, GetPageFrameInfo3, PAGE_FRAME_INFOS, Plain, SHADOW_OP_OFF, ShadowOp};
use crate::grant_table::{GNTST_OKAY, GNTTABOP_GET_VERSION, GNTTABOP_QUERY_SIZE, GetVersion, QuerySize};
use crate::hvm::{HVMOP_GET_MEM_TYPE, HvmGetMemType, MEM_RAM_RO};
use crate::hypercall::{DOMCTL, GRANT_TABLE_OP, MULTICALL, MulticallEntry};

/// How often a call is made again whose memory the kernel has just moved.
const ATTEMPTS: usize = 100;

impl Privcmd {
    /// The hypercall that an agent asks for: its structure and buffers, as [`crate::broker`] describes them, go in and come out. Only
    /// those that have a layout, and only on `domain`.
    /// Gives the answer also if Xen refuses: it leaves something in the structure then, too.
    pub fn on_guest(
        &self,
        operation: u64,
        command: u32,
        domain: DomId,
        request: &[u64],
    ) -> (Result<u64, Errno>, Vec<u64>) {
        let word = |at: usize| (request.get(at / 8).copied().unwrap_or_default() >> (at % 8 * 8)) as u32;
        let is_allowed =
            |layout: &Layout| request.len() * 8 == layout.request() && word(layout.domain) as u16 == domain.0;
        let Some(Layout { size, buffers, .. }) = layout(operation, command, word).filter(is_allowed) else {
            return (Err(Errno::EPERM), Vec::new());
        };
        let (structure, mut rest) = request.split_at(size.div_ceil(8));
        let mut structure = structure.to_vec();
        let mut buffers = buffers.map(|buffer| {
            let Buffer { pointer, length, access } = buffer?;
            let mut memory = vec![0; length.div_ceil(8)];
            if access != Access::Write {
                let (given, others) = rest.split_at(memory.len());
                memory.copy_from_slice(given);
                rest = others;
            }
            structure[pointer / 8] = if length == 0 { 0 } else { memory.as_mut_ptr() as u64 };
            Some((memory, access))
        });
        let address = structure.as_mut_ptr() as u64;
        let arguments = match operation {
            DOMCTL => [address, 0, 0, 0, 0],
            GRANT_TABLE_OP => [command.into(), address, 1, 0, 0],
            _ => [command.into(), address, 0, 0, 0],
        };
        // SAFETY: a structure that its layout describes, and buffers of ours that are as long as it says.
        let outcome = unsafe { self.again(operation, arguments) };
        for (memory, _) in buffers.iter_mut().flatten().filter(|(_, access)| *access != Access::Read) {
            structure.append(memory);
        }
        (outcome, structure)
    }

    /// Which frames of a span hold RAM, a bit each.
    pub fn ram(&self, domain: DomId, span: Span) -> Result<Vec<u64>, Errno> {
        let mut ram = vec![0; span.count.div_ceil(64) as usize];
        let mut types = Vec::with_capacity(PAGE_FRAME_INFOS);
        for first in (0..span.count).step_by(PAGE_FRAME_INFOS) {
            let end = span.count.min(first + PAGE_FRAME_INFOS as u64);
            types.clear();
            types.extend((first..end).map(|place| span.first.0.wrapping_add(place)));
            let body = GetPageFrameInfo3 { num: types.len() as u64, array: types.as_mut_ptr() };
            // SAFETY: Xen reads and writes so many entries.
            unsafe { self.domctl(domctl::GETPAGEFRAMEINFO3, domain, body) }?;
            let found = (first..end).zip(&types).filter(|(_, kind)| domctl::is_ram(**kind));
            found.for_each(|(place, _)| bits::insert(&mut ram, Gfn(place)));
        }
        Ok(ram)
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
        let mut domctl = Domctl::new(self.domctl, cmd, domain, structure);
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
