//! A gossip message between two nodes: one STOQ message (a stream one way) of kind [`GOSSIP`].
//!
//! ```text
//! control = version u8 = 1, 4 | 6, address, port u16     where the sender listens, to be answered there
//! body    = length u32 of the message, zstd of it
//! ```
//!
//! Big-endian. A frame is compressed by itself, so one that is lost takes no other with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

/// Kind of the STOQ message.
pub const GOSSIP: u16 = 64;
/// Longest message before compression: what chitchat fits into, a UDP datagram, and what the largest digest exceeds it by.
pub(super) const MESSAGE_BYTES_MAX: usize = 96 << 10;
/// Longest body: what does not compress grows a little.
pub(super) const BODY_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 1024;

const VERSION: u8 = 1;
/// The default of zstd: 3 costs some 100 µs for a message of 10 KB, and higher ones gain little.
const LEVEL: i32 = 3;

/// Why a frame is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the head is not one")]
    Head,
    #[error("more than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    #[error("the body is not compressed as it says")]
    Body,
}

/// The head of frames of a node that listens there.
pub(super) fn head(listens: SocketAddr) -> Bytes {
    let mut out = vec![VERSION];
    match listens.ip() {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(6);
            out.extend_from_slice(&v6.octets());
        }
    }
    out.extend_from_slice(&listens.port().to_be_bytes());
    out.into()
}

/// Where the sender of this head listens.
pub(super) fn listens(head: &[u8]) -> Result<SocketAddr, FrameError> {
    let (ip, port): (IpAddr, &[u8]) = match head {
        [VERSION, 4, rest @ ..] => {
            let (ip, port) = rest.split_first_chunk::<4>().ok_or(FrameError::Head)?;
            (Ipv4Addr::from(*ip).into(), port)
        }
        [VERSION, 6, rest @ ..] => {
            let (ip, port) = rest.split_first_chunk::<16>().ok_or(FrameError::Head)?;
            (Ipv6Addr::from(*ip).into(), port)
        }
        _ => return Err(FrameError::Head),
    };
    let port = u16::from_be_bytes(port.try_into().map_err(|_| FrameError::Head)?);
    if port == 0 || ip.is_unspecified() || ip.is_multicast() {
        return Err(FrameError::Head);
    }
    Ok(SocketAddr::new(ip, port))
}

/// Compresses a message.
pub(super) fn pack(message: &[u8]) -> Result<Bytes, FrameError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(FrameError::TooLong);
    }
    let length = u32::try_from(message.len()).map_err(|_| FrameError::TooLong)?;
    let packed = zstd::bulk::compress(message, LEVEL).map_err(|_| FrameError::Body)?;
    let mut out = Vec::with_capacity(4 + packed.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&packed);
    Ok(out.into())
}

/// What was compressed. Takes no more memory than the body says, and that is bounded.
pub(super) fn unpack(body: &[u8]) -> Result<Vec<u8>, FrameError> {
    let (length, packed) = body.split_first_chunk::<4>().ok_or(FrameError::Body)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| FrameError::TooLong)?;
    if length > MESSAGE_BYTES_MAX {
        return Err(FrameError::TooLong);
    }
    let message = zstd::bulk::decompress(packed, length).map_err(|_| FrameError::Body)?;
    if message.len() != length {
        return Err(FrameError::Body);
    }
    Ok(message)
}

/// For the fuzz targets: reads the head and body of a frame and says them again.
///
/// # Errors
/// They are none, in words.
#[doc(hidden)]
pub fn reframed(of: &[u8], body: &[u8]) -> Result<(Bytes, Bytes), String> {
    let from = listens(of).map_err(|error| error.to_string())?;
    let message = unpack(body).map_err(|error| error.to_string())?;
    let body = pack(&message).map_err(|error| error.to_string())?;
    Ok((head(from), body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_unpacked_is_what_was_packed(message in prop::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert_eq!(unpack(&pack(&message).unwrap()), Ok(message));
        }

        #[test]
        fn bytes_from_anybody_are_unpacked_or_refused(body in prop::collection::vec(any::<u8>(), 0..500)) {
            if let Ok(message) = unpack(&body) {
                prop_assert!(message.len() <= MESSAGE_BYTES_MAX);
            }
            let _ = listens(&body);
        }
    }

    #[test]
    fn a_body_that_grows_beyond_what_it_says_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; 10 << 20], 3).unwrap();
        for length in [0u32, 1000, 96 << 10, (96 << 10) + 1, 10 << 20, u32::MAX] {
            let body = [&length.to_be_bytes()[..], &bomb].concat();
            assert!(unpack(&body).is_err(), "{length}");
        }
        assert_eq!(
            pack(&vec![0; MESSAGE_BYTES_MAX + 1]),
            Err(FrameError::TooLong)
        );
    }

    #[test]
    fn a_head_says_where_its_sender_listens() {
        for text in ["192.0.2.1:7443", "[2001:db8::1]:1"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(listens(&head(addr)), Ok(addr));
        }
        for text in ["0.0.0.0:1", "192.0.2.1:0", "224.0.0.1:1"] {
            assert!(listens(&head(text.parse().unwrap())).is_err(), "{text}");
        }
    }
}
