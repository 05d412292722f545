//! The unikernel image: entry, memory, panic, and the `main` that hands Xen to the agent.
#![no_std]
#![no_main]

extern crate alloc;

mod bytes;
mod entry;
mod heap;
mod panic;

use core::fmt::Write;

use xen_pv::abi::DomId;
use xen_pv::abi::start_info::StartInfo;
use xen_pv::memory::Memory;
use xen_pv::window::Access;

/// The first Rust code, on the image's own stack.
extern "C" fn start(info: *const StartInfo) -> ! {
    // SAFETY: Xen passes a valid start_info, which nobody else uses.
    let info = unsafe { &*info };
    let _ = writeln!(panic::XenConsole, "tsmc-agent: {} pages", info.nr_pages);
    // SAFETY: Xen's start_info, and where `image.ld` puts the image; the only call.
    let mut memory = unsafe { Memory::new(info, entry::VIRT_BASE) }.unwrap();
    let pool = memory.take(1024).unwrap();
    let mut window = memory.window().unwrap();
    heap::init(memory.take_all_but(16).unwrap());
    let _ = writeln!(panic::XenConsole, "heap {:?}", heap::usage());
    let mut v = alloc::vec![0u8; 1 << 20];
    v[77777] = 1;
    let mfns: alloc::vec::Vec<u64> = (0..64).map(|i| pool.mfn(i * 3).0).collect();
    let mut page = [1; 4096];
    page[5] = 77;
    let mut m = window.map(DomId::SELF, &mfns, Access::Write);
    let _ = writeln!(panic::XenConsole, "mask {:x} {:?}", m.mask(), m.error());
    m.write(63, &page);
    drop(m);
    // SAFETY: test
    let x = unsafe { pool.page(63 * 3).as_ptr().add(5).read_volatile() };
    let _ = writeln!(panic::XenConsole, "x {x}");
    xen_pv::sched::shutdown(xen_pv::sched::Reason::Poweroff)
}
