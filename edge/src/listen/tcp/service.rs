//! One request over hyper: a hit is answered within the call, on the connection's task.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use futures_util::future::{BoxFuture, Either};
use http::{Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use stoq_cache::time::Timestamp;

use super::body::{Receiving, Sending};
use super::connection::{At, Underway, Watch};
use super::interim::Between;
use crate::listen::Context;
use crate::listen::exchange::Exchange;
use crate::listen::head::{content_length, request_head};
use crate::listen::response::outgoing;
use crate::service::{Answer, Interim, RequestBody, Service};

type Out<S> = Response<Sending<S>>;

/// The service of one connection, as hyper calls it.
pub(super) struct PerConnection<S> {
    pub(super) context: Arc<Context<S>>,
    pub(super) at: Arc<At>,
    pub(super) watch: Arc<Watch>,
    /// Where interim responses go; `None` for HTTP/2, to which hyper leaves no way.
    pub(super) between: Option<Between>,
}

/// A response, now or later.
pub(super) struct Answering<S: Service>(Either<Ready<Out<S>>, BoxFuture<'static, Out<S>>>);

impl<S: Service> Future for Answering<S> {
    type Output = Result<Out<S>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Ok)
    }
}

impl<S: Service> hyper::service::Service<Request<Incoming>> for PerConnection<S> {
    type Response = Out<S>;
    type Error = Infallible;
    type Future = Answering<S>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let declared = content_length(&parts.headers).unwrap_or(None);
        let at = &self.at;
        let head = request_head(parts, &at.scheme, at.peer, &at.info, Instant::now());
        let mut account = Exchange::new(self.context.clone(), head);
        let underway = self.watch.request();
        if let Some(answer) = self
            .context
            .service
            .try_hit(&account.head().view(), Timestamp::now())
        {
            account.answered_inline();
            if !body.is_end_stream() {
                at.signals.unread();
            }
            return Answering(Either::Left(ready(respond(account, answer, at, underway))));
        }
        let head = account.share_head();
        let body = if body.is_end_stream() {
            RequestBody::empty()
        } else {
            let stall = self.context.limits.stall_timeout;
            let counted = account.request_bytes();
            RequestBody::new(
                declared,
                Box::pin(Receiving::new(body, stall, at.signals.clone(), counted)),
            )
        };
        let service = self.context.service.clone();
        let at = at.clone();
        //= https://www.rfc-editor.org/rfc/rfc9110#section-15.2
        //# Since HTTP/1.0 did not define any 1xx status codes, a server MUST NOT
        //# send a 1xx response to an HTTP/1.0 client.
        let between = self
            .between
            .clone()
            .filter(|_| head.version == Version::HTTP_11);
        let Some(between) = between else {
            let answer = service.serve(head, body, Interim::unsupported());
            return Answering(Either::Right(Box::pin(async move {
                respond(account, answer.await, &at, underway)
            })));
        };
        let (interim, heads) = Interim::channel();
        let answering = service.serve(head, body, interim);
        Answering(Either::Right(Box::pin(async move {
            let answer = between.announcing(heads, answering).await;
            respond(account, answer, &at, underway)
        })))
    }
}

fn respond<S: Service>(
    mut account: Exchange<S>,
    answer: Answer<S::Note>,
    at: &At,
    underway: Underway,
) -> Out<S> {
    account.answered(answer.note);
    let alt_svc = at.alt_svc.as_ref().and_then(|alt_svc| alt_svc.value());
    let out = outgoing(
        answer.reply,
        &account.head().method,
        Timestamp::now(),
        alt_svc,
    );
    account.head_sent(out.status);
    let breaks = (account.head().version != Version::HTTP_2).then(|| at.signals.clone());
    let mut response = Response::new(Sending::new(account, out.body, breaks, underway));
    *response.status_mut() = out.status;
    *response.headers_mut() = out.headers;
    response
}
