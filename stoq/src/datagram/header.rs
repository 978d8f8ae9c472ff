//! Datagrams to bytes and back.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// Bytes before a datagram's payload. What the path carries is less by this.
pub const DATAGRAM_HEADER_BYTES: usize = 12;

/// A datagram as the [wire document](crate::wire#datagrams) has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The application's number for what it is.
    pub kind: u16,
    /// Its place among those sent on this connection, from 1; see [`Sequence`](super::Sequence).
    pub sequence: u64,
    /// The application's bytes, possibly none.
    pub payload: Bytes,
}

/// Bytes that are no datagram of this connection. The fault is the peer's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// Shorter than its header.
    #[error("a datagram of {0} bytes has no room for its header")]
    Short(usize),
    /// Of another version than agreed.
    #[error("datagram of version {found}, agreed is {agreed}")]
    Version {
        /// In the header.
        found: u8,
        /// In the hello.
        agreed: u8,
    },
}

impl Datagram {
    /// Its bytes in `version`. The payload is copied: QUIC takes a datagram in one piece.
    #[must_use]
    pub fn encode(&self, version: u8) -> Bytes {
        let mut out = BytesMut::with_capacity(DATAGRAM_HEADER_BYTES + self.payload.len());
        out.put_u8(version);
        out.put_u8(0);
        out.put_u16(self.kind);
        out.put_u64(self.sequence);
        out.put_slice(&self.payload);
        out.freeze()
    }

    /// Reads a datagram where `version` is agreed. The payload is a slice of `bytes`. Flags are passed over: no
    /// bit has a meaning.
    ///
    /// # Errors
    /// The bytes are too few, or of another version.
    pub fn decode(version: u8, mut bytes: Bytes) -> Result<Self, DatagramError> {
        if bytes.len() < DATAGRAM_HEADER_BYTES {
            return Err(DatagramError::Short(bytes.len()));
        }
        let found = bytes.get_u8();
        if found != version {
            return Err(DatagramError::Version {
                found,
                agreed: version,
            });
        }
        let _flags = bytes.get_u8();
        Ok(Self {
            kind: bytes.get_u16(),
            sequence: bytes.get_u64(),
            payload: bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            version: u8,
            kind: u16,
            sequence: u64,
            payload in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let datagram = Datagram { kind, sequence, payload: payload.into() };
            prop_assert_eq!(Datagram::decode(version, datagram.encode(version)), Ok(datagram));
        }

        #[test]
        fn arbitrary_bytes_are_a_datagram_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let (len, first) = (bytes.len(), bytes.first().copied());
            match Datagram::decode(2, bytes.into()) {
                Ok(datagram) => {
                    prop_assert_eq!(first, Some(2));
                    prop_assert_eq!(datagram.payload.len(), len - DATAGRAM_HEADER_BYTES);
                }
                Err(DatagramError::Short(found)) => prop_assert!(found == len && len < 12),
                Err(DatagramError::Version { found, agreed: 2 }) => {
                    prop_assert!(Some(found) == first && found != 2);
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }

    #[test]
    fn the_payload_is_a_slice_of_what_arrived() {
        let bytes = Datagram {
            kind: 1,
            sequence: 1,
            payload: Bytes::from(vec![5; 1000]),
        }
        .encode(2);
        let range = bytes.as_ptr_range();
        let got = Datagram::decode(2, bytes.clone()).unwrap();
        assert!(range.contains(&got.payload.as_ptr()));
    }
}
