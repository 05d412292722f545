//! What dom0 writes, and what is said to it: what an agent asks of the broker, xenstore's messages as they come off the ring and out of the daemon's socket,
//! the invitation in a migration stream, libxl's log, and where the builder of the agent's domain says that its module is.
#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::fuzz_target;
use toolstack::callbacks::{Level, Message};
use common::XenVersion;
use toolstack::stream::{self, Invitation, Owner};
use toolstack::xenstore::Xenstore;
use xen_abi::broker::{DATA, layout};
use xen_abi::hypercall::{DOMCTL, GRANT_TABLE_OP, HVM_OP, MEMORY_OP};
use xen_abi::start_info::{MAX_GUEST_CMDLINE, StartInfo};
use xen_abi::xenstore::Decoder;
use xen_abi::{Mfn, Port};
use xen_pv::module;

fuzz_target!(|bytes: &[u8]| {
    ring(bytes);
    socket(bytes);
    invitation(bytes);
    log(&String::from_utf8_lossy(bytes));
    start(bytes);
    request(bytes);
});

fn ring(bytes: &[u8]) {
    let (mut decoder, mut rest) = (Decoder::default(), bytes);
    while let Some((some, others)) = rest.split_at_checked(decoder.wanted().max(1)) {
        rest = others;
        match decoder.push(some) {
            Ok(Some(message)) => {
                let _ = (message.watch_event(), message.names(), message.error_name());
            }
            Ok(None) => {}
            Err(_) => break,
        }
    }
}

fn socket(bytes: &[u8]) {
    let (ours, mut daemon) = UnixStream::pair().expect("a pair");
    daemon.write_all(bytes).expect("room");
    daemon.shutdown(Shutdown::Write).expect("a socket");
    let mut store = Xenstore::over(OwnedFd::from(ours));
    let _ = store.watch("a").and_then(|()| store.read("a/b").map(drop)).and_then(|()| store.list("a").map(drop));
    while store.receive_change().is_ok() {}
    while store.take_change().is_some() {}
}

fn invitation(bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_first_chunk::<{ stream::HEAD }>() else { return };
    if let Ok(Owner::Us { body, rest: length }) = stream::owner(head) {
        assert!(body <= length);
        if let Ok(invitation) = rest.get(..length).map_or(Err(()), |rest| Invitation::decode(rest, body).map_err(drop))
        {
            let again = invitation.encode(XenVersion { major: 4, minor: 17 });
            let (head, rest) = again.split_first_chunk().expect("a head");
            let Ok(Owner::Us { body, .. }) = stream::owner(head) else { panic!("not ours any more") };
            assert!(Invitation::decode(rest, body).is_ok_and(|other| other == invitation));
        }
    }
}

/// Whatever an agent's reason holds, libxl gets a message that it can take apart, and its log a line.
fn log(text: &str) {
    for message in [Message::Log { level: Level::Error, text }, Message::Progress { doing: text, done: 1, total: 2 }] {
        let message = message.encode();
        let (length, body) = message.split_first_chunk().expect("a length");
        assert_eq!(usize::from(u16::from_ne_bytes(*length)), body.len());
        let text = &body[if body[0] == 1 { 19 } else { 11 }..];
        let (length, text) = text.split_first_chunk().expect("a length");
        let text = &text[..u32::from_ne_bytes(*length) as usize];
        let (end, line) = text.split_last().expect("an end");
        assert!(*end == 0 && !line.iter().any(u8::is_ascii_control));
    }
}

/// Whatever a structure says, its addresses lie in it, and what they name fits the ring.
fn request(bytes: &[u8]) {
    let Some(([operation, command], structure)) = bytes.split_first_chunk() else { return };
    let operation = [DOMCTL, MEMORY_OP, HVM_OP, GRANT_TABLE_OP][usize::from(operation % 4)];
    let byte = |at: usize| structure.get(at).copied().unwrap_or_default();
    let word = |at: usize| u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
    if let Some(layout) = layout(operation, (*command).into(), word) {
        assert!(layout.request().max(layout.answer()) <= DATA && layout.domain + 2 <= layout.size);
        for buffer in layout.buffers.iter().flatten() {
            assert!(buffer.pointer.is_multiple_of(8) && buffer.pointer + 8 <= layout.size);
        }
    }
}

fn start(bytes: &[u8]) {
    let mut words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    let mut word = || words.next().unwrap_or_default();
    let info = StartInfo {
        mod_start: word(),
        mod_len: word(),
        mfn_list: word(),
        flags: word() as u32,
        magic: [0; 32],
        nr_pages: 0,
        shared_info: 0,
        store_mfn: Mfn(0),
        store_evtchn: Port(0),
        console_mfn: Mfn(0),
        console_evtchn: Port(0),
        pt_base: 0,
        nr_pt_frames: 0,
        cmd_line: [0; MAX_GUEST_CMDLINE],
        first_p2m_pfn: 0,
        nr_p2m_frames: 0,
    };
    let image_end = word();
    if let Ok(Some(span)) = module::span(&info, image_end) {
        assert!(image_end <= span.start && span.start < span.end && span.end <= info.mfn_list);
        assert!(span.end - span.start <= module::LIMIT);
    }
}
