//! Tells the network where this agent is, before anybody calls it (ARP announcement, RFC 5227, section 2.3).
//!
//! A switch sends frames to the port from which the address came last. An agent that was started anew with another interface,
//! and waits for calls, would never be found there by a peer that still has its hardware address.

use core::net::Ipv4Addr;

use smoltcp::phy::{Device, TxToken};
use smoltcp::time::Instant as DeviceTime;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr};

use crate::limits::ANNOUNCE_EVERY;
use crate::tasks::Instant;

/// Announcements of one address, as many as the RFC has (ANNOUNCE_NUM).
const ANNOUNCEMENTS: u8 = 2;

/// What was announced, and what is still to be.
pub(crate) struct Announcement {
    mac: EthernetAddress,
    address: Option<Ipv4Addr>,
    left: u8,
    at: Instant,
}

impl Announcement {
    pub(crate) fn new(mac: EthernetAddress) -> Self {
        Self { mac, address: None, left: 0, at: Instant::default() }
    }

    /// The agent may be at another place of the network: its address is announced anew.
    pub(crate) fn again(&mut self) {
        (self.left, self.at) = (ANNOUNCEMENTS, Instant::default());
    }

    /// When the next one is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        (self.left > 0 && self.address.is_some()).then_some(self.at)
    }

    /// Sends the one that is due, if the device takes it.
    pub(crate) fn send<D: Device + ?Sized>(&mut self, address: Option<Ipv4Addr>, device: &mut D, now: Instant) {
        if self.address != address {
            self.address = address;
            self.again();
        }
        let Some(address) = address.filter(|_| self.left > 0 && now >= self.at) else { return };
        let Some(token) = device.transmit(DeviceTime::ZERO) else { return };
        let arp = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: self.mac,
            source_protocol_addr: address,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: address,
        };
        broadcast(token, self.mac, &arp);
        (self.left, self.at) = (self.left - 1, now + ANNOUNCE_EVERY);
    }
}

/// Sends an ARP packet to everybody.
fn broadcast(token: impl TxToken, src_addr: EthernetAddress, arp: &ArpRepr) {
    let (dst_addr, ethertype) = (EthernetAddress::BROADCAST, EthernetProtocol::Arp);
    let ethernet = EthernetRepr { src_addr, dst_addr, ethertype };
    token.consume(ethernet.buffer_len() + arp.buffer_len(), |bytes| {
        let mut frame = EthernetFrame::new_unchecked(bytes);
        ethernet.emit(&mut frame);
        arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    });
}

#[cfg(test)]
mod tests {
    use alloc::rc::Rc;
    use alloc::vec::Vec;
    use core::cell::{Cell, RefCell};
    use core::net::SocketAddrV4;
    use core::time::Duration;
    use std::boxed::Box;

    use smoltcp::phy::{Loopback, Medium, RxToken};

    use super::*;
    use crate::command_line::AgentOptions;
    use crate::net::{Buffers, Connection, Net};
    use crate::secure::Security;
    use crate::tasks::{Timer, poll_once};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    /// What is sent at this time: the addresses that it is from and to.
    fn sent(announcement: &mut Announcement, address: Option<Ipv4Addr>, now: Instant) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let mut device = Loopback::new(Medium::Ethernet);
        announcement.send(address, &mut device, now);
        let (token, _) = device.receive(DeviceTime::ZERO)?;
        token.consume(|bytes| {
            let frame = EthernetFrame::new_checked(bytes).unwrap();
            assert_eq!((frame.src_addr().0, frame.dst_addr()), (MAC, EthernetAddress::BROADCAST));
            match ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap() {
                ArpRepr::EthernetIpv4 { source_protocol_addr, target_protocol_addr, source_hardware_addr, .. } => {
                    assert_eq!(source_hardware_addr.0, MAC);
                    Some((source_protocol_addr, target_protocol_addr))
                }
                _ => None,
            }
        })
    }

    #[test]
    fn an_address_is_announced_twice_and_again_when_the_interface_came_back() {
        let mut announcement = Announcement::new(EthernetAddress(MAC));
        let (start, own) = (Instant::default(), Some(ADDRESS));
        let announced = Some((ADDRESS, ADDRESS));
        assert_eq!((sent(&mut announcement, None, start), announcement.due()), (None, None));
        for _ in 0..2 {
            assert_eq!(sent(&mut announcement, own, start), announced);
            assert_eq!(announcement.due(), Some(start + ANNOUNCE_EVERY));
            assert_eq!(sent(&mut announcement, own, start), None);
            assert_eq!(sent(&mut announcement, own, start + ANNOUNCE_EVERY), announced);
            assert_eq!(announcement.due(), None);
            announcement.again();
        }
        assert_eq!(sent(&mut announcement, Some(PEER), start), Some((PEER, PEER)));
    }

    /// Where the frames went that have been sent.
    fn destinations(device: &mut Loopback) -> Vec<EthernetAddress> {
        core::iter::from_fn(|| {
            let (token, _) = device.receive(DeviceTime::ZERO)?;
            Some(token.consume(|bytes| EthernetFrame::new_checked(bytes).unwrap().dst_addr()))
        })
        .collect()
    }

    /// The peer, with this hardware address, sends a question or an answer.
    fn arp(operation: ArpOperation, mac: EthernetAddress, target: Ipv4Addr, device: &mut Loopback) {
        let repr = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: mac,
            source_protocol_addr: PEER,
            target_hardware_addr: EthernetAddress(MAC),
            target_protocol_addr: target,
        };
        broadcast(device.transmit(DeviceTime::ZERO).unwrap(), mac, &repr);
    }

    #[test]
    fn a_peer_that_announces_another_hardware_address_is_called_there() {
        let config = AgentOptions::parse("ip=10.0.0.1/24 port=7").unwrap().config(MAC, 0, Security::Plain);
        let mut device = Loopback::new(Medium::Ethernet);
        let net = Rc::new(RefCell::new(Net::new(&config.network(), &mut device, 1, Instant::default())));
        let clock = Rc::new(Cell::new(Instant::default()));
        let time = clock.clone();
        let timer = Timer::new(move || time.get());
        let sizes = Buffers { receive: 1024, send: 1024 };
        let mut calling = Box::pin(Connection::connect(&net, &timer, SocketAddrV4::new(PEER, 7), sizes));
        let mut turn = |device: &mut Loopback| {
            clock.set(clock.get() + Duration::from_secs(3));
            assert!(poll_once(&mut calling).is_pending());
            net.borrow_mut().poll(device, clock.get());
        };
        turn(&mut device);
        destinations(&mut device);
        let [old, new] = [2, 3].map(|last| EthernetAddress([2, 0, 0, 0, 0, last]));
        arp(ArpOperation::Reply, old, ADDRESS, &mut device);
        turn(&mut device);
        assert!(destinations(&mut device).contains(&old), "it is not called");
        arp(ArpOperation::Request, new, PEER, &mut device);
        turn(&mut device);
        let seen = destinations(&mut device);
        assert!(seen.contains(&new) && !seen.contains(&old), "it is called at {seen:?}");
    }
}
