//! A request that is not the cache's business: streamed to the upstream and back, nothing stored, nothing queued.
//!
//! The request's body passes under `limits.body_bytes`, counted as it goes, since its announced length may be absent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use stoq_cache::upstream::{BodyError, BodyStream};

/// Remembers that a body broke its limit, beyond the errors it became on the way through an upstream's client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrun(Arc<AtomicBool>);

impl Overrun {
    /// Whether the limit was broken.
    pub(crate) fn happened(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// `body`, ending in an error where it exceeds `limit` bytes. Nothing of the piece that exceeds is passed on.
pub(crate) fn bounded(body: BodyStream, limit: u64) -> (BodyStream, Overrun) {
    let overrun = Overrun::default();
    (
        Box::pin(Bounded {
            body: Some(body),
            left: limit,
            limit,
            overrun: overrun.clone(),
        }),
        overrun,
    )
}

struct Bounded {
    /// `None` after the end.
    body: Option<BodyStream>,
    left: u64,
    limit: u64,
    overrun: Overrun,
}

impl Stream for Bounded {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = self.body.as_mut() else {
            return Poll::Ready(None);
        };
        let item = std::task::ready!(body.as_mut().poll_next(cx));
        Poll::Ready(match item {
            Some(Ok(bytes)) => match self
                .left
                .checked_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
            {
                Some(left) => {
                    self.left = left;
                    Some(Ok(bytes))
                }
                None => {
                    self.body = None;
                    self.overrun.0.store(true, Ordering::Relaxed);
                    Some(Err(BodyError::Client(format!(
                        "request body above the limit of {} bytes",
                        self.limit
                    ))))
                }
            },
            Some(Err(error)) => {
                self.body = None;
                Some(Err(error))
            }
            None => {
                self.body = None;
                None
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt, stream};

    use super::*;

    fn through(pieces: &[&'static str], limit: u64) -> (Vec<Result<Bytes, BodyError>>, bool) {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|piece| Ok(Bytes::from_static(piece.as_bytes())))
            .collect();
        let (body, overrun) = bounded(Box::pin(stream::iter(pieces)), limit);
        (body.collect().now_or_never().unwrap(), overrun.happened())
    }

    #[test]
    fn a_body_up_to_its_limit_passes_whole() {
        let (items, overrun) = through(&["abc", "", "de"], 5);
        assert_eq!(
            items
                .into_iter()
                .map(Result::unwrap)
                .collect::<Vec<_>>()
                .concat(),
            b"abcde"
        );
        assert!(!overrun);
    }

    #[test]
    fn one_byte_more_ends_in_one_error() {
        let (items, overrun) = through(&["abc", "def", "g"], 5);
        assert_eq!(items.len(), 2);
        assert!(items[0].is_ok() && matches!(items[1], Err(BodyError::Client(_))));
        assert!(overrun);
    }
}
