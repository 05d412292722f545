//! A daemon that writes whatever comes to the fuzzer's mind, into its ring and into the indices of both.

use core::ptr::NonNull;

use common::PAGE_SIZE;
use spin::Mutex;
use xen_abi::Port;
use xen_abi::xenstore::{Kind, Part};

use super::ring::Ring;
use super::{Channel, Xenstore, checked};
use crate::memory::Pages;

/// Where the replies are in the page, where its indices, and how many bytes a ring has.
const REPLIES: usize = 1024;
const REQUEST_CONSUMED: usize = 2048;
const REPLY_PRODUCED: usize = 2048 + 12;
const SIZE: usize = 1024;

/// What the daemon and we do by turns: a byte says what, another with how many of those that follow.
pub fn store(mut bytes: &[u8]) {
    static PAGE: Mutex<Option<Pages>> = Mutex::new(None);
    let mut page = PAGE.lock();
    let page = page.get_or_insert_with(|| Pages::leak(1)).start();
    // SAFETY: a page of this function's own, on which nothing else is left.
    let ring = unsafe {
        page.write_bytes(0, PAGE_SIZE);
        Ring::new(page)
    };
    let mut store = Xenstore::over(ring, Channel::from_builder(Port(0)));
    store.inbox.watch("token");
    while let Some(([what, length], rest)) = bytes.split_first_chunk() {
        let (some, rest) = rest.split_at(rest.len().min((*length).into()));
        bytes = rest;
        match what % 9 {
            0 | 1 => reply(page, some),
            2 => write(page, REPLY_PRODUCED, some),
            3 => write(page, REQUEST_CONSUMED, some),
            4 => while store.next_change(|_| true).is_some() {},
            5 => store.post_write("path", some),
            8 => {
                let _ = store.take_value();
                let _ = store.begin_read("path");
            }
            kind => {
                let kind = if kind == 6 { Kind::Read } else { Kind::Directory };
                let Ok(request) = store.enqueue(kind, &[Part::Text("path")]) else { return };
                store.inbox.answer.expect(request);
                let _ = store.pump();
                if let Some(answer) = store.inbox.answer.take()
                    && let Ok(answer) = checked(kind, answer)
                {
                    let _ = answer.names();
                }
            }
        }
    }
}

/// Says something, as far as the ring reaches.
fn reply(page: NonNull<u8>, some: &[u8]) {
    // SAFETY: inside the page, where no reference points.
    let produced = unsafe { page.add(REPLY_PRODUCED).cast::<u32>().read() };
    for (at, byte) in (produced as usize..).zip(some) {
        write(page, REPLIES + at % SIZE, &[*byte]);
    }
    write(page, REPLY_PRODUCED, &produced.wrapping_add(some.len() as u32).to_le_bytes());
}

/// Writes up to 4 bytes.
fn write(page: NonNull<u8>, at: usize, some: &[u8]) {
    let some = &some[..some.len().min(4)];
    // SAFETY: inside the page, where no reference points.
    unsafe { page.add(at).copy_from_nonoverlapping(NonNull::from(some).cast(), some.len()) };
}
