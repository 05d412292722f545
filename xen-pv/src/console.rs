//! The console: a ring that the toolstack's console daemon reads; the hypervisor's own console where there is none.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;
use core::time::Duration;

use spin::Mutex;
use xen_abi::ring::{CONSOLE_OUTPUT, ConsoleInterface};
use xen_abi::start_info::{SIF_INITDOMAIN, StartInfo};

use crate::event::{self, Channel};
use crate::{hypercall, memory, time, window};

/// How long a full ring may hold us up before output is dropped.
const PATIENCE: Duration = Duration::from_millis(20);

struct Console {
    ring: NonNull<ConsoleInterface>,
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
            let free = CONSOLE_OUTPUT.saturating_sub(waiting);
            if free == 0 {
                self.channel.take_pending();
                if time::now() >= deadline {
                    return;
                }
                event::wait(&[self.channel.port()], Some(deadline));
                continue;
            }
            let at = produced as usize % CONSOLE_OUTPUT;
            let count = rest.len().min(free).min(CONSOLE_OUTPUT - at);
            // SAFETY: inside the ring; the other side reads only up to `out_prod`.
            unsafe { window::copy(rest.as_ptr(), ring.output.get().cast::<u8>().add(at), count) };
            ring.out_prod.store(produced.wrapping_add(count as u32), Ordering::Release);
            self.channel.notify();
            rest = &rest[count..];
        }
    }
}
