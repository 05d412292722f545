//! A device that writes to its queues, to received pages, to its registers and to configuration space whatever comes to the
//! fuzzer's mind.

use alloc::rc::Rc;
use core::cell::Cell;
use core::num::NonZeroU16;
use core::ptr::NonNull;

use common::PAGE_SIZE;
use spin::Mutex;

use super::common_config::Common;
use super::{Features, Link, MOST_BUFFERS, PAGES, RX, TX, describe, layout, queue, queues};
use crate::drivers::pci::Registers;
use crate::drivers::pci::config::space::Space;
use crate::drivers::{Receive as _, Transmit as _};
use crate::memory::Pages;

/// Packets that are received in a row, at most: twice what a ring holds.
const ROW: usize = 512;

/// Bits without which a device is refused, so that the others are tried.
const NEEDED: u64 = 3 << 32 | 1 << 5;

/// What the device and we do by turns: a word of features, then 12 bytes a step: what, where, and ten bytes to do it with.
pub fn device(bytes: &[u8]) {
    static MEMORY: Mutex<Option<Pages>> = Mutex::new(None);
    let mut memory = MEMORY.lock();
    let memory = memory.get_or_insert_with(|| Pages::leak(PAGES + 3));
    let (registers, pages) = memory.share().split(3);
    let Some((offered, bytes)) = bytes.split_first_chunk() else { return };
    let Ok(features) = Features::negotiate(u64::from_le_bytes(*offered) | NEEDED) else {
        unreachable!("all is offered")
    };
    for page in 0..3 {
        // SAFETY: a page of this function's own.
        unsafe { registers.page(page).write_bytes(0, PAGE_SIZE) };
    }
    // SAFETY: pages of this function's own.
    let over = |page: usize, size| unsafe { Registers::over(registers.page(page), size) };
    // 2 queues of 256 entries.
    write(registers.page(0), 18, &[2, 0]);
    write(registers.page(0), 24, &[0, 1]);
    let common = Common::new(over(0, layout::COMMON_BYTES as usize));
    let notify = [over(2, 2), over(2, 2)];
    let link = Rc::new(Link { notify, running: Cell::new(true), broken: Cell::new(None) });
    let address = |pages: &Pages, page: usize| pages.page(page).addr().get() as u64;
    let Ok((mut rx, mut tx)) = queues(&common, pages.share(), features, &link, address) else {
        unreachable!("the registers say so")
    };
    rx.start();
    let rings = |queue: u16| pages.page(2 * usize::from(queue) + 1);
    let mut used = [0u16; 2];
    for step in bytes.as_chunks::<12>().0 {
        let [what, slot, bytes @ ..] = step;
        let [low, high, more, rest, ..] = *bytes;
        let (slot, number) = (usize::from(*slot), u16::from_le_bytes([low, high]));
        match what % 9 {
            0 => uses(rings(RX), &mut used[0], &bytes[..8]),
            1 => uses(rings(TX), &mut used[1], &bytes[..8]),
            2 => write(rings(RX), usize::from(number) % PAGE_SIZE, &bytes[2..]),
            3 => write(rings(TX), usize::from(number) % PAGE_SIZE, &bytes[2..]),
            4 => write(pages.page(4 + slot), usize::from(number) % 64, &bytes[2..]),
            5 => {
                for _ in 0..ROW {
                    let Some(packet) = rx.receive() else { break };
                    assert!(packet.len() <= usize::from(MOST_BUFFERS) * PAGE_SIZE);
                }
            }
            6 => tx.send(number.into(), NonZeroU16::new(u16::from_le_bytes([more, rest])), &mut |frame| {
                frame.iter_mut().zip(bytes.iter().cycle()).for_each(|(to, from)| *to = *from);
                assert_eq!(frame.len(), usize::from(number));
            }),
            7 => write(registers.page(slot % 3), usize::from(number) % 64, &bytes[2..]),
            _ => {
                let _ = tx.is_ready();
                let _ = common.check();
                let _ = describe(&over(1, layout::DEVICE_BYTES as usize), features);
            }
        }
    }
    let broken = link.broken().is_some();
    assert_eq!(broken, rx.broken().is_some());
    assert!(!broken || !tx.is_ready() && rx.receive().is_none(), "a device that lied once is not believed again");
}

/// Configuration space, then what its BARs remember of what is written.
pub fn configuration(bytes: &[u8]) {
    let mut space = Space::new();
    let (config, bars) = bytes.split_at(bytes.len().min(space.bytes.len()));
    space.bytes[..config.len()].copy_from_slice(config);
    for (bar, bytes) in space.bars.iter_mut().zip(bars.as_chunks().0) {
        *bar = u32::from_le_bytes(*bytes);
    }
    space.word(0, 0x1041_1af4);
    if let Ok(found) = layout::find(&mut space) {
        for (part, least) in
            [(found.common, layout::COMMON_BYTES), (found.device, layout::DEVICE_BYTES), (found.notify, 2)]
        {
            assert!(part.size >= least.into() && part.address.checked_add(part.size).is_some());
        }
    }
}

/// Says that a buffer is used.
fn uses(rings: NonNull<u8>, used: &mut u16, element: &[u8]) {
    write(rings, queue::USED + 4 + 8 * usize::from(*used % queue::SIZE), element);
    *used = used.wrapping_add(1);
    write(rings, queue::USED + 2, &used.to_le_bytes());
}

/// Writes into a page, as far as it reaches.
fn write(page: NonNull<u8>, at: usize, bytes: &[u8]) {
    if at + bytes.len() <= PAGE_SIZE {
        // SAFETY: inside the page.
        unsafe { page.add(at).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }
}
