//! One request's account: what was sent of its answer, told to the service exactly once, whatever happens.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use http::uri::PathAndQuery;

use super::Context;
use crate::service::{End, RequestHead, Sent, Service};

/// A head the service has seen, and what became of it. Dropped unfinished it counts as the client's leaving: futures
/// are dropped when a connection or a stream is gone.
pub(crate) struct Exchange<S: Service> {
    context: Arc<Context<S>>,
    head: HeadRef,
    note: Option<S::Note>,
    status: Option<StatusCode>,
    body_bytes: u64,
    request_bytes: Option<Arc<AtomicU64>>,
    head_after: Option<Duration>,
    inline: bool,
    end: Option<End>,
}

/// A hit keeps its head by value; whatever goes to the service shares it.
#[expect(
    clippy::large_enum_variant,
    reason = "a box for the head of each hit is what the owned variant is there to spare"
)]
enum HeadRef {
    Owned(RequestHead),
    Shared(Arc<RequestHead>),
}

impl<S: Service> Exchange<S> {
    pub(crate) fn new(context: Arc<Context<S>>, head: RequestHead) -> Self {
        context.metrics.request(&head);
        Self {
            context,
            head: HeadRef::Owned(head),
            note: None,
            status: None,
            body_bytes: 0,
            request_bytes: None,
            head_after: None,
            inline: false,
            end: None,
        }
    }

    pub(crate) fn head(&self) -> &RequestHead {
        match &self.head {
            HeadRef::Owned(head) => head,
            HeadRef::Shared(head) => head,
        }
    }

    /// The head, shared from now on.
    pub(crate) fn share_head(&mut self) -> Arc<RequestHead> {
        let shared = match &mut self.head {
            HeadRef::Shared(head) => head.clone(),
            HeadRef::Owned(head) => Arc::new(RequestHead {
                method: mem::take(&mut head.method),
                scheme: head.scheme.clone(),
                authority: head.authority.take(),
                path_and_query: mem::replace(
                    &mut head.path_and_query,
                    PathAndQuery::from_static("/"),
                ),
                headers: mem::take(&mut head.headers),
                version: head.version,
                peer: head.peer,
                connection: head.connection.clone(),
                received: head.received,
            }),
        };
        self.head = HeadRef::Shared(shared.clone());
        shared
    }

    pub(crate) fn answered(&mut self, note: S::Note) {
        self.note = Some(note);
    }

    /// It was answered on its connection's task.
    pub(crate) fn answered_inline(&mut self) {
        self.inline = true;
    }

    pub(crate) fn head_sent(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.head_after = Some(self.head().received.elapsed());
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.body_bytes += bytes as u64;
    }

    /// Where the reader of the request's body counts its bytes.
    pub(crate) fn request_bytes(&mut self) -> Arc<AtomicU64> {
        self.request_bytes.get_or_insert_default().clone()
    }

    /// Closes the account; the first end counts.
    pub(crate) fn end(&mut self, end: End) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        let received: Instant = self.head().received;
        let sent = Sent {
            status: self.status,
            body_bytes: self.body_bytes,
            request_body_bytes: self
                .request_bytes
                .as_ref()
                .map_or(0, |bytes| bytes.load(Ordering::Relaxed)),
            head_after: self.head_after,
            total: received.elapsed(),
            end,
            inline: self.inline,
        };
        self.context.metrics.ended(&sent);
        let note = self.note.take();
        self.context.service.done(&self.head().view(), note, &sent);
    }
}

impl<S: Service> Drop for Exchange<S> {
    fn drop(&mut self) {
        let end = if std::thread::panicking() {
            End::Failed
        } else {
            End::ClientLeft
        };
        self.end(end);
    }
}

impl<S: Service> std::fmt::Debug for Exchange<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange")
            .field("status", &self.status)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
