//! Waiting with a limit, free of charge when there is nothing to wait for.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::Sleep;

/// The limit passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

pin_project! {
    /// See [`at_most`]. A type of its own, and not an `async fn`, which would hold its argument twice: this stands several times in the future of
    /// each request, and that is moved.
    pub(crate) struct AtMost<F> {
        #[pin]
        future: F,
        limit: Duration,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

/// `future`, or [`TooLong`] after `limit` from the first time it was not ready. No timer and no clock is touched
/// when it is ready at once, as on the inline path.
pub(crate) fn at_most<F: Future>(limit: Duration, future: F) -> AtMost<F> {
    AtMost {
        future,
        limit,
        timer: None,
    }
}

impl<F: Future> Future for AtMost<F> {
    type Output = Result<F::Output, TooLong>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let timer = this
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(*this.limit)));
        timer.as_mut().poll(cx).map(|()| Err(TooLong))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_limit_counts_from_the_first_wait() {
        assert_eq!(at_most(Duration::ZERO, async { 7 }).await, Ok(7));
        let never = std::future::pending::<()>();
        assert_eq!(at_most(Duration::from_secs(3), never).await, Err(TooLong));
        let soon = tokio::time::sleep(Duration::from_secs(2));
        assert_eq!(at_most(Duration::from_secs(3), soon).await, Ok(()));
    }
}
