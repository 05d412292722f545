//! The network interface's rings (`io/netif.h`).

use super::GrantRef;

/// `struct netif_tx_request`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TxRequest {
    /// The page that holds this piece of a packet.
    pub gref: u32,
    /// Where in the page it starts.
    pub offset: u16,
    /// `NETTXF_` flags.
    pub flags: u16,
    /// Comes back in the response.
    pub id: u16,
    /// In a packet's first request the packet's bytes, in the others this piece's.
    pub size: u16,
}

/// `struct netif_extra_info` with segmentation offload, as long as a [`TxRequest`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExtraGso {
    /// [`EXTRA_TYPE_GSO`].
    pub kind: u8,
    /// [`EXTRA_FLAG_MORE`].
    pub flags: u8,
    /// Most payload bytes of a segment.
    pub size: u16,
    /// [`GSO_TYPE_TCPV4`].
    pub gso_kind: u8,
    /// Padding.
    pub pad: u8,
    /// None are known.
    pub features: u16,
    /// Padding: a request is longer than an extra.
    pub tail: u32,
}

/// `struct netif_tx_response`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TxResponse {
    /// The request's.
    pub id: u16,
    /// `NETIF_RSP_` or what it means.
    pub status: i16,
}

/// `struct netif_rx_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RxRequest {
    /// Comes back in the response.
    pub id: u16,
    /// Padding.
    pub pad: u16,
    /// The page to fill.
    pub gref: GrantRef,
}

/// `struct netif_rx_response`; an extra info may lie in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RxResponse {
    /// The request's.
    pub id: u16,
    /// Where in the page the piece starts.
    pub offset: u16,
    /// `NETRXF_` flags.
    pub flags: u16,
    /// Bytes of the piece, or negative.
    pub status: i16,
}

/// The TCP or UDP checksum covers only the pseudo header yet.
pub const NETTXF_CSUM_BLANK: u16 = 1;
/// The checksum need not be looked at.
pub const NETTXF_DATA_VALIDATED: u16 = 1 << 1;
/// The packet goes on in the next request.
pub const NETTXF_MORE_DATA: u16 = 1 << 2;
/// Extra infos follow the packet's first request.
pub const NETTXF_EXTRA_INFO: u16 = 1 << 3;

/// The checksum was looked at.
pub const NETRXF_DATA_VALIDATED: u16 = 1;
/// The TCP or UDP checksum covers only the pseudo header; nothing crossed a wire.
pub const NETRXF_CSUM_BLANK: u16 = 1 << 1;
/// The packet goes on in the next response.
pub const NETRXF_MORE_DATA: u16 = 1 << 2;
/// Extra infos follow the packet's first response.
pub const NETRXF_EXTRA_INFO: u16 = 1 << 3;

/// The extra info is about segmentation.
pub const EXTRA_TYPE_GSO: u8 = 1;
/// Another extra info follows.
pub const EXTRA_FLAG_MORE: u8 = 1;
/// TCP over IPv4.
pub const GSO_TYPE_TCPV4: u8 = 1;
/// Status of a slot that held no piece.
pub const NETIF_RSP_NULL: i16 = 1;

/// Slots that every backend takes for one packet.
pub const SLOTS_MIN: usize = 18;
/// Most bytes of a packet to send, its Ethernet header included.
pub const MAX_TX_SIZE: usize = 65535;

const _: () = {
    assert!(size_of::<TxRequest>() == 12 && size_of::<ExtraGso>() == 12);
    assert!(size_of::<RxRequest>() == 8 && size_of::<RxResponse>() == 8 && size_of::<TxResponse>() == 4);
};
