//! What a peer's agent sends: headers, every message, datagrams. What is taken says the same when it is sent on.
#![no_main]

use common::{PageSet, Span};
use agent::wire::{CHUNK, Header, Message, Rescue, Set};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(rescue) = Rescue::parse(bytes) {
        let mut again = Vec::new();
        rescue.emit(&mut again);
        assert_eq!(again, bytes);
    }
    let Some((head, body)) = bytes.split_first_chunk::<{ Header::LEN }>() else { return };
    let Ok(header) = Header::parse(head) else { return };
    assert_eq!(header.emit(), *head);
    assert!(header.length <= header.kind.limit());
    let body = &body[..body.len().min(header.kind.limit())];
    let Ok(message) = Message::parse(header.kind, body) else { return };
    match message {
        Message::Ram(set) | Message::Hints(set) | Message::Dirty(set) => check_set(&set),
        Message::Pages(pages) => {
            let gfns: Vec<u64> = pages.gfns().map(|gfn| gfn.0).collect();
            assert!(gfns.is_sorted() && pages.contents().count() == gfns.len());
        }
        _ => {}
    }
});

/// A set's pages ascend, stay within what it covers, and survive being sent on.
fn check_set(set: &Set<'_>) {
    let (first, count) = (set.first(), set.count());
    assert!(count <= CHUNK);
    // A set over the whole address space would be as large.
    if first.0 > 1 << 24 {
        return;
    }
    let mut pages = PageSet::new(first.0 + count);
    let mut last = None;
    for gfn in set.gfns() {
        assert!(gfn >= first && gfn.0 < first.0 + count && last < Some(gfn));
        last = Some(gfn);
        pages.insert(gfn);
    }
    let mut again = Vec::new();
    Set::emit(&pages, Span { first, count }, &mut again);
    let again = Set::parse(&again).expect("what was sent on");
    assert!(again.gfns().eq(set.gfns()));
}
