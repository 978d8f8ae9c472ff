//! Runs HTTP/2's streams on their connection's task as far as they are ready.
//!
//! hyper wants an executor for the streams of an HTTP/2 connection and would have a task for each. This one polls each
//! once where it stands; a hit with a small body is done then, and only what waits is spawned.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use hyper::rt::Executor;
use tokio_util::task::TaskTracker;

/// The executor of one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Inline {
    tasks: TaskTracker,
}

impl Inline {
    /// Waits until every stream that was spawned has ended; they do when their connection has.
    pub(super) async fn ended(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl<F> Executor<F> for Inline
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut future: Pin<Box<F>> = Box::pin(future);
        // No waker is lost: what is not ready is polled again, by its own task, before it can matter.
        let mut cx = Context::from_waker(Waker::noop());
        if future.as_mut().poll(&mut cx).is_pending() {
            self.tasks.spawn(future);
        }
    }
}
