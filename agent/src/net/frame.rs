//! What a frame holds, as far as this agent looks into it before smoltcp does.

use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket};

/// Bytes of an Ethernet frame before its packet.
pub(crate) const ETHERNET: usize = 14;

/// The packet of a frame.
pub(crate) enum Packet<'a> {
    Arp,
    Tcp(Ipv4Packet<&'a [u8]>, TcpPacket<&'a [u8]>),
    OtherIpv4,
}

/// The packet of `frame`, unless it is cut or of another protocol.
pub(crate) fn packet(frame: &[u8]) -> Option<Packet<'_>> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    match frame.ethertype() {
        EthernetProtocol::Arp => return Some(Packet::Arp),
        EthernetProtocol::Ipv4 => {}
        _ => return None,
    }
    let ip = Ipv4Packet::new_checked(frame.payload()).ok()?;
    if ip.next_header() != IpProtocol::Tcp {
        return Some(Packet::OtherIpv4);
    }
    let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
    Some(Packet::Tcp(ip, tcp))
}
