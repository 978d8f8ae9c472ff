//! Bodies to clients wait for the node's shaper, where the operator limits what the node sends.
//!
//! Without a limit nothing of this is in a reply's way. With one, a body that was all in memory becomes a stream, since it may have
//! to wait; its length stays declared.

use std::mem;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::HeaderValue;
use http::header::CONTENT_LENGTH;
use stoq::shape::{Class, Shaper};
use stoq_cache::reply::{Reply, ReplyBody};
use stoq_cache::upstream::BodyStream;

/// The same reply, whose body asks `shaper` before each piece.
pub(super) fn shaped(mut reply: Reply, shaper: Option<&Shaper>) -> Reply {
    let Some(shaper) = shaper else { return reply };
    let length = reply.body.len_hint();
    let pieces: BodyStream = match mem::replace(&mut reply.body, ReplyBody::Empty) {
        ReplyBody::Empty => return reply,
        ReplyBody::Bytes(bytes) => Box::pin(stream::iter([Ok(bytes)])),
        ReplyBody::Chunks(chunks) => Box::pin(stream::iter(chunks.into_iter().map(Ok))),
        ReplyBody::Stream(body) => body,
    };
    if let Some(length) = length
        && !reply.fields().any(|(name, _)| name == CONTENT_LENGTH)
    {
        reply
            .overrides
            .push((CONTENT_LENGTH, HeaderValue::from(length)));
    }
    reply.body = ReplyBody::Stream(waiting(pieces, shaper.clone()));
    reply
}

/// The bytes of `body` in pieces as the shaper grants them.
fn waiting(body: BodyStream, shaper: Shaper) -> BodyStream {
    Box::pin(stream::unfold(
        (body, Bytes::new(), shaper),
        |(mut body, mut rest, shaper)| async move {
            if rest.is_empty() {
                match body.next().await? {
                    Ok(bytes) => rest = bytes,
                    Err(error) => return Some((Err(error), (body, rest, shaper))),
                }
            }
            let granted = shaper.take(Class::Serve, rest.len()).await;
            let piece = rest.split_to(granted.min(rest.len()));
            Some((Ok(piece), (body, rest, shaper)))
        },
    ))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::sync::Arc;

    use http::{HeaderMap, StatusCode};
    use stoq::shape::{Limits, Rate};
    use stoq_cache::http::cache_status::CacheStatus;
    use stoq_cache::reply::StoredHead;
    use stoq_cache::upstream::BodyError;
    use tokio::time::Instant;

    use super::*;

    fn reply(body: ReplyBody) -> Reply {
        Reply {
            head: Arc::new(StoredHead::new(StatusCode::OK, HeaderMap::new())),
            status: None,
            overrides: Default::default(),
            removed: Default::default(),
            body,
            outcome: CacheStatus::Hit,
        }
    }

    fn shaper(bytes_per_second: u64) -> Shaper {
        Shaper::new(&Limits {
            node: NonZeroU64::new(bytes_per_second).map(Rate::new),
            ..Limits::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_shaped_body_is_the_same_as_long_and_no_faster_than_the_rate() {
        let body = Bytes::from(vec![7; 3_000_000]);
        let halves = vec![body.slice(..1_000_000), body.slice(1_000_000..)];
        for body in [
            ReplyBody::Bytes(body.clone()),
            ReplyBody::Chunks(halves.clone()),
            ReplyBody::Stream(Box::pin(stream::iter(halves.into_iter().map(Ok)))),
        ] {
            let length = body.len_hint();
            let begun = Instant::now();
            let reply = shaped(reply(body), Some(&shaper(1_000_000)));
            let declared = reply.fields().find(|(name, _)| *name == CONTENT_LENGTH);
            let declared = declared.and_then(|(_, value)| value.to_str().ok()?.parse().ok());
            assert_eq!(declared, length);
            let ReplyBody::Stream(mut pieces) = reply.body else {
                panic!("{:?}", reply.body)
            };
            let mut got = 0;
            while let Some(piece) = pieces.next().await {
                let piece = piece.unwrap();
                assert!(!piece.is_empty() && piece.iter().all(|byte| *byte == 7));
                got += piece.len();
            }
            assert_eq!(got, 3_000_000);
            // The first 64 KiB pass at once.
            let took = begun.elapsed().as_secs_f64();
            assert!((2.93..3.1).contains(&took), "{took}");
        }
    }

    #[tokio::test]
    async fn what_breaks_stays_broken_and_nothing_is_made_of_no_body() {
        let broken = || BodyError::Length {
            got: 1,
            declared: 2,
        };
        let body = ReplyBody::Stream(Box::pin(stream::iter([
            Ok(Bytes::from_static(b"x")),
            Err(broken()),
        ])));
        let reply_of = |body| shaped(reply(body), Some(&shaper(1_000_000)));
        let ReplyBody::Stream(pieces) = reply_of(body).body else {
            panic!("a stream stays one")
        };
        let pieces: Vec<_> = pieces.take(2).collect().await;
        assert!(matches!(pieces.as_slice(), [Ok(_), Err(_)]), "{pieces:?}");
        let none = reply_of(ReplyBody::Empty);
        assert!(matches!(none.body, ReplyBody::Empty) && none.overrides.is_empty());
        let whole = shaped(reply(ReplyBody::Bytes("x".into())), None);
        assert!(matches!(whole.body, ReplyBody::Bytes(_)));
    }
}
