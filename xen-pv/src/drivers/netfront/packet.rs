//! Which ring slots make the next received packet: what the backend says, checked before a byte of it is looked at.

use common::PAGE_SIZE;
use xen_abi::netif::{
    EXTRA_FLAG_MORE, NETRXF_CSUM_BLANK, NETRXF_DATA_VALIDATED, NETRXF_EXTRA_INFO, NETRXF_MORE_DATA, RxResponse,
    SLOTS_MIN,
};

use crate::ring::BrokenRing;

/// A piece of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// How far its slot is ahead of the first.
    pub ahead: u32,
    /// Where it starts in its page.
    pub offset: usize,
    /// Its bytes; it ends inside the page.
    pub length: usize,
}

/// A packet's slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// Slots it takes, extra infos included.
    pub slots: u32,
    /// Someone else looked at its checksum, or nothing crossed a wire.
    pub vouched: bool,
    /// Every piece makes sense; otherwise the packet is to be dropped.
    pub good: bool,
    pieces: [Piece; SLOTS_MIN],
    count: usize,
}

impl Packet {
    /// The packet that starts at the next of `waiting` responses. A packet that does not end among them breaks the ring:
    /// backends publish whole packets.
    pub fn next(waiting: u32, response: impl Fn(u32) -> RxResponse) -> Result<Self, BrokenRing> {
        let first = response(0);
        let vouched = first.flags & (NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED) != 0;
        let mut packet = Self { slots: 1, vouched, good: true, pieces: [Piece::default(); SLOTS_MIN], count: 0 };
        packet.add(0, first);
        let mut extra = first.flags & NETRXF_EXTRA_INFO != 0;
        while extra {
            // An extra info lies where a response would: its kind and flags are the two bytes of `id`.
            let [_kind, flags] = packet.following(waiting, &response)?.id.to_le_bytes();
            extra = flags & EXTRA_FLAG_MORE != 0;
        }
        let mut more = first.flags & NETRXF_MORE_DATA != 0;
        while more {
            let ahead = packet.slots;
            let response = packet.following(waiting, &response)?;
            packet.add(ahead, response);
            more = response.flags & NETRXF_MORE_DATA != 0;
        }
        Ok(packet)
    }

    /// Its pieces in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces[..self.count]
    }

    fn following(&mut self, waiting: u32, response: impl Fn(u32) -> RxResponse) -> Result<RxResponse, BrokenRing> {
        if self.slots == waiting {
            return Err(BrokenRing);
        }
        self.slots += 1;
        Ok(response(self.slots - 1))
    }

    fn add(&mut self, ahead: u32, response: RxResponse) {
        let offset = usize::from(response.offset);
        match usize::try_from(response.status) {
            Ok(length @ 1..) if offset + length <= PAGE_SIZE && self.count < SLOTS_MIN => {
                self.pieces[self.count] = Piece { ahead, offset, length };
                self.count += 1;
            }
            _ => self.good = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(flags: u16, offset: u16, status: i16) -> RxResponse {
        RxResponse { id: 0, offset, flags, status }
    }

    fn next(responses: &[RxResponse]) -> Result<Packet, BrokenRing> {
        Packet::next(responses.len() as u32, |ahead| responses[ahead as usize])
    }

    #[test]
    fn a_large_packet_has_pieces_around_its_extra_info() {
        let extra = RxResponse { id: 1, ..response(0, 0, 0) };
        let first = NETRXF_MORE_DATA | NETRXF_EXTRA_INFO | NETRXF_CSUM_BLANK;
        let packet =
            next(&[response(first, 0, 4096), extra, response(NETRXF_MORE_DATA, 0, 4096), response(0, 8, 5)]).unwrap();
        assert_eq!((packet.slots, packet.vouched, packet.good), (4, true, true));
        let piece = |ahead, offset, length| Piece { ahead, offset, length };
        assert_eq!(packet.pieces(), [piece(0, 0, 4096), piece(2, 0, 4096), piece(3, 8, 5)]);
    }

    #[test]
    fn a_packet_without_an_end_breaks_the_ring() {
        assert_eq!(next(&[response(NETRXF_MORE_DATA, 0, 1)]), Err(BrokenRing));
        assert_eq!(next(&[response(NETRXF_EXTRA_INFO, 0, 1)]), Err(BrokenRing));
        let endless = RxResponse { id: u16::from(EXTRA_FLAG_MORE) << 8, ..response(0, 0, 0) };
        assert_eq!(next(&[response(NETRXF_EXTRA_INFO, 0, 1), endless, endless]), Err(BrokenRing));
        assert_eq!(next(&[response(NETRXF_MORE_DATA, 0, 1); 256]), Err(BrokenRing));
    }

    #[test]
    fn pieces_outside_their_page_and_errors_spoil_the_packet_only() {
        for bad in [
            response(0, 0, 4097),
            response(0, 4096, 1),
            response(0, 65535, 32767),
            response(0, 0, 0),
            response(0, 0, -1),
        ] {
            let packet = next(&[bad, response(0, 0, 60)]).unwrap();
            assert!(!packet.good && packet.slots == 1);
        }
    }

    #[test]
    fn more_pieces_than_any_packet_has_spoil_it() {
        let mut responses = [response(NETRXF_MORE_DATA, 0, 100); 30];
        responses[29].flags = 0;
        let packet = next(&responses).unwrap();
        assert_eq!((packet.slots, packet.good, packet.pieces().len()), (30, false, SLOTS_MIN));
    }

    #[test]
    fn nobody_vouches_for_a_packet_unless_the_backend_says_so() {
        assert!(!next(&[response(0, 0, 60)]).unwrap().vouched);
        assert!(next(&[response(NETRXF_DATA_VALIDATED, 0, 60)]).unwrap().vouched);
    }
}
