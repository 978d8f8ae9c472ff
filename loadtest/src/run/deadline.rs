//! A time-out for one request after the other on the same lane, without a timer operation for each.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Instant;

use tokio::time::Sleep;

/// A timer that is never later than the request's own deadline: when it goes off too early it is set anew. So the runtime's
/// timer is touched once in a time-out's length, and not twice for each request.
#[derive(Debug)]
pub(super) struct Deadline(Pin<Box<Sleep>>);

impl Deadline {
    /// Within a runtime.
    pub(super) fn new() -> Self {
        Self(Box::pin(tokio::time::sleep_until(
            tokio::time::Instant::now(),
        )))
    }

    /// What `future` gives, or `None` when it is `due` (which must not be before that of an earlier call). Cancel safe if
    /// `future` is.
    pub(super) async fn bound<F: Future>(&mut self, due: Instant, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let timer = &mut self.0;
        poll_fn(|context| {
            if let Poll::Ready(done) = future.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            while timer.as_mut().poll(context).is_ready() {
                if Instant::now() >= due {
                    return Poll::Ready(None);
                }
                timer.as_mut().reset(due.into());
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn each_request_has_its_own_time_though_the_timer_is_older() {
        let mut deadline = Deadline::new();
        let limit = Duration::from_millis(60);
        for _ in 0..3 {
            let quick = tokio::time::sleep(Duration::from_millis(25));
            assert!(
                deadline
                    .bound(Instant::now() + limit, quick)
                    .await
                    .is_some()
            );
        }
        let started = Instant::now();
        assert!(
            deadline
                .bound(started + limit, pending::<()>())
                .await
                .is_none()
        );
        assert!(started.elapsed() >= limit);
    }
}
