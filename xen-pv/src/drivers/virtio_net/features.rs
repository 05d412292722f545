//! What the device offers and what is taken of it (virtio 1.2, sections 5.1.3 and 6).

use super::error::Unusable;

const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 1 << 1;
const MTU: u64 = 1 << 3;
const MAC: u64 = 1 << 5;
const GUEST_TSO4: u64 = 1 << 7;
const HOST_TSO4: u64 = 1 << 11;
const MRG_RXBUF: u64 = 1 << 15;
const EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;
const ACCESS_PLATFORM: u64 = 1 << 33;
/// Memory must be ordered as for a real device, which the fences of this driver do.
const ORDER_PLATFORM: u64 = 1 << 36;

/// What both can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// What is taken of what the device offers. One that goes past the IOMMU is refused: it would write to the host's memory
    /// at addresses that nobody checks.
    pub fn negotiate(offered: u64) -> Result<Self, Unusable> {
        let needed = [(VERSION_1, Unusable::Legacy), (ACCESS_PLATFORM, Unusable::PastIommu), (MAC, Unusable::NoMac)];
        if let Some((_, refusal)) = needed.into_iter().find(|(bit, _)| offered & bit == 0) {
            return Err(refusal);
        }
        let always = VERSION_1 | ACCESS_PLATFORM | MAC | ORDER_PLATFORM;
        let mut wanted = always | MTU | CSUM | HOST_TSO4 | GUEST_CSUM | GUEST_TSO4 | MRG_RXBUF | EVENT_IDX;
        // Each needs another (section 5.1.3.1); large packets need several of our buffers.
        if offered & CSUM == 0 {
            wanted &= !HOST_TSO4;
        }
        if offered & GUEST_CSUM == 0 || offered & MRG_RXBUF == 0 {
            wanted &= !GUEST_TSO4;
        }
        Ok(Self(offered & wanted))
    }

    /// As the device is told.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// It completes checksums of packets that are sent.
    pub fn checksum(self) -> bool {
        self.has(CSUM)
    }

    /// It cuts large TCP packets that are sent.
    pub fn segmentation(self) -> bool {
        self.has(HOST_TSO4)
    }

    /// It may say that it looked at a received packet's checksum.
    pub fn receive_checksum(self) -> bool {
        self.has(GUEST_CSUM)
    }

    /// It may put received TCP packets together.
    pub fn receive_large(self) -> bool {
        self.has(GUEST_TSO4)
    }

    /// A received packet may lie in several buffers.
    pub fn mergeable(self) -> bool {
        self.has(MRG_RXBUF)
    }

    /// Notifications and interrupts are asked for by index.
    pub fn event_index(self) -> bool {
        self.has(EVENT_IDX)
    }

    /// Its configuration has an MTU.
    pub fn mtu(self) -> bool {
        self.has(MTU)
    }

    /// Names of what both can do, that packets show.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let named = [
            (CSUM, "checksum"),
            (HOST_TSO4, "segmentation"),
            (GUEST_CSUM, "receive-checksum"),
            (GUEST_TSO4, "receive-large"),
            (MRG_RXBUF, "mergeable"),
            (EVENT_IDX, "event-index"),
        ];
        named.into_iter().filter(move |(bit, _)| self.has(*bit)).map(|(_, name)| name)
    }

    fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const NEEDED: u64 = VERSION_1 | ACCESS_PLATFORM | MAC;

    #[test]
    fn a_device_past_the_iommu_is_refused_whatever_else_it_offers() {
        assert_eq!(Features::negotiate(!ACCESS_PLATFORM), Err(Unusable::PastIommu));
        assert!(Unusable::PastIommu.to_string().contains("VIRTIO_F_ACCESS_PLATFORM"));
        assert_eq!(Features::negotiate(!VERSION_1), Err(Unusable::Legacy));
        assert_eq!(Features::negotiate(!MAC), Err(Unusable::NoMac));
        assert_eq!(Features::negotiate(0), Err(Unusable::Legacy));
    }

    #[test]
    fn nothing_is_taken_that_was_not_offered_or_that_this_driver_does_not_know() {
        for bit in 0..64 {
            let taken = Features::negotiate(NEEDED | 1 << bit).unwrap().bits();
            assert_eq!(taken & !(NEEDED | 1 << bit), 0);
        }
        let all = Features::negotiate(u64::MAX).unwrap();
        assert_eq!(all.bits().count_ones(), 11);
        assert_eq!((all.names().count(), Features::negotiate(NEEDED).unwrap().names().count()), (6, 0));
    }

    #[test]
    fn large_packets_need_checksums_and_room() {
        assert!(!Features::negotiate(NEEDED | HOST_TSO4).unwrap().segmentation());
        assert!(!Features::negotiate(NEEDED | GUEST_TSO4 | GUEST_CSUM).unwrap().receive_large());
        assert!(!Features::negotiate(NEEDED | GUEST_TSO4 | MRG_RXBUF).unwrap().receive_large());
        assert!(Features::negotiate(NEEDED | GUEST_TSO4 | GUEST_CSUM | MRG_RXBUF).unwrap().receive_large());
    }
}
