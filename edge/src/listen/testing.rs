//! Replies by the line, for the tests of this module.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, StatusCode};
use stoq_cache::http::cache_status::CacheStatus;
use stoq_cache::reply::{Reply, ReplyBody, StoredHead};

/// A reply of this status, these fields and this body.
pub(crate) fn reply(status: u16, fields: &[(&'static str, &str)], body: ReplyBody) -> Reply {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), value.parse().unwrap());
    }
    let head = Arc::new(StoredHead::new(
        StatusCode::from_u16(status).unwrap(),
        headers,
    ));
    Reply {
        head,
        status: None,
        overrides: Default::default(),
        removed: Default::default(),
        body,
        outcome: CacheStatus::Hit,
    }
}

/// A body that arrives in these pieces.
pub(crate) fn stream_of<const N: usize>(pieces: [&'static str; N]) -> ReplyBody {
    ReplyBody::Stream(Box::pin(stream::iter(
        pieces.map(|piece| Ok(Bytes::from_static(piece.as_bytes()))),
    )))
}
