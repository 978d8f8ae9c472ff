//! A request that may be answered from the store, or whose answer may be stored.

use std::sync::Arc;

use super::{
    Cache, CacheRequest, Failure,
    answer::{Answer, Ask},
    deliver::Shape,
    digests,
    lead::Filling,
};
use crate::{http::cache_status::CacheStatus, reply::Reply, upstream::Upstream};

impl Cache {
    /// Answers a GET or HEAD: from the store, by joining a fetch under way, or by a fetch of its own.
    ///
    /// Returns when the head is known. Cancel safe: a fetch that others wait for goes on without this caller, as a task
    /// of the runtime this is called on, which must have its timers enabled.
    ///
    /// # Errors
    /// When there is no answer and nothing stored may stand in.
    pub async fn serve(
        &self,
        request: CacheRequest,
        upstream: Arc<dyn Upstream>,
    ) -> Result<Reply, Failure> {
        let answer = self.answer(&request, &upstream, false).await?;
        Ok(self.counted(self.render(answer, &request)))
    }

    /// Finds the answer to a request, and counts it where there is none. `events`: its body is to leave as chunk events.
    pub(super) async fn answer(
        &self,
        request: &CacheRequest,
        upstream: &Arc<dyn Upstream>,
        events: bool,
    ) -> Result<Answer, Failure> {
        let answer = Box::pin(Ask::new(self, request, upstream, events).answer()).await;
        if let Err(failure) = &answer {
            let outcome = match failure {
                Failure::OnlyIfCached => CacheStatus::Refused,
                _ => CacheStatus::Failed,
            };
            self.inner.metrics.requests(outcome).inc();
        }
        answer
    }

    /// The reply to a client.
    pub(super) fn render(&self, answer: Answer, request: &CacheRequest) -> Reply {
        match answer {
            Answer::Ready(reply) => reply,
            Answer::Stored {
                hit,
                shape,
                reader,
                outcome,
                details,
            } => {
                let wanted = digests::wanted(&request.facts(), &hit.object);
                let mut reply = self.stored_head(&hit, &shape, outcome, &details, wanted);
                reply.body = shape.body(reader);
                reply
            }
            Answer::Filling {
                filling,
                reader,
                outcome,
            } => {
                let shape = filling_shape(&filling, request);
                self.filling_reply(&filling, &shape, reader, outcome, self.now())
            }
        }
    }
}

/// What of a body that arrives a request gets.
pub(super) fn filling_shape(filling: &Filling, request: &CacheRequest) -> Shape {
    Shape::of_filling(
        &request.facts(),
        &filling.head,
        filling.freshness.response_time,
        filling.declared,
    )
}
