//! Frames from their parts, wrong ones included.

use std::{hash::Hasher, net::IpAddr};

use siphasher::sip::SipHasher24;

pub(crate) const UDP: u8 = 17;
pub(crate) const TCP: u8 = 6;
pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const DESTINATION: u8 = 60;

/// A packet of IPv4 or IPv6, as its source's family says.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub vlans: Vec<u16>,
    pub source: IpAddr,
    /// Words of IPv4 options.
    pub options: u8,
    /// Kind, and the content of IPv6 extension headers after the two bytes of kind and length.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// IPv4 only: offset in units of 8 bytes, and whether more follow.
    pub fragment: Option<(u16, bool)>,
    pub protocol: u8,
    pub transport: Vec<u8>,
    /// Instead of what it is.
    pub ip_length: Option<u16>,
    /// After the IP packet.
    pub padding: usize,
}

/// A UDP header and payload. `length` instead of what it is.
pub(crate) fn udp_with(port: u16, payload: &[u8], length: Option<u16>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + payload.len());
    bytes.extend_from_slice(&50_000u16.to_be_bytes());
    bytes.extend_from_slice(&port.to_be_bytes());
    let actual = u16::try_from(payload.len() + 8).unwrap();
    bytes.extend_from_slice(&length.unwrap_or(actual).to_be_bytes());
    // A checksum is the stack's business: this one is wrong nearly always.
    bytes.extend_from_slice(&[0xbe, 0xef]);
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn tcp(port: u16, flags: u8) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    bytes[..2].copy_from_slice(&50_000u16.to_be_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[12] = 5 << 4;
    bytes[13] = flags;
    bytes
}

impl Packet {
    pub(crate) fn new(source: IpAddr, protocol: u8, transport: Vec<u8>) -> Self {
        Self {
            vlans: Vec::new(),
            source,
            options: 0,
            extensions: Vec::new(),
            fragment: None,
            protocol,
            transport,
            ip_length: None,
            padding: 0,
        }
    }

    pub(crate) fn udp(source: &str, port: u16, payload: &[u8]) -> Self {
        Self::new(source.parse().unwrap(), UDP, udp_with(port, payload, None))
    }

    pub(crate) fn tcp(source: &str, port: u16, flags: u8) -> Self {
        Self::new(source.parse().unwrap(), TCP, tcp(port, flags))
    }

    pub(crate) fn vlan(mut self, kind: u16) -> Self {
        self.vlans.push(kind);
        self
    }

    pub(crate) fn options(mut self, words: u8) -> Self {
        self.options = words;
        self
    }

    pub(crate) fn extension(mut self, kind: u8, content: &[u8]) -> Self {
        self.extensions.push((kind, content.to_owned()));
        self
    }

    /// `count` options headers of eight bytes.
    pub(crate) fn extensions(mut self, count: usize) -> Self {
        for _ in 0..count {
            self = self.extension(DESTINATION, &[0; 6]);
        }
        self
    }

    pub(crate) fn fragment(mut self, offset: u16, more: bool) -> Self {
        if self.source.is_ipv4() {
            self.fragment = Some((offset, more));
            return self;
        }
        let place = offset << 3 | u16::from(more);
        let [high, low] = place.to_be_bytes();
        self.extension(FRAGMENT, &[high, low, 0, 0, 0, 1])
    }

    pub(crate) fn ip_length(mut self, length: u16) -> Self {
        self.ip_length = Some(length);
        self
    }

    pub(crate) fn padding(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(128 + self.transport.len());
        frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        for kind in &self.vlans {
            frame.extend_from_slice(&kind.to_be_bytes());
            frame.extend_from_slice(&[0, 7]);
        }
        match self.source {
            IpAddr::V4(source) => {
                frame.extend_from_slice(&[0x08, 0]);
                let head_bytes = 20 + 4 * usize::from(self.options);
                let total = u16::try_from(head_bytes + self.transport.len()).unwrap();
                frame.push(0x40 | (5 + self.options));
                frame.push(0);
                frame.extend_from_slice(&self.ip_length.unwrap_or(total).to_be_bytes());
                frame.extend_from_slice(&[0, 1]);
                let place = self
                    .fragment
                    .map_or(0x4000, |(offset, more)| offset | u16::from(more) << 13);
                frame.extend_from_slice(&place.to_be_bytes());
                frame.extend_from_slice(&[64, self.protocol, 0xba, 0xad]);
                frame.extend_from_slice(&source.octets());
                frame.extend_from_slice(&[192, 0, 2, 1]);
                // No-operation options.
                frame.resize(frame.len() + head_bytes - 20, 1);
            }
            IpAddr::V6(source) => {
                frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
                let extensions: usize = self.extensions.iter().map(|(_, it)| it.len() + 2).sum();
                let payload = u16::try_from(extensions + self.transport.len()).unwrap();
                frame.extend_from_slice(&self.ip_length.unwrap_or(payload).to_be_bytes());
                let kinds = self.extensions.iter().map(|(kind, _)| *kind);
                let mut kinds = kinds.chain([self.protocol]);
                frame.extend(kinds.next());
                frame.push(64);
                frame.extend_from_slice(&source.octets());
                frame.extend_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
                for ((kind, content), next) in self.extensions.iter().zip(kinds) {
                    let bytes = content.len() + 2;
                    frame.push(next);
                    frame.push(
                        u8::try_from(match *kind {
                            FRAGMENT => 0,
                            AUTHENTICATION => bytes / 4 - 2,
                            _ => bytes / 8 - 1,
                        })
                        .unwrap(),
                    );
                    frame.extend_from_slice(content);
                }
            }
        }
        frame.extend_from_slice(&self.transport);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }
}

/// The connection ID that an endpoint with this key issues.
pub(crate) fn keyed_id(key: [u8; 16], generation: u8, worker: u8, nonce: [u8; 7]) -> Vec<u8> {
    let mut id = vec![generation << 6 | worker];
    id.extend_from_slice(&nonce);
    let mut hasher = SipHasher24::new_with_key(&key);
    hasher.write(&id);
    id.extend_from_slice(&hasher.finish().to_le_bytes()[..4]);
    id
}

pub(crate) const VERSION_1: u32 = 1;
pub(crate) const VERSION_2: u32 = 0x6b33_43cf;
pub(crate) const INITIAL: u8 = 0;
pub(crate) const ZERO_RTT: u8 = 1;
pub(crate) const HANDSHAKE: u8 = 2;
pub(crate) const RETRY: u8 = 3;

/// A datagram with a long header. `kind` as in version 1; filled to `bytes` with what looks like ciphertext, or cut there.
pub(crate) fn long(
    version: u32,
    kind: u8,
    id: &[u8],
    source_id: &[u8],
    token: Option<&[u8]>,
    bytes: usize,
) -> Vec<u8> {
    let kind = if version == VERSION_2 {
        (kind + 1) & 3
    } else {
        kind
    };
    let mut datagram = vec![0xc0 | kind << 4];
    datagram.extend_from_slice(&version.to_be_bytes());
    datagram.push(u8::try_from(id.len()).unwrap());
    datagram.extend_from_slice(id);
    datagram.push(u8::try_from(source_id.len()).unwrap());
    datagram.extend_from_slice(source_id);
    if let Some(token) = token {
        let length = u16::try_from(token.len()).unwrap();
        if length < 64 {
            datagram.push(u8::try_from(length).unwrap());
        } else {
            datagram.extend_from_slice(&(0x4000 | length).to_be_bytes());
        }
        datagram.extend_from_slice(token);
    }
    datagram.resize(bytes, 0xa5);
    datagram
}

/// An Initial of version 1 without token.
pub(crate) fn initial(id: &[u8], bytes: usize) -> Vec<u8> {
    long(VERSION_1, INITIAL, id, &[7; 8], Some(&[]), bytes)
}

/// A datagram with a short header.
pub(crate) fn short(id: &[u8], bytes: usize) -> Vec<u8> {
    let mut datagram = vec![0x40];
    datagram.extend_from_slice(id);
    datagram.resize(bytes, 0xa5);
    datagram
}
