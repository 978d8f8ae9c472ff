//! A response: its head at once, its body as it comes, and an end that is believed only when the version's framing
//! and the declared length agree that it is one.

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, StatusCode, response};

use super::error::ClientError;
use super::{quic, tcp};

/// The head of a response and its body to come. Dropping it cancels the rest.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The fields as they came.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
}

/// The body of a response.
#[derive(Debug)]
pub struct Body {
    source: Source,
    declared: Option<u64>,
    got: u64,
    ended: bool,
}

#[derive(Debug)]
pub(super) enum Source {
    Tcp(tcp::TcpBody),
    Quic(quic::QuicBody),
}

/// A response read to its end.
#[derive(Debug, Clone)]
pub struct Whole {
    /// The status.
    pub status: StatusCode,
    /// The fields.
    pub headers: HeaderMap,
    /// Bytes of the body.
    pub length: u64,
    /// BLAKE3 of the body.
    pub hash: blake3::Hash,
}

impl Answer {
    pub(super) fn new(
        head: response::Parts,
        method: &Method,
        source: Source,
    ) -> Result<Self, ClientError> {
        let bodyless = *method == Method::HEAD
            || matches!(
                head.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        let declared = if bodyless {
            Some(0)
        } else {
            declared(&head.headers)?
        };
        let body = Body {
            source,
            declared,
            got: 0,
            ended: false,
        };
        Ok(Self {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    /// A field as text; `None` if it is absent or no text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Reads the body to its end, holding none of it.
    ///
    /// # Errors
    /// As [`Body::chunk`].
    pub async fn whole(mut self) -> Result<Whole, ClientError> {
        let mut hasher = blake3::Hasher::new();
        let mut length = 0;
        while let Some(bytes) = self.body.chunk().await? {
            hasher.update(&bytes);
            length += bytes.len() as u64;
        }
        Ok(Whole {
            status: self.status,
            headers: self.headers,
            length,
            hash: hasher.finalize(),
        })
    }

    /// The body in one piece.
    ///
    /// # Errors
    /// As [`Body::chunk`], and a body above `limit` bytes.
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes, ClientError> {
        let mut body = BytesMut::new();
        while let Some(bytes) = self.body.chunk().await? {
            if body.len() + bytes.len() > limit {
                return Err(ClientError::TooLong { limit });
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body.freeze())
    }
}

impl Body {
    /// The next bytes, never empty; `None` at the end of a whole body. Cancel safe.
    ///
    /// # Errors
    /// The stream was reset, the connection ended, or the length is not what was declared. After an error, and after
    /// the end, there is nothing more: `None`.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let next = match &mut self.source {
            Source::Tcp(body) => body.chunk().await,
            Source::Quic(body) => body.chunk().await,
        };
        let checked = match next {
            Ok(Some(bytes)) => {
                self.got += bytes.len() as u64;
                match self.declared {
                    Some(declared) if self.got > declared => Err(ClientError::Length {
                        got: self.got,
                        declared,
                    }),
                    Some(_) | None => return Ok(Some(bytes)),
                }
            }
            Ok(None) => match self.declared {
                Some(declared) if self.got != declared => Err(ClientError::Length {
                    got: self.got,
                    declared,
                }),
                Some(_) | None => Ok(None),
            },
            Err(error) => Err(error),
        };
        self.ended = true;
        checked
    }

    /// The declared length, if there is one.
    #[must_use]
    pub fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// Bytes that came so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.got
    }
}

fn declared(headers: &HeaderMap) -> Result<Option<u64>, ClientError> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.any(|other| other != first) {
        return Err(ClientError::Protocol(
            "two Content-Lengths that differ".to_owned(),
        ));
    }
    let length = first
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match length.and_then(|text| text.parse().ok()) {
        Some(length) => Ok(Some(length)),
        None => Err(ClientError::Protocol(format!(
            "Content-Length {first:?} is no number"
        ))),
    }
}
