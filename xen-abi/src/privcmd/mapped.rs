//! What a program in dom0 shares with other domains: pages that they grant (`gntdev.h`), event channels (`evtchn.h`), and frames of their
//! grant tables (`privcmd.h`); and what a program anywhere grants them (`gntalloc.h`).

extern crate std;

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::vec;
use std::vec::Vec;

use common::{DomId, PAGE_SIZE};
use rustix::io::Result;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::Privcmd;
use crate::grant_table::ENTRIES_PER_FRAME;
use crate::memory::RESOURCE_GRANT_TABLE;
use crate::{GrantRef, Port};

/// An ioctl whose number names neither a direction nor, always, the true size of its argument (`_IOC(_IOC_NONE, ..)`).
struct Call<'a, T: ?Sized> {
    opcode: Opcode,
    argument: *mut c_void,
    lives: PhantomData<&'a mut T>,
}

impl<'a, T> Call<'a, T> {
    fn new(kind: u8, number: u8, size: usize, argument: &'a mut [T]) -> Self {
        let opcode = (size as Opcode) << 16 | Opcode::from(kind) << 8 | Opcode::from(number);
        Self { opcode, argument: argument.as_mut_ptr().cast(), lives: PhantomData }
    }
}

// SAFETY: whoever makes one gives the argument that the number takes; it lives as long as the call.
unsafe impl<T> Ioctl for Call<'_, T> {
    type Output = u32;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<u32> {
        Ok(output as u32)
    }
}

/// Pages in a row that others may write at any time: all their words are only touched atomically.
struct Pages {
    start: NonNull<u8>,
    count: usize,
}

// SAFETY: the mapping is nobody's but this value's.
unsafe impl Send for Pages {}

impl Pages {
    fn map(file: &File, count: usize, offset: u64) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, wherever the kernel likes.
        let start =
            unsafe { mmap(ptr::null_mut(), count * PAGE_SIZE, protection, MapFlags::SHARED, file.as_fd(), offset)? };
        let start = NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { start, count })
    }

    fn long(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.count * PAGE_SIZE);
        // SAFETY: inside the mapping, which lasts as long as the reference.
        unsafe { AtomicU64::from_ptr(self.start.add(at).cast().as_ptr()) }
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= self.count * PAGE_SIZE);
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.start.add(at).cast().as_ptr()) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: nothing refers to it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.count * PAGE_SIZE) };
    }
}

/// Pages that another domain grants this one.
pub struct Shared {
    pages: Pages,
    _device: File,
}

/// `struct ioctl_gntdev_map_grant_ref` up to its references, and the size of one.
const GRANT_HEAD: usize = 4;
const GRANT_SIZE: usize = 24;

impl Shared {
    /// Maps them in a row.
    pub fn map(domain: DomId, references: &[GrantRef]) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/xen/gntdev")?;
        // count, padding, index (8 bytes), then domain and reference of each.
        let mut argument = vec![0u32; GRANT_HEAD];
        argument[0] = references.len() as u32;
        argument.extend(references.iter().flat_map(|reference| [u32::from(domain.0), reference.0]));
        // SAFETY: `IOCTL_GNTDEV_MAP_GRANT_REF` and its structure.
        unsafe { ioctl(&device, Call::new(b'G', 0, GRANT_SIZE, &mut argument)) }?;
        let offset = u64::from(argument[2]) | u64::from(argument[3]) << 32;
        Ok(Self { pages: Pages::map(&device, references.len(), offset)?, _device: device })
    }

    /// The number of 4 bytes at this place.
    pub fn word(&self, at: usize) -> u32 {
        self.pages.word(at).load(Ordering::Acquire)
    }

    /// Changes it; what was written before is seen by whoever sees this.
    pub fn set_word(&self, at: usize, value: u32) {
        self.pages.word(at).store(value, Ordering::Release);
    }

    /// Copies so many numbers of 8 bytes out, from a place that is a multiple of 8.
    pub fn read(&self, at: usize, count: usize) -> Vec<u64> {
        (0..count).map(|index| self.pages.long(at + 8 * index).load(Ordering::Relaxed)).collect()
    }

    /// Copies numbers of 8 bytes in.
    pub fn write(&self, at: usize, numbers: &[u64]) {
        for (index, number) in numbers.iter().enumerate() {
            self.pages.long(at + 8 * index).store(*number, Ordering::Relaxed);
        }
    }
}

/// Pages that a program grants other domains, as long as this lives or until it withdraws them.
pub struct Offers(File);

/// `struct ioctl_gntalloc_alloc_gref` up to its references, in words of 4 bytes, and its size with one of them.
const OFFER_HEAD: usize = 4;
const OFFER_SIZE: usize = 24;

impl Offers {
    /// None so far.
    pub fn open() -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/xen/gntalloc").map(Self)
    }

    /// Grants a domain so many new pages, which it may read; gives what [`Offers::withdraw`] takes.
    pub fn offer(&self, domain: DomId, count: u32) -> io::Result<u64> {
        // domid and flags, count, index (8 bytes), then the references.
        let mut argument = vec![0u32; OFFER_HEAD + count as usize];
        (argument[0], argument[1]) = (u32::from(domain.0), count);
        // SAFETY: `IOCTL_GNTALLOC_ALLOC_GREF` and its structure.
        unsafe { ioctl(&self.0, Call::new(b'G', 5, OFFER_SIZE, &mut argument)) }?;
        Ok(u64::from(argument[2]) | u64::from(argument[3]) << 32)
    }

    /// Grants them no longer.
    pub fn withdraw(&self, offer: u64, count: u32) -> io::Result<()> {
        let mut argument = [offer as u32, (offer >> 32) as u32, count, 0];
        // SAFETY: `IOCTL_GNTALLOC_DEALLOC_GREF` and its structure.
        unsafe { ioctl(&self.0, Call::new(b'G', 6, size_of_val(&argument), &mut argument)) }?;
        Ok(())
    }
}

/// An event channel to another domain. Readable when the other side notified.
pub struct Notifier {
    device: File,
    port: u32,
}

impl Notifier {
    /// Binds to a port that `domain` has left unbound for this one.
    pub fn bind(domain: DomId, port: Port) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/xen/evtchn")?;
        let mut argument = [u32::from(domain.0), port.0];
        // SAFETY: `IOCTL_EVTCHN_BIND_INTERDOMAIN` and its structure.
        let port = unsafe { ioctl(&device, Call::new(b'E', 1, size_of_val(&argument), &mut argument)) }?;
        Ok(Self { device, port })
    }

    /// Tells the other side to look.
    pub fn notify(&self) -> io::Result<()> {
        let mut argument = [self.port];
        // SAFETY: `IOCTL_EVTCHN_NOTIFY` and its structure.
        unsafe { ioctl(&self.device, Call::new(b'E', 4, size_of_val(&argument), &mut argument)) }?;
        Ok(())
    }

    /// Takes a notification, waiting for it, and lets the next one come. Look *after* this.
    pub fn take(&self) -> io::Result<()> {
        let mut port = [0; 4];
        (&self.device).read_exact(&mut port)?;
        (&self.device).write_all(&port)
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Frames in a row of another domain's grant table, version 1.
pub struct GrantFrames(Pages);

/// `struct privcmd_mmap_resource`.
#[derive(Clone, Copy)]
#[repr(C)]
struct MmapResource {
    domain: DomId,
    _pad: u16,
    kind: u32,
    id: u32,
    index: u32,
    count: u64,
    address: u64,
}

impl GrantFrames {
    /// Maps them; the table grows to have them.
    pub fn map(privcmd: &Privcmd, domain: DomId, first: u32, count: u32) -> io::Result<Self> {
        let pages = Pages::map(&privcmd.driver, count as usize, 0)?;
        let argument = MmapResource {
            domain,
            _pad: 0,
            kind: RESOURCE_GRANT_TABLE.into(),
            id: 0,
            index: first,
            count: count.into(),
            address: pages.start.as_ptr() as u64,
        };
        // SAFETY: `IOCTL_PRIVCMD_MMAP_RESOURCE` and its structure: it fills the mapping that was just made for it.
        unsafe { ioctl(&privcmd.driver, Call::new(b'P', 7, size_of::<MmapResource>(), &mut [argument])) }?;
        Ok(Self(pages))
    }

    /// So many that are no domain's, all entries of them empty: to try out what uses them.
    pub fn detached(count: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), count * PAGE_SIZE, protection, MapFlags::PRIVATE)? };
        let start = NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self(Pages { start, count }))
    }

    /// How many entries they have.
    pub fn entries(&self) -> usize {
        self.0.count * ENTRIES_PER_FRAME
    }

    /// An entry as it is now.
    pub fn entry(&self, index: usize) -> u64 {
        self.0.long(8 * index).load(Ordering::Acquire)
    }

    /// Puts `new` where `old` is; whether it was.
    pub fn exchange(&self, index: usize, old: u64, new: u64) -> bool {
        self.0.long(8 * index).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}
