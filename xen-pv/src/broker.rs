//! The agent's end of the broker in dom0 ([`xen_abi::broker`]): on a hypervisor where the agent has no right of its own on guests, dom0
//! makes the hypercalls on the guest that it lends, and grants its pages.
//!
//! What dom0 says is checked as far as it could harm the agent. That it tells the truth about the guest nobody can check: there dom0 may do
//! everything to every guest.

use alloc::alloc::{Layout as Allocation, alloc_zeroed};
use alloc::vec;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use common::{DomId, Gfn, PAGE_SIZE, Span};
use spin::Mutex;
use xen_abi::broker::{
    ANSWERED, ASKED, Access::*, Buffer, COMMAND, DATA, LEND, LENGTH, LENT, Layout, MAPPED, NO_GRANT, OPERATION, PAGES,
    RAM, REFERENCES, RESERVE, SPOKEN, STATUS, USED, VERSION, WINDOW, layout,
};
use xen_abi::grant_table::GrantEntryV1;
use xen_abi::hypercall::checked;
use xen_abi::{Errno, GrantRef, Port};

use crate::event::{self, Channel};
use crate::grant::Grant;
use crate::memory::machine_frame;
use crate::time;
use crate::window::{Access, copy};

/// Whom pages are lent to: dom0, where the toolstack is.
const BROKER: DomId = DomId(0);
/// How long an answer may take. Many guests wait meanwhile; a broker that takes longer is dead.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often to look whether the broker is still there.
const LOOK: Duration = Duration::from_millis(100);

/// Frames of the largest guest whose dirty bitmap goes over a ring in one piece, with what says that it is one.
pub const MOST_FRAMES: u64 = 8 * (DATA - 256) as u64;

/// All rings; none where the agent needs no broker.
static RINGS: Mutex<Vec<Ring>> = Mutex::new(Vec::new());

struct Ring {
    /// [`PAGES`] pages of ours, which dom0 may write at any time.
    pages: NonNull<u8>,
    channel: Channel,
    /// For ever: dom0 may have the pages mapped.
    grants: Vec<Grant>,
    /// Requests so far.
    asked: u32,
}

// SAFETY: one thread; the pages are ours for ever.
unsafe impl Send for Ring {}

/// Where dom0 finds a ring: the header's page and the channel.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Grants dom0 the header.
    pub header: GrantRef,
    /// The channel's end that waits for dom0.
    pub port: Port,
}

/// Pages of a guest that the agent may use now.
#[derive(Debug, Default)]
pub struct Lent {
    /// One for each page that was asked for.
    pub references: Vec<GrantRef>,
    /// Pages of earlier grants that were used, and did not stand the test.
    pub lost: Vec<Gfn>,
}

/// Makes `count` rings, for so many guests at a time.
pub fn init(count: usize) -> Result<Vec<Place>, Errno> {
    let mut rings = RINGS.lock();
    (0..count)
        .map(|_| {
            let (ring, place) = Ring::new()?;
            rings.push(ring);
            Ok(place)
        })
        .collect()
}

/// Whether the agent has no right of its own, and asks a broker for everything.
pub fn is_needed() -> bool {
    !RINGS.lock().is_empty()
}

/// The hypercall on `domain` by its broker; nothing if the agent makes its hypercalls itself.
///
/// # Safety
/// As for the hypercall: `arg` must be the structure that it takes.
pub unsafe fn hypercall<T>(operation: u64, command: u32, domain: DomId, arg: &mut T) -> Option<Result<u64, Errno>> {
    // SAFETY: the caller's promise.
    with(domain, |ring| unsafe { ring.hypercall(operation, command, arg) })
}

/// Lets this domain use up to [`WINDOW`] pages of a guest, and no others any more. `how` is made of [`WRITABLE`] and [`LOGGED`]; `used`
/// says which pages of the last call were used, by their places there.
///
/// [`WRITABLE`]: xen_abi::broker::WRITABLE
/// [`LOGGED`]: xen_abi::broker::LOGGED
pub fn lend(domain: DomId, wanted: &[Gfn], how: u32, used: impl Iterator<Item = usize>) -> Result<Lent, Errno> {
    let wanted = &wanted[..wanted.len().min(WINDOW)];
    let mut request = vec![0; USED];
    used.for_each(|place| request[place / 64] |= 1 << (place % 64));
    request.extend(wanted.iter().map(|gfn| gfn.0));
    let mut answer = ask(domain, LEND, how, &request)?;
    let lost = if answer.len() < wanted.len() { return Err(Errno::EINVAL) } else { answer.split_off(wanted.len()) };
    let reference = |number| GrantRef(u32::try_from(number).unwrap_or(NO_GRANT));
    Ok(Lent { references: answer.into_iter().map(reference).collect(), lost: gfns(lost) })
}

/// Which frames of a span hold RAM, a bit each; nothing if the agent may ask that itself.
pub fn ram(domain: DomId, Span { first, count }: Span) -> Option<Result<Vec<u64>, Errno>> {
    with(domain, |ring| ring.ask(RAM, 0, &[first.0, count]))
}

/// Which pages other domains have mapped for writing, by the guest's grants.
pub fn mapped(domain: DomId) -> Result<Vec<Gfn>, Errno> {
    Ok(gfns(ask(domain, MAPPED, 0, &[])?))
}

fn gfns(numbers: Vec<u64>) -> Vec<Gfn> {
    numbers.into_iter().map(Gfn).collect()
}

/// Fills the two entries of a new guest's grant table that belong to the toolstack.
pub fn reserve(domain: DomId, entries: [GrantEntryV1; 2]) -> Result<(), Errno> {
    ask(domain, RESERVE, 0, &entries.map(GrantEntryV1::to_word)).map(drop)
}

fn ask(domain: DomId, operation: u64, command: u32, request: &[u64]) -> Result<Vec<u64>, Errno> {
    with(domain, |ring| ring.ask(operation, command, request)).unwrap_or(Err(Errno::ENODEV))
}

/// Asks the ring on which `domain` is lent; nothing if there are no rings.
fn with<T>(domain: DomId, work: impl FnOnce(&mut Ring) -> Result<T, Errno>) -> Option<Result<T, Errno>> {
    let mut rings = RINGS.lock();
    if rings.is_empty() {
        return None;
    }
    Some(rings.iter_mut().find(|ring| ring.lends(domain)).ok_or(Errno::ETIMEDOUT).and_then(work))
}

impl Ring {
    fn new() -> Result<(Self, Place), Errno> {
        let allocation = Allocation::from_size_align(PAGES * PAGE_SIZE, PAGE_SIZE).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the size is not 0.
        let pages = NonNull::new(unsafe { alloc_zeroed(allocation) }).ok_or(Errno::ENOMEM)?;
        let channel = Channel::unbound(BROKER)?;
        let grant = |page: usize| {
            // SAFETY: inside the allocation.
            let page = unsafe { pages.add(page * PAGE_SIZE) };
            Grant::new(BROKER, machine_frame(page.as_ptr()).ok_or(Errno::EFAULT)?, Access::Write)
        };
        let grants = (0..PAGES).map(grant).collect::<Result<Vec<_>, _>>()?;
        let place = Place { header: grants[0].reference(), port: channel.port() };
        let ring = Self { pages, channel, grants, asked: 0 };
        ring.set(LENT, xen_abi::broker::NOBODY);
        ring.set(SPOKEN, VERSION);
        for (index, grant) in ring.grants[1..].iter().enumerate() {
            ring.set(REFERENCES + 4 * index, grant.reference().0);
        }
        Ok((ring, place))
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= PAGE_SIZE);
        // SAFETY: inside the header's page, all of whose words are only touched atomically.
        unsafe { AtomicU32::from_ptr(self.pages.add(at).cast().as_ptr()) }
    }

    fn set(&self, at: usize, value: u32) {
        self.word(at).store(value, Ordering::Relaxed);
    }

    /// One that was killed has not said that it lends it no longer.
    fn lends(&self, domain: DomId) -> bool {
        self.word(LENT).load(Ordering::Acquire) == u32::from(domain.0) && self.channel.is_bound()
    }

    fn data(&self) -> *mut u8 {
        // SAFETY: inside the allocation.
        unsafe { self.pages.add(PAGE_SIZE) }.as_ptr()
    }

    /// The same for a hypercall's structure and what it points at.
    ///
    /// # Safety
    /// `arg` must be the structure that the hypercall takes.
    unsafe fn hypercall<T>(&mut self, operation: u64, command: u32, arg: &mut T) -> Result<u64, Errno> {
        let base = core::ptr::from_mut(arg).cast::<u8>();
        // SAFETY: a layout asks for fields of the structure alone.
        let word = |at: usize| unsafe { base.add(at).cast::<u32>().read_unaligned() };
        let Layout { size, buffers, .. } = layout(operation, command, word).ok_or(Errno::E2BIG)?;
        assert!(size == size_of::<T>(), "the structure of another hypercall");
        // The addresses are read before dom0 can write anything over them.
        let address = |buffer: &Buffer| {
            // SAFETY: the field is an address.
            let memory = unsafe { base.add(buffer.pointer).cast::<*mut u8>().read_unaligned() };
            (memory, buffer.length, buffer.access)
        };
        let buffers: Vec<_> = buffers.iter().flatten().map(|buffer| (buffer.pointer, address(buffer))).collect();
        let all = core::iter::once((base, size, Both)).chain(buffers.iter().map(|(_, memory)| *memory));
        let mut at = 0;
        for (memory, length, _) in all.clone().filter(|(_, _, access)| *access != Write) {
            // SAFETY: the structure and its buffers are the caller's, and together no longer than the data.
            unsafe { copy(memory, self.data().add(at), length) };
            at += length.next_multiple_of(8);
        }
        let status = self.exchange(operation, command, at)?;
        let mut at = 0;
        for (memory, length, _) in all.filter(|(_, _, access)| *access != Read) {
            // SAFETY: as above.
            unsafe { copy(self.data().add(at), memory, length) };
            at += length.next_multiple_of(8);
        }
        for (pointer, (memory, ..)) in buffers {
            // SAFETY: the field that the address was read from.
            unsafe { base.add(pointer).cast::<*mut u8>().write_unaligned(memory) };
        }
        Ok(status)
    }

    /// Asks something that is no hypercall.
    fn ask(&mut self, operation: u64, command: u32, request: &[u64]) -> Result<Vec<u64>, Errno> {
        let length = size_of_val(request);
        if length > DATA {
            return Err(Errno::E2BIG);
        }
        // SAFETY: the data is ours, and the request no longer.
        unsafe { copy(request.as_ptr().cast(), self.data(), length) };
        self.exchange(operation, command, length)?;
        let length = (self.word(LENGTH).load(Ordering::Relaxed) as usize).min(DATA);
        let mut answer = vec![0u64; length / size_of::<u64>()];
        // SAFETY: as above.
        unsafe { copy(self.data(), answer.as_mut_ptr().cast(), size_of_val(answer.as_slice())) };
        Ok(answer)
    }

    /// Hands the request over and waits for the answer. Nothing else is done meanwhile.
    fn exchange(&mut self, operation: u64, command: u32, length: usize) -> Result<u64, Errno> {
        self.asked = self.asked.wrapping_add(1);
        self.set(OPERATION, operation as u32);
        self.set(COMMAND, command);
        self.set(LENGTH, length as u32);
        self.word(ASKED).store(self.asked, Ordering::Release);
        let deadline = time::now() + PATIENCE;
        self.channel.notify();
        while self.word(ANSWERED).load(Ordering::Acquire) != self.asked {
            let now = time::now();
            if now >= deadline || !self.channel.is_bound() {
                // Its answer could come in the middle of the next one: this broker is asked no more.
                self.set(LENT, xen_abi::broker::NOBODY);
                return Err(Errno::ETIMEDOUT);
            }
            event::wait(&[self.channel.port()], Some(deadline.min(now + LOOK)));
            self.channel.take_pending();
        }
        let half = |at: usize| u64::from(self.word(at).load(Ordering::Relaxed));
        checked((half(STATUS) | half(STATUS + 4) << 32) as i64)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::hypercall::fake;
    use xen_abi::domctl::{self, Body, Domctl, GetPageFrameInfo3};
    use xen_abi::event_channel::{EVTCHNOP_STATUS, EVTCHNSTAT_INTERDOMAIN, Status};
    use xen_abi::hypercall::DOMCTL;

    /// A ring of nobody's, which lends domain 5.
    fn ring() -> Ring {
        fake::stand_in(|_, [command, argument, ..]| {
            if command == u64::from(EVTCHNOP_STATUS) {
                // SAFETY: the structure of this operation.
                unsafe { (*(argument as *mut Status)).status = EVTCHNSTAT_INTERDOMAIN };
            }
            0
        });
        let allocation = Allocation::from_size_align(PAGES * PAGE_SIZE, PAGE_SIZE).expect("a layout");
        // SAFETY: the size is not 0.
        let pages = NonNull::new(unsafe { alloc_zeroed(allocation) }).expect("memory");
        let ring = Ring { pages, channel: Channel::from_builder(Port(1)), grants: Vec::new(), asked: 0 };
        ring.set(LENT, 5);
        ring
    }

    /// Answers one request as `answer` says, which gets the data and may change it; gives what was asked.
    fn broker(
        ring: &Ring,
        answer: impl FnOnce(&mut [u8]) -> (i64, usize) + Send + 'static,
    ) -> thread::JoinHandle<(u32, u32, usize)> {
        let header = ring.pages.as_ptr() as usize;
        thread::spawn(move || {
            // SAFETY: the ring's pages are never freed.
            let word = |at: usize| unsafe { AtomicU32::from_ptr((header + at) as *mut u32) };
            while word(ASKED).load(Ordering::Acquire) == word(ANSWERED).load(Ordering::Relaxed) {
                thread::yield_now();
            }
            // SAFETY: the agent waits.
            let data = unsafe { core::slice::from_raw_parts_mut((header + PAGE_SIZE) as *mut u8, DATA) };
            let asked = [OPERATION, COMMAND, LENGTH].map(|at| word(at).load(Ordering::Relaxed));
            let (status, length) = answer(data);
            word(LENGTH).store(length as u32, Ordering::Relaxed);
            word(STATUS).store(status as u32, Ordering::Relaxed);
            word(STATUS + 4).store((status >> 32) as u32, Ordering::Relaxed);
            word(ANSWERED).store(word(ASKED).load(Ordering::Relaxed), Ordering::Release);
            (asked[0], asked[1], asked[2] as usize)
        })
    }

    #[test]
    fn a_hypercall_s_buffers_go_out_and_come_back_and_its_addresses_stay() {
        let mut ring = ring();
        let broker = broker(&ring, |data| {
            // Behind the structure of 144 bytes: both frame numbers.
            assert_eq!(
                data[144..160].as_chunks().0.iter().map(|at| u64::from_le_bytes(*at)).collect::<Vec<_>>(),
                [7, 8]
            );
            data[144..152].copy_from_slice(&0xf000_0000u64.to_le_bytes());
            // An address of the broker's.
            data[24..32].fill(0xaa);
            (3, 0)
        });
        let mut array = [7u64, 8];
        let body = GetPageFrameInfo3 { num: 2, array: array.as_mut_ptr() };
        let (cmd, domain) = (domctl::GETPAGEFRAMEINFO3, DomId(5));
        let mut call = Domctl { cmd, interface_version: 21, domain, _pad: [0; 3], u: Body::new(body) };
        // SAFETY: the structure of this command.
        assert_eq!(unsafe { ring.hypercall(DOMCTL, cmd, &mut call) }, Ok(3));
        assert_eq!(broker.join().expect("the broker"), (DOMCTL as u32, cmd, 160));
        assert_eq!(call.u.structure().array, array.as_mut_ptr());
        assert_eq!(array, [0xf000_0000, 8]);
    }

    #[test]
    fn an_error_is_xens_and_an_answer_is_never_longer_than_the_ring() {
        let mut ring = ring();
        let refuses = broker(&ring, |_| (-22, 0));
        assert_eq!(ring.ask(LEND, 0, &[1]), Err(Errno::EINVAL));
        assert_eq!(refuses.join().expect("the broker"), (LEND as u32, 0, 8));
        let lies = broker(&ring, |_| (0, usize::MAX));
        assert_eq!(ring.ask(MAPPED, 9, &[]).map(|answer| answer.len()), Ok(DATA / 8));
        assert_eq!(lies.join().expect("the broker"), (MAPPED as u32, 9, 0));
        assert_eq!(ring.ask(LEND, 0, &vec![0; DATA / 8 + 1]), Err(Errno::E2BIG));
    }

    #[test]
    fn what_is_no_layout_of_a_migration_is_not_even_asked() {
        let mut ring = ring();
        let mut call = Domctl {
            cmd: domctl::IOMEM_PERMISSION,
            interface_version: 21,
            domain: DomId(5),
            _pad: [0; 3],
            u: Body::new(()),
        };
        // SAFETY: the structure of this command.
        assert_eq!(unsafe { ring.hypercall(DOMCTL, domctl::IOMEM_PERMISSION, &mut call) }, Err(Errno::E2BIG));
        assert_eq!(ring.word(ASKED).load(Ordering::Relaxed), 0);
    }
}
