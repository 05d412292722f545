//! The console: a ring that the toolstack's console daemon reads; the hypervisor's own console where there is none.

use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use spin::Mutex;
use xen_abi::start_info::{SIF_INITDOMAIN, StartInfo};

use crate::event::{self, Channel};
use crate::{hypercall, memory, time, window};

const IN: usize = 1024;
const OUT: usize = 2048;
/// How long a full ring may hold us up before output is dropped.
const PATIENCE: Duration = Duration::from_millis(20);

/// `struct xencons_interface`.
#[repr(C)]
struct Ring {
    input: UnsafeCell<[u8; IN]>,
    output: UnsafeCell<[u8; OUT]>,
    in_cons: AtomicU32,
    in_prod: AtomicU32,
    out_cons: AtomicU32,
    out_prod: AtomicU32,
}

struct Console {
    ring: NonNull<Ring>,
    channel: Channel,
}

// SAFETY: one thread; the ring is only touched as `Console` does it.
unsafe impl Send for Console {}

static CONSOLE: Mutex<Option<Console>> = Mutex::new(None);

/// Finds the ring; without one the hypervisor's console serves.
pub fn init(info: &StartInfo) {
    if info.flags & SIF_INITDOMAIN != 0 {
        return;
    }
    if let Some(ring) = memory::address_of(info.console_mfn) {
        *CONSOLE.lock() = Some(Console { ring: ring.cast(), channel: Channel::from_builder(info.console_evtchn) });
    }
}

/// Writes text; what a full ring does not take in 20 ms is lost.
pub fn write(text: &[u8]) {
    // Not free only if writing itself panicked.
    let console = CONSOLE.try_lock();
    match console.as_ref().and_then(|console| console.as_ref()) {
        Some(console) => console.write(text),
        None => drop(hypercall::console_write(text)),
    }
}

/// [`write`] for formatted text.
pub struct Writer;

impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}

impl Console {
    fn write(&self, text: &[u8]) {
        // SAFETY: mapped for ever; all fields are atomics or cells.
        let ring = unsafe { self.ring.as_ref() };
        let deadline = time::now() + PATIENCE;
        let mut rest = text;
        while !rest.is_empty() {
            let produced = ring.out_prod.load(Ordering::Relaxed);
            let waiting = produced.wrapping_sub(ring.out_cons.load(Ordering::Acquire)) as usize;
            let free = OUT.saturating_sub(waiting);
            if free == 0 {
                self.channel.take_pending();
                if time::now() >= deadline {
                    return;
                }
                event::wait(&[self.channel.port()], Some(deadline));
                continue;
            }
            let at = produced as usize % OUT;
            let count = rest.len().min(free).min(OUT - at);
            // SAFETY: inside the ring; the other side reads only up to `out_prod`.
            unsafe { window::copy(rest.as_ptr(), ring.output.get().cast::<u8>().add(at), count) };
            ring.out_prod.store(produced.wrapping_add(count as u32), Ordering::Release);
            self.channel.notify();
            rest = &rest[count..];
        }
    }
}
