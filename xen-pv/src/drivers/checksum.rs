//! TCP and UDP checksums of IPv4 packets in Ethernet frames, where the other side does not vouch for them or compute them.

const ETHERNET: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The part of a frame that a TCP or UDP checksum covers.
struct Covered {
    /// Where the segment starts.
    start: usize,
    /// Where it ends: frames may be padded.
    end: usize,
    /// Where the checksum is.
    field: usize,
    /// The sum over the pseudo header.
    pseudo: u32,
    protocol: u8,
}

/// Finds TCP or UDP in an unfragmented IPv4 packet; none if it is something else or does not fit the frame.
fn find(frame: &[u8]) -> Option<Covered> {
    if frame.get(12..14)? != [8, 0] {
        return None;
    }
    let ip = frame.get(ETHERNET..)?;
    let header = usize::from(ip.first()? & 15) * 4;
    let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let fragment = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x3fff;
    let protocol = *ip.get(9)?;
    let field = match protocol {
        TCP => TCP_FIELD,
        UDP => 6,
        _ => return None,
    };
    let version = ip.first()? >> 4;
    if version != 4 || header < 20 || fragment != 0 || total > ip.len() || total < header + field + 2 {
        return None;
    }
    let length = total - header;
    let pseudo = sum(ip.get(12..20)?) + u32::from(protocol) + length as u32;
    Some(Covered {
        start: ETHERNET + header,
        end: ETHERNET + total,
        field: ETHERNET + header + field,
        pseudo,
        protocol,
    })
}

/// Where a TCP checksum's bytes are in their segment.
pub const TCP_FIELD: usize = 16;

/// Puts the sum over the pseudo header into a TCP checksum, which somebody else completes: where the segment starts. None if
/// it is not TCP.
pub fn prepare_tcp(frame: &mut [u8]) -> Option<usize> {
    let covered = find(frame).filter(|covered| covered.protocol == TCP)?;
    frame[covered.field..covered.field + 2].copy_from_slice(&fold(covered.pseudo).to_be_bytes());
    Some(covered.start)
}

/// Whether a received TCP or UDP checksum is right; true for everything else.
pub fn is_right(frame: &[u8]) -> bool {
    let Some(covered) = find(frame) else { return true };
    if covered.protocol == UDP && frame[covered.field..covered.field + 2] == [0, 0] {
        return true;
    }
    fold(covered.pseudo + sum(&frame[covered.start..covered.end])) == 0xffff
}

/// Sum of big-endian 16-bit words, folded once so that a few of them cannot overflow.
fn sum(bytes: &[u8]) -> u32 {
    let (words, tail) = bytes.as_chunks::<2>();
    let total: u64 = words.iter().map(|&word| u64::from(u16::from_be_bytes(word))).sum();
    let total = total + tail.first().map_or(0, |&last| u64::from(last) << 8);
    let folded = (total & 0xffff) + (total >> 16);
    folded as u32
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// An Ethernet frame with a TCP or UDP segment of `payload` bytes and a right checksum.
    fn frame(protocol: u8, payload: usize) -> Vec<u8> {
        let header = if protocol == TCP { 20 } else { 8 };
        let mut frame = [2u8; 12].to_vec();
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + header + payload as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 77, 0, 11, 10, 77, 0, 2]);
        frame.extend((0..header + payload as u16).map(|i| i as u8));
        let covered = find(&frame).unwrap();
        frame[covered.field..covered.field + 2].fill(0);
        let sum = fold(covered.pseudo + sum(&frame[covered.start..covered.end]));
        frame[covered.field..covered.field + 2].copy_from_slice(&(!sum).to_be_bytes());
        frame
    }

    #[test]
    fn right_checksums_are_accepted_and_wrong_ones_are_not() {
        for protocol in [TCP, UDP] {
            for payload in [0, 1, 2, 999, 1460, 60000] {
                let mut frame = frame(protocol, payload);
                assert!(is_right(&frame));
                frame.extend([0; 6]);
                assert!(is_right(&frame), "padding does not count");
                frame[40] ^= 1;
                assert!(!is_right(&frame));
            }
        }
    }

    #[test]
    fn a_prepared_checksum_is_what_the_backend_completes() {
        let mut prepared = frame(TCP, 77);
        let right = prepared.clone();
        assert_eq!(prepare_tcp(&mut prepared), Some(34));
        // The backend sums the segment as it is and puts in the complement.
        let covered = find(&prepared).unwrap();
        let complete = !fold(sum(&prepared[covered.start..covered.end]));
        prepared[covered.field..covered.field + 2].copy_from_slice(&complete.to_be_bytes());
        assert_eq!(prepared, right);
        assert_eq!(prepare_tcp(&mut frame(UDP, 77)), None);
    }

    #[test]
    fn what_is_no_tcp_or_udp_is_left_alone() {
        let whole = frame(TCP, 10);
        for length in 0..whole.len() {
            assert!(is_right(&whole[..length]));
            assert_eq!(prepare_tcp(&mut whole[..length].to_vec()), None);
        }
        let mut fragment = frame(TCP, 10);
        fragment[ETHERNET + 6] = 0x20;
        assert!(find(&fragment).is_none());
    }
}
