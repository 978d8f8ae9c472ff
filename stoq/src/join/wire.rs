//! The two messages of an enrolment.

use bytes::Bytes;

use super::token::{ID_BYTES, SECRET_BYTES};
use crate::transport::{ReadError, RecvStream, SendStream, WriteError};

/// The first byte of both messages.
const VERSION: u8 = 1;

/// 64 KiB: an identity with every role allowed takes some 30 KiB.
const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;

/// What a joiner asks with.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) id: [u8; ID_BYTES],
    pub(super) secret: [u8; SECRET_BYTES],
}

impl Ask {
    pub(super) const BYTES: usize = 1 + ID_BYTES + SECRET_BYTES;

    pub(super) fn encode(&self) -> Bytes {
        [&[VERSION][..], &self.id, &self.secret].concat().into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[VERSION])?;
        let (id, secret) = rest.split_first_chunk()?;
        Some(Self {
            id: *id,
            secret: secret.try_into().ok()?,
        })
    }
}

/// What it is given.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) cluster_secret: [u8; 32],
    pub(super) certificate: Vec<u8>,
}

impl Answer {
    pub(super) const BYTES_MAX: usize = 1 + 32 + CERTIFICATE_BYTES_MAX;

    pub(super) fn encode(&self) -> Bytes {
        [&[VERSION][..], &self.cluster_secret, &self.certificate]
            .concat()
            .into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[VERSION])?;
        let (cluster_secret, certificate) = rest.split_first_chunk()?;
        Some(Self {
            cluster_secret: *cluster_secret,
            certificate: certificate.to_vec(),
        })
    }
}

/// Reads a stream to its end; `None` if it holds more than `max` bytes.
pub(super) async fn read_all(
    stream: &mut (dyn RecvStream + 'static),
    max: usize,
) -> Result<Option<Vec<u8>>, ReadError> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.read_chunk(max + 1).await? {
        if all.len() + chunk.len() > max {
            return Ok(None);
        }
        all.extend_from_slice(&chunk);
    }
    Ok(Some(all))
}

/// Writes a message and the end of the stream.
pub(super) async fn write_all(
    stream: &mut (dyn SendStream + 'static),
    bytes: Bytes,
) -> Result<(), WriteError> {
    stream.write_all_chunks(&mut [bytes]).await?;
    stream.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_and_no_other_length_or_version_is_read() {
        let ask = Ask {
            id: [1; ID_BYTES],
            secret: [2; SECRET_BYTES],
        };
        let bytes = ask.encode();
        assert_eq!(bytes.len(), Ask::BYTES);
        assert!(Ask::decode(&bytes) == Some(ask));
        for cut in 0..bytes.len() {
            assert!(Ask::decode(&bytes[..cut]).is_none(), "{cut}");
        }
        assert!(Ask::decode(&[&bytes[..], &[0]].concat()).is_none());
        assert!(Ask::decode(&[&[2], &bytes[1..]].concat()).is_none());

        let answer = Answer {
            cluster_secret: [3; 32],
            certificate: vec![4; 500],
        };
        assert!(Answer::decode(&answer.encode()) == Some(answer));
        assert!(Answer::decode(&[1; 32]).is_none());
        assert!(Answer::decode(&[2; 100]).is_none());
    }
}
