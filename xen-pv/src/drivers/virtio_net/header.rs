//! What comes before each packet: `struct virtio_net_hdr_v1` (virtio 1.2, section 5.1.6).

use core::num::NonZeroU16;

use super::features::Features;
use crate::drivers::checksum;

/// Its bytes.
pub const LENGTH: usize = 12;

/// The checksum covers only the pseudo header yet.
const NEEDS_CSUM: u8 = 1;
/// The checksum was looked at.
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;

/// What the device said of a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Someone else looked at its checksum, or nothing crossed a wire.
    pub vouched: bool,
    /// The packet is of a kind that was agreed on; otherwise it is to be dropped.
    pub good: bool,
    /// Buffers that it lies in.
    pub buffers: u16,
}

impl Received {
    /// Reads what the device wrote.
    pub fn parse(bytes: [u8; LENGTH], features: Features) -> Self {
        let [flags, kind, .., low, high] = bytes;
        let vouched = features.receive_checksum() && flags & (NEEDS_CSUM | DATA_VALID) != 0;
        let good = match kind {
            GSO_NONE => true,
            GSO_TCPV4 => features.receive_large(),
            _ => false,
        };
        let buffers = if features.mergeable() { u16::from_le_bytes([low, high]) } else { 1 };
        Self { vouched, good, buffers }
    }
}

/// The header of a packet to send, which is prepared for what the device does with it: `segment` is the payload of the
/// segments to be cut of a TCP packet.
pub fn send(frame: &mut [u8], segment: Option<NonZeroU16>, features: Features) -> [u8; LENGTH] {
    let mut header = [0; LENGTH];
    if !features.checksum() {
        return header;
    }
    let Some(start) = checksum::prepare_tcp(frame) else { return header };
    header[0] = NEEDS_CSUM;
    header[6..8].copy_from_slice(&(start as u16).to_le_bytes());
    header[8..10].copy_from_slice(&(checksum::TCP_FIELD as u16).to_le_bytes());
    if let Some(segment) = segment.filter(|_| features.segmentation()) {
        let length = frame.get(start + 12).map_or(0, |offset| usize::from(offset >> 4) * 4);
        header[1] = GSO_TCPV4;
        header[2..4].copy_from_slice(&((start + length) as u16).to_le_bytes());
        header[4..6].copy_from_slice(&segment.get().to_le_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn features(offered: u64) -> Features {
        Features::negotiate(offered | 3 << 32 | 1 << 5).unwrap()
    }

    fn tcp() -> Vec<u8> {
        let mut frame = [2u8; 12].to_vec();
        frame.extend([8, 0, 0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 77, 0, 11, 10, 77, 0, 2]);
        frame.extend([0; 12]);
        frame.extend([0x60, 0x10, 0, 0, 0, 0, 0, 0]);
        frame.extend([0; 10]);
        frame
    }

    #[test]
    fn a_tcp_packet_says_where_its_checksum_is_and_how_it_is_to_be_cut() {
        let header = send(&mut tcp(), NonZeroU16::new(1448), features(u64::MAX));
        assert_eq!(header, [1, 1, 58, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
        assert_eq!(send(&mut tcp(), None, features(u64::MAX)), [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]);
        assert_eq!(send(&mut tcp(), NonZeroU16::new(9), features(0)), [0; LENGTH], "a device that does neither");
        assert_eq!(send(&mut tcp()[..20], NonZeroU16::new(9), features(u64::MAX)), [0; LENGTH], "what is no TCP");
    }

    #[test]
    fn only_what_was_agreed_on_is_believed() {
        let parse = |flags, kind, buffers, offered| {
            Received::parse([flags, kind, 0, 0, 0, 0, 0, 0, 0, 0, buffers, 0], features(offered))
        };
        assert_eq!(parse(2, 1, 3, u64::MAX), Received { vouched: true, good: true, buffers: 3 });
        assert_eq!(parse(1, 0, 1, u64::MAX), Received { vouched: true, good: true, buffers: 1 });
        assert_eq!(parse(0, 4, 1, u64::MAX), Received { vouched: false, good: false, buffers: 1 });
        assert_eq!(parse(3, 1, 9, 0), Received { vouched: false, good: false, buffers: 1 });
    }
}
