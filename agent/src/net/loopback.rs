//! What this agent sends to itself comes back without leaving it.
//!
//! A guest that migrates to the host that it is on has one agent at both ends. No switch sends a frame back to where it came
//! from, so the agent does. It takes a copy of every frame that is sent meanwhile: who a frame is for is known only when
//! smoltcp has written it. Checksums that the backend would have filled in are missing, as in any frame between two domains of
//! one host; a device for which that is so does not let smoltcp look at those that come. A segment that the backend would have
//! cut comes back whole.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use smoltcp::phy::{Device, DeviceCapabilities, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{ArpPacket, EthernetAddress, EthernetFrame, EthernetProtocol};

/// Bytes that may be on their way before the next frame has to wait.
const FULL: usize = 128 << 10;
/// What a short frame takes, at least.
const LEAST: usize = 128;
/// What all of it may take: one more frame of any size, and the one that is being sent or received.
pub(crate) const MEMORY: usize = FULL + 2 * (64 << 10);

/// Frames on their way from this agent to itself.
pub(crate) struct Loopback {
    own: EthernetAddress,
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    fresh: bool,
}

impl Loopback {
    /// For an agent with this hardware address.
    pub(crate) fn new(own: EthernetAddress) -> Self {
        Self { own, frames: VecDeque::new(), bytes: 0, fresh: false }
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether anything was sent since this was asked last.
    pub(crate) fn take_fresh(&mut self) -> bool {
        core::mem::take(&mut self.fresh)
    }

    /// Whether a frame is for this agent: sent to its address, or the question whose its own address is.
    fn is_own(&self, frame: &[u8]) -> bool {
        let Ok(frame) = EthernetFrame::new_checked(frame) else { return false };
        if frame.dst_addr() == self.own {
            return true;
        }
        frame.ethertype() == EthernetProtocol::Arp
            && ArpPacket::new_checked(frame.payload())
                .is_ok_and(|question| question.target_protocol_addr() == question.source_protocol_addr())
    }

    fn push(&mut self, frame: Vec<u8>) {
        self.bytes += frame.len().max(LEAST);
        self.fresh = true;
        self.frames.push_back(frame);
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len().max(LEAST);
        Some(frame)
    }
}

/// A device, and the way back to this agent itself while somebody here needs it.
pub(crate) struct Looped<'a, D: ?Sized> {
    pub(crate) device: &'a mut D,
    pub(crate) loopback: Option<&'a mut Loopback>,
}

impl<D: Device + ?Sized> Device for Looped<'_, D> {
    type RxToken<'b>
        = Received<D::RxToken<'b>>
    where
        Self: 'b;
    type TxToken<'b>
        = Sending<'b, D::TxToken<'b>>
    where
        Self: 'b;

    fn receive(&mut self, now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let loopback = self.loopback.as_deref_mut();
        if loopback.as_ref().is_none_or(|loopback| loopback.is_empty()) {
            let (received, token) = self.device.receive(now)?;
            return Some((Received::In(received), Sending { token, loopback }));
        }
        // It may be answered at once.
        let token = self.device.transmit(now)?;
        let loopback = loopback?;
        let frame = loopback.pop()?;
        Some((Received::Back(frame), Sending { token, loopback: Some(loopback) }))
    }

    fn transmit(&mut self, now: Instant) -> Option<Self::TxToken<'_>> {
        let loopback = self.loopback.as_deref_mut();
        if loopback.as_ref().is_some_and(|loopback| loopback.bytes >= FULL) {
            return None;
        }
        Some(Sending { token: self.device.transmit(now)?, loopback })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.device.capabilities()
    }
}

/// A frame that has come.
pub(crate) enum Received<T> {
    /// From outside.
    In(T),
    /// From this agent itself.
    Back(Vec<u8>),
}

impl<T: RxToken> RxToken for Received<T> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        match self {
            Self::In(token) => token.consume(read),
            Self::Back(frame) => read(&frame),
        }
    }

    fn meta(&self) -> PacketMeta {
        match self {
            Self::In(token) => token.meta(),
            Self::Back(_) => PacketMeta::default(),
        }
    }
}

/// Room for a frame.
pub(crate) struct Sending<'a, T> {
    token: T,
    loopback: Option<&'a mut Loopback>,
}

impl<T: TxToken> TxToken for Sending<'_, T> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let Some(loopback) = self.loopback else { return self.token.consume(length, write) };
        let mut frame = vec![0; length];
        let result = write(&mut frame);
        if loopback.is_own(&frame) {
            loopback.push(frame);
        } else {
            self.token.consume(length, |out| out.copy_from_slice(&frame));
        }
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.token.set_meta(meta);
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;
    use core::num::NonZeroUsize;
    use core::task::Poll;
    use std::boxed::Box;
    use std::rc::Rc;

    use embassy_futures::join::join;
    use smoltcp::phy::{Checksum, Medium};

    use super::*;
    use crate::command_line::AgentOptions;
    use crate::net::{Buffers, Connection, Net};
    use crate::secure::Security;
    use crate::tasks::{self, Timer, poll_once};

    /// A network that takes large segments without a checksum, and gives nothing. It counts what it is given.
    #[derive(Default)]
    struct Outside {
        sent: usize,
    }

    impl RxToken for &mut Outside {
        fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
            read(&[])
        }
    }

    impl TxToken for &mut Outside {
        fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
            self.sent += 1;
            write(&mut vec![0; length])
        }
    }

    impl Device for Outside {
        type RxToken<'a> = &'a mut Self;
        type TxToken<'a> = &'a mut Self;
        fn receive(&mut self, _: Instant) -> Option<(&mut Self, &mut Self)> {
            None
        }
        fn transmit(&mut self, _: Instant) -> Option<&mut Self> {
            Some(self)
        }
        fn capabilities(&self) -> DeviceCapabilities {
            let mut capabilities = DeviceCapabilities::default();
            capabilities.medium = Medium::Ethernet;
            capabilities.max_transmission_unit = 1514;
            capabilities.checksum.tcp = Checksum::None;
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(65535);
            capabilities
        }
    }

    /// All of it at once, in large segments, and more of them than may be on their way.
    #[test]
    fn segments_of_any_size_come_back_whole_and_none_leaves() {
        const LENGTH: usize = 700 << 10;
        let config = AgentOptions::parse("ip=10.0.0.1/24 port=7").unwrap().config([2; 6], 0, Security::Plain);
        let mut outside = Outside::default();
        let net = Rc::new(RefCell::new(Net::new(&config.network(), &mut outside, 1, tasks::Instant::default())));
        let timer = Timer::new(tasks::Instant::default);
        let sizes = Buffers { receive: 384 << 10, send: 320 << 10 };
        let there = Connection::listen(&net, &timer, 7, sizes).unwrap();
        let bytes: Vec<u8> = (0..LENGTH).map(|at| (at / 7) as u8).collect();
        let mut heard = vec![0; LENGTH];
        let say = async {
            let here = Connection::connect(&net, &timer, "10.0.0.1:7".parse().unwrap(), sizes).await.unwrap();
            here.write_all(&bytes).await.unwrap();
            here.arrived().await.unwrap();
        };
        let hear = async {
            there.accepted().await.unwrap();
            there.read_exact(&mut heard).await.unwrap();
        };
        let mut both = Box::pin(join(say, hear));
        let (mut polls, mut most) = (0, 0);
        while poll_once(&mut both) == Poll::Pending {
            net.borrow_mut().poll(&mut outside, tasks::Instant::default());
            most = most.max(net.borrow().on_its_way_back());
            polls += 1;
            assert!(polls < 1000, "it does not end");
        }
        drop(both);
        assert!(heard == bytes && outside.sent == 1, "{} frames left beside the announcement", outside.sent);
        assert!((FULL..FULL + (64 << 10)).contains(&most), "{most} bytes were on their way");
        assert!(polls < 40, "{polls} turns for frames that are cut small");
    }

    #[test]
    fn what_is_for_others_leaves() {
        let mut loopback = Loopback::new(EthernetAddress([2, 0, 0, 0, 0, 1]));
        let mut outside = Outside::default();
        for (frame, own) in [([2, 0, 0, 0, 0, 1], true), ([2, 0, 0, 0, 0, 2], false), ([0xff; 6], false)] {
            let mut device = Looped { device: &mut outside, loopback: Some(&mut loopback) };
            let token = device.transmit(Instant::ZERO).unwrap();
            token.consume(60, |bytes| bytes[..6].copy_from_slice(&frame));
            assert_eq!(loopback.pop().is_some(), own, "{frame:?}");
        }
        assert_eq!(outside.sent, 2);
    }
}
