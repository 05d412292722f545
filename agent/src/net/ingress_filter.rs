//! Drops frames that no correct agent sends before smoltcp sees them, and sends no packet larger than the path carries. What comes
//! and goes is told to [`Recovery`], and what that wants to be seen again comes first.
//!
//! An announcement of an address (RFC 5227) reaches smoltcp as an answer to a question of this agent: as what it is, a question that
//! is not for this agent, smoltcp would not look at it. A peer that was started anew with another hardware address would then be
//! called at its old one for up to a minute.
//!
//! Two hosts that call each other at the same moment could open one connection from both sides: a call (SYN) then comes to
//! a port from which this agent calls itself. Agents never do that, and smoltcp 0.14 panics over it where the host that it
//! calls has not told its hardware address in time. IPv6 it would take apart for nothing: this agent has no such address.

use core::net::Ipv4Addr;

use smoltcp::phy::{Device, DeviceCapabilities, PacketMeta, RxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{ArpOperation, ArpPacket};

use crate::net::frame::{ETHERNET, Packet, packet};
use crate::net::path_mtu::{Cut, PathMtu};
use crate::net::recovery::Recovery;

/// Bytes of an Ethernet frame with an ARP packet.
const ANNOUNCEMENT: usize = ETHERNET + 28;

/// A device of which only some of what it receives is seen.
pub(crate) struct IngressFilter<'a, D: ?Sized> {
    pub(crate) device: &'a mut D,
    /// The only port that may be called.
    pub(crate) port: u16,
    /// This agent's address.
    pub(crate) own: Option<Ipv4Addr>,
    pub(crate) path: &'a PathMtu,
    pub(crate) recovery: &'a Recovery,
}

impl<D: Device + ?Sized> Device for IngressFilter<'_, D> {
    type RxToken<'b>
        = Sifted<'b, D::RxToken<'b>>
    where
        Self: 'b;
    type TxToken<'b>
        = Cut<'b, D::TxToken<'b>>
    where
        Self: 'b;

    fn receive(&mut self, now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let Self { port, own, path, recovery, .. } = *self;
        let (token, answer) = if recovery.repeats() {
            (None, self.device.transmit(now)?)
        } else {
            let (token, answer) = self.device.receive(now)?;
            (Some(token), answer)
        };
        let answer = Cut { token: answer, path, recovery, meta: PacketMeta::default() };
        Some((Sifted { token, port, own, path, recovery }, answer))
    }

    fn transmit(&mut self, now: Instant) -> Option<Self::TxToken<'_>> {
        let Self { path, recovery, .. } = *self;
        self.device.transmit(now).map(|token| Cut { token, path, recovery, meta: PacketMeta::default() })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = self.device.capabilities();
        capabilities.max_transmission_unit = ETHERNET + self.path.largest();
        capabilities
    }
}

/// A frame that may not be seen, or is to be seen again.
pub(crate) struct Sifted<'a, T> {
    token: Option<T>,
    port: u16,
    own: Option<Ipv4Addr>,
    path: &'a PathMtu,
    recovery: &'a Recovery,
}

impl<T: RxToken> RxToken for Sifted<'_, T> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let Some(token) = self.token else { return self.recovery.repeat(read) };
        token.consume(|frame| {
            let Some(packet) = passes(frame, self.port) else {
                // No frame is empty: smoltcp drops what it sees instead.
                return read(&[]);
            };
            self.path.hear();
            match packet {
                Packet::Arp => {
                    let answer = self.own.and_then(|own| announcement(frame, own));
                    return read(answer.as_ref().map_or(frame, |answer| answer));
                }
                Packet::Tcp(ip, tcp) => {
                    if !self.recovery.received(frame, &ip, &tcp) {
                        return read(&[]);
                    }
                }
                Packet::OtherIpv4 => {}
            }
            read(frame)
        })
    }

    fn meta(&self) -> smoltcp::phy::PacketMeta {
        self.token.as_ref().map(RxToken::meta).unwrap_or_default()
    }
}

/// A frame with an ARP packet, if it announces the address of somebody else, as an answer to a question of ours.
fn announcement(frame: &[u8], own: Ipv4Addr) -> Option<[u8; ANNOUNCEMENT]> {
    let mut answer = *frame.first_chunk()?;
    let mut packet = ArpPacket::new_checked(&mut answer[ETHERNET..]).ok()?;
    let source = packet.source_protocol_addr();
    // Its addresses are as long as it says.
    let is_ipv4 = (packet.hardware_len(), packet.protocol_len()) == (6, 4);
    if !is_ipv4 || source != packet.target_protocol_addr() || source == own.octets() {
        return None;
    }
    packet.set_operation(ArpOperation::Reply);
    packet.set_target_protocol_addr(&own.octets());
    Some(answer)
}

/// The packet of a frame that may be seen by an agent that is called at `port`.
fn passes(frame: &[u8], port: u16) -> Option<Packet<'_>> {
    let packet = packet(frame)?;
    let is_strange = matches!(&packet, Packet::Tcp(_, tcp) if tcp.syn() && !tcp.ack() && tcp.dst_port() != port);
    (!is_strange).then_some(packet)
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use smoltcp::wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr,
        TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    };

    use super::*;

    const PORT: u16 = 7077;

    /// A frame with a TCP segment.
    fn segment(to: u16, control: TcpControl, ack_number: Option<TcpSeqNumber>) -> Vec<u8> {
        let mut tcp = TcpRepr {
            src_port: PORT,
            dst_port: to,
            control,
            seq_number: TcpSeqNumber(7),
            ack_number,
            window_len: 100,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        tcp.max_seg_size = (control == TcpControl::Syn).then_some(1460);
        let [src_addr, dst_addr] = [Ipv4Address::new(10, 0, 0, 2), Ipv4Address::new(10, 0, 0, 1)];
        let next_header = IpProtocol::Tcp;
        let ip = Ipv4Repr { src_addr, dst_addr, next_header, payload_len: tcp.buffer_len(), hop_limit: 64 };
        let mut frame = vec![0; 14 + ip.buffer_len() + tcp.buffer_len()];
        let mut ethernet = EthernetFrame::new_unchecked(&mut frame);
        ethernet.set_dst_addr(EthernetAddress([2; 6]));
        ethernet.set_src_addr(EthernetAddress([4; 6]));
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
        ip.emit(&mut packet, &Default::default());
        let addresses = [src_addr, dst_addr].map(IpAddress::Ipv4);
        let mut bytes = TcpPacket::new_unchecked(packet.payload_mut());
        tcp.emit(&mut bytes, &addresses[0], &addresses[1], &Default::default());
        frame
    }

    #[test]
    fn only_calls_to_the_agent_s_port_are_seen_and_answers_to_its_own() {
        let ack = Some(TcpSeqNumber(9));
        assert!(passes(&segment(PORT, TcpControl::Syn, None), PORT).is_some());
        assert!(passes(&segment(49153, TcpControl::Syn, ack), PORT).is_some());
        assert!(passes(&segment(49153, TcpControl::None, ack), PORT).is_some());
        assert!(passes(&segment(49153, TcpControl::Syn, None), PORT).is_none());
    }

    #[test]
    fn only_announcements_of_others_are_taken_for_answers() {
        let (own, peer) = (Ipv4Addr::new(10, 0, 0, 1), [10, 0, 0, 2]);
        let mut frame = [0; ANNOUNCEMENT];
        frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame[28..32].copy_from_slice(&peer);
        frame[38..42].copy_from_slice(&peer);
        let answer = announcement(&frame, own).unwrap();
        assert_eq!((&answer[20..22], &answer[28..32], &answer[38..42]), (&[0, 2][..], &peer[..], &own.octets()[..]));
        for length in 0..frame.len() {
            assert_eq!(announcement(&frame[..length], own), None, "{length} bytes");
        }
        assert_eq!(announcement(&frame, peer.into()), None, "it is this agent's own");
        // As many bytes, but addresses of another length.
        for lengths in [[10, 0], [0, 10], [4, 6], [255, 255]] {
            let mut other = frame;
            other[18..20].copy_from_slice(&lengths);
            assert_eq!(announcement(&other, own), None, "{lengths:?}");
        }
        frame[41] = 3;
        assert_eq!(announcement(&frame, own), None, "it is a question");
    }

    #[test]
    fn frames_that_are_cut_anywhere_or_carry_something_else_are_not_seen() {
        let frame = segment(PORT, TcpControl::Syn, None);
        for length in 0..frame.len() {
            assert!(passes(&frame[..length], PORT).is_none(), "{length} bytes");
        }
        let mut other = frame;
        other[12..14].copy_from_slice(&[0x86, 0xdd]);
        assert!(passes(&other, PORT).is_none());
    }
}
