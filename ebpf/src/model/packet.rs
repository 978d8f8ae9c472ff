//! From a frame to the header of UDP or TCP: `bpf/packet.h` in Rust. What cannot be read up to a port is not ours.

use std::net::{IpAddr, Ipv4Addr};

use crate::abi::{EXTENSIONS_MAX, VLANS_MAX};

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// What a frame is.
pub(super) enum Found<'a> {
    /// Neither UDP nor TCP over IP, or not its beginning.
    Nothing,
    /// IPv6 with more extension headers than are followed.
    Beyond,
    /// A port can be read.
    Transport(Transport<'a>),
}

/// UDP or TCP, from its header on.
pub(super) struct Transport<'a> {
    pub(super) source: IpAddr,
    pub(super) is_udp: bool,
    /// The first of several.
    pub(super) is_fragment: bool,
    pub(super) port: u16,
    /// To the end of the frame, at least the ports.
    bytes: &'a [u8],
    /// How many of them, or more, IP says there are.
    ip_bytes: usize,
}

impl<'a> Transport<'a> {
    /// None where the lengths contradict each other.
    pub(super) fn udp_payload(&self) -> Option<&'a [u8]> {
        let length = usize::from(be16(self.bytes, 4)?);
        if length > self.ip_bytes {
            return None;
        }
        self.bytes.get(8..length)
    }

    /// Whether it is a SYN without ACK. None where it is no whole header.
    pub(super) fn opens_tcp(&self) -> Option<bool> {
        if self.ip_bytes < 20 {
            return None;
        }
        let header = self.bytes.get(..20)?;
        Some(header.get(13)? & 0x12 == 0x02)
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let (two, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_be_bytes(*two))
}

/// Finds the transport header.
pub(super) fn find(frame: &[u8]) -> Found<'_> {
    ethernet(frame).unwrap_or(Found::Nothing)
}

fn ethernet(frame: &[u8]) -> Option<Found<'_>> {
    let mut kind = be16(frame, 12)?;
    let mut rest = frame.get(14..)?;
    for _ in 0..VLANS_MAX {
        if kind != 0x8100 && kind != 0x88a8 {
            break;
        }
        kind = be16(rest, 2)?;
        rest = rest.get(4..)?;
    }
    match kind {
        0x0800 => ipv4(rest),
        0x86dd => ipv6(rest),
        _ => None,
    }
}

fn ipv4(ip: &[u8]) -> Option<Found<'_>> {
    let (head, _) = ip.split_first_chunk::<20>()?;
    let head_bytes = usize::from(head[0] & 15) * 4;
    let total = usize::from(be16(head, 2)?);
    let place = be16(head, 6)?;
    // A later fragment has no ports. Its first was dropped if it was for us, so it is never put together.
    if head[0] >> 4 != 4 || head_bytes < 20 || total < head_bytes || place & 0x1fff != 0 {
        return None;
    }
    let source = Ipv4Addr::new(head[12], head[13], head[14], head[15]);
    transport(
        ip.get(head_bytes..)?,
        total - head_bytes,
        head[9],
        place & 0x2000 != 0,
        IpAddr::V4(source),
    )
}

fn ipv6(ip: &[u8]) -> Option<Found<'_>> {
    let (head, after) = ip.split_first_chunk::<40>()?;
    if head[0] >> 4 != 6 {
        return None;
    }
    // Zero is a jumbogram (RFC 2675), or what the stack drops itself.
    let mut left = match be16(head, 4)? {
        0 => after.len(),
        payload => usize::from(payload),
    };
    let (_, source) = head.get(..24)?.split_last_chunk::<16>()?;
    let source = super::v6(*source);
    let mut protocol = head[6];
    let mut is_fragment = false;
    // Where the next header stands in `after`; it may be beyond the end.
    let mut offset = 0usize;
    let mut followed = 0;
    while matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
    ) {
        if followed == EXTENSIONS_MAX {
            return Some(Found::Beyond);
        }
        let (extension, _) = after.get(offset..)?.split_first_chunk::<8>()?;
        let bytes = match protocol {
            FRAGMENT => {
                let place = be16(extension, 2)?;
                if place & 0xfff8 != 0 {
                    return None;
                }
                // RFC 6946: an atomic fragment is a whole packet.
                is_fragment |= place & 1 != 0;
                8
            }
            AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        protocol = extension[0];
        offset += bytes;
        left = left.saturating_sub(bytes);
        followed += 1;
    }
    transport(after.get(offset..)?, left, protocol, is_fragment, source)
}

fn transport(
    bytes: &[u8],
    ip_bytes: usize,
    protocol: u8,
    is_fragment: bool,
    source: IpAddr,
) -> Option<Found<'_>> {
    if protocol != UDP && protocol != TCP {
        return None;
    }
    Some(Found::Transport(Transport {
        source,
        is_udp: protocol == UDP,
        is_fragment,
        port: be16(bytes, 2)?,
        bytes,
        ip_bytes,
    }))
}
