//! Mappings as any root process of dom0 can have them, through Linux's `privcmd`, `gntdev` and `/dev/mem`.

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::ptr;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use xen_abi::privcmd::Privcmd;

/// A frame.
pub const PAGE: usize = 4096;

/// `_IOC(_IOC_NONE, type, nr, size)`.
const fn opcode(group: u8, number: u8, size: usize) -> Opcode {
    ((size as Opcode) << 16) | ((group as Opcode) << 8) | number as Opcode
}

/// An ioctl whose number says the size of `T`, and whose result is the kernel's return value.
struct Call<'a, T, const GROUP: u8, const NUMBER: u8>(&'a mut T);

// SAFETY: `T` is the structure of this ioctl (each use below says which), and lives as long as the call.
unsafe impl<T, const GROUP: u8, const NUMBER: u8> Ioctl for Call<'_, T, GROUP, NUMBER> {
    type Output = i64;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode(GROUP, NUMBER, size_of::<T>())
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i64> {
        Ok(output.into())
    }
}

#[repr(C)]
struct MapBatch {
    num: u32,
    domain: u16,
    address: u64,
    frames: *const u64,
    errors: *mut i32,
}

#[repr(C)]
struct MapResource {
    domain: u16,
    kind: u32,
    id: u32,
    index: u32,
    count: u64,
    address: u64,
}

#[repr(C)]
struct MapGrant {
    count: u32,
    pad: u32,
    index: u64,
    domain: u32,
    reference: u32,
}

/// `/dev/xen/privcmd` and `/dev/xen/gntdev`.
pub struct Dom0 {
    privcmd: Privcmd,
    gntdev: File,
}

impl Dom0 {
    /// Opens both.
    pub fn open() -> io::Result<Self> {
        let gntdev = OpenOptions::new().read(true).write(true).open("/dev/xen/gntdev")?;
        Ok(Self { privcmd: Privcmd::open()?, gntdev })
    }

    /// Hypercalls.
    pub fn xen(&self) -> &Privcmd {
        &self.privcmd
    }

    /// Maps one frame of another domain, for reading and writing.
    pub fn map(&self, domain: u16, frame: u64) -> Result<Page, Errno> {
        let page = Page::reserve(&self.privcmd, 0)?;
        let mut error = 0;
        let mut call = MapBatch { num: 1, domain, address: page.0 as u64, frames: &frame, errors: &mut error };
        // SAFETY: `struct privcmd_mmapbatch_v2`; one frame, one error, and one page of addresses that is ours.
        let result = unsafe { ioctl(&self.privcmd, Call::<_, b'P', 4>(&mut call)) };
        if error != 0 {
            return Err(Errno::from_raw_os_error(-error));
        }
        result.map(|_| page)
    }

    /// Maps the first frame of another domain's grant table.
    pub fn map_grant_table(&self, domain: u16) -> Result<Page, Errno> {
        let page = Page::reserve(&self.privcmd, 0)?;
        let mut call = MapResource { domain, kind: 1, id: 0, index: 0, count: 1, address: page.0 as u64 };
        // SAFETY: `struct privcmd_mmap_resource`; one page of addresses that is ours.
        unsafe { ioctl(&self.privcmd, Call::<_, b'P', 7>(&mut call)) }.map(|_| page)
    }

    /// Maps device memory, at this physical address, as Linux's own drivers would have it.
    pub fn map_device(address: u64) -> Result<Page, Errno> {
        let memory = OpenOptions::new().read(true).write(true).open("/dev/mem").map_err(|_| Errno::NODEV)?;
        Page::reserve(memory, address)
    }

    /// Maps what another domain granted, for reading and writing.
    pub fn map_grant(&self, domain: u16, reference: u32) -> Result<Page, Errno> {
        let mut call = MapGrant { count: 1, pad: 0, index: 0, domain: domain.into(), reference };
        // SAFETY: `struct ioctl_gntdev_map_grant_ref` with one reference.
        unsafe { ioctl(&self.gntdev, Call::<_, b'G', 0>(&mut call)) }?;
        Page::reserve(&self.gntdev, call.index)
    }
}

/// One page of addresses; unmapped when dropped.
pub struct Page(*mut c_void);

impl Page {
    fn reserve(file: impl AsFd, offset: u64) -> Result<Self, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping; nothing of ours is there.
        unsafe { mmap(ptr::null_mut(), PAGE, access, MapFlags::SHARED, file, offset) }.map(Self)
    }

    /// Reads a word.
    pub fn read(&self, index: usize) -> u64 {
        assert!(index < PAGE / 8);
        // SAFETY: inside the page; others may write it, hence volatile.
        unsafe { self.0.cast::<u64>().add(index).read_volatile() }
    }

    /// Writes a word.
    pub fn write(&self, index: usize, value: u64) {
        assert!(index < PAGE / 8);
        // SAFETY: inside the page; whose memory it is is not dom0's concern here.
        unsafe { self.0.cast::<u64>().add(index).write_volatile(value) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped by `reserve`, and nobody has a pointer into it.
        let _ = unsafe { munmap(self.0, PAGE) };
    }
}
