//! A backend that writes to both rings and to received pages whatever comes to the fuzzer's mind.

use alloc::rc::Rc;
use core::num::NonZeroU16;
use core::ptr::NonNull;

use common::PAGE_SIZE;
use spin::Mutex;
use xen_abi::Port;
use xen_abi::netif::SLOTS_MIN;

use super::{PAGES, Rx, Tx, rx, tx};
use crate::drivers::{Receive as _, Transmit as _, checksum};
use crate::event::Channel;
use crate::grant::Grant;
use crate::memory::Pages;

/// Where the index of responses and the slots are in a ring's page.
const RESPONSES: usize = 8;
const SLOTS: usize = 64;
/// Packets that are received in a row, at most: twice what a ring holds.
const ROW: usize = 512;

/// What the backend and we do by turns, 12 bytes a step: what, where, and ten bytes to do it with.
pub fn queue(bytes: &[u8]) {
    static RINGS: Mutex<Option<Pages>> = Mutex::new(None);
    let mut rings = RINGS.lock();
    let pages = rings.get_or_insert_with(|| Pages::leak(PAGES));
    let (tx_pages, rx_pages) = pages.share().split(tx::PAGES);
    assert!(rx_pages.count() >= rx::PAGES);
    let (tx_ring, rx_ring) = (tx_pages.page(0), rx_pages.page(0));
    for ring in [tx_ring, rx_ring] {
        // SAFETY: a page of this function's own.
        unsafe { ring.write_bytes(0, PAGE_SIZE) };
    }
    let channel = Rc::new(Channel::from_builder(Port(0)));
    let grant = |_: &Pages, page, _| Ok(Grant::of_nothing(page as u32));
    let Ok((mut tx, _ring)) = Tx::new(&tx_pages, channel.clone(), true, grant) else { unreachable!("all is granted") };
    let Ok((mut rx, _ring)) = Rx::new(&rx_pages, channel, grant) else { unreachable!("all is granted") };
    for step in bytes.as_chunks::<12>().0 {
        let [what, slot, bytes @ ..] = step;
        let [low, high, more, rest, ..] = *bytes;
        let (slot, number) = (usize::from(*slot), u16::from_le_bytes([low, high]));
        match what % 8 {
            0 => write(rx_ring, SLOTS + 8 * slot, &bytes[..8]),
            1 => write(tx_ring, SLOTS + 12 * slot, &bytes[..4]),
            2 => respond(rx_ring, number, more),
            3 => respond(tx_ring, number, more),
            4 => write(rx_pages.page(1 + slot), usize::from(number) % (PAGE_SIZE - 8), &bytes[2..]),
            5 => {
                for _ in 0..ROW {
                    let Some(packet) = rx.receive() else { break };
                    assert!(packet.len() <= SLOTS_MIN * PAGE_SIZE);
                }
            }
            6 => tx.send(number.into(), NonZeroU16::new(u16::from_le_bytes([more, rest])), &mut |frame| {
                frame.iter_mut().zip(bytes.iter().cycle()).for_each(|(to, from)| *to = *from);
                assert_eq!(frame.len(), usize::from(number));
            }),
            _ => {
                let _ = tx.is_ready();
            }
        }
    }
    let mut frame = bytes.to_vec();
    let _ = checksum::is_right(&frame);
    let _ = checksum::prepare_tcp(&mut frame);
}

/// Says that there are more responses, or how many there are.
fn respond(ring: NonNull<u8>, number: u16, more: u8) {
    // SAFETY: inside the page.
    let index = unsafe { ring.add(RESPONSES).cast::<u32>().read() };
    let index = if more % 2 == 0 { index.wrapping_add(number.into()) } else { u32::from(number) << (more % 32) };
    write(ring, RESPONSES, &index.to_le_bytes());
}

/// Writes into a page, as far as it reaches.
fn write(page: NonNull<u8>, at: usize, bytes: &[u8]) {
    if at + bytes.len() <= PAGE_SIZE {
        // SAFETY: inside the page.
        unsafe { page.add(at).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }
}
