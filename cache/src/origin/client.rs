//! The origin client of one site on one worker: which origin, on which connection, and once more if the connection
//! had died in the pool. What it answers with is the origin's response without the fields of the connection.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::connect::DialError;
use super::download::{Download, Held};
use super::endpoint::{Endpoint, OriginConfigError, OriginSettings, OriginSpec};
use super::exchange::{Lost, exchange};
use super::interim;
use super::lane::{Lane, Lease};
use super::metrics::OriginMetrics;
use super::upload::{Turn, Upload};
use crate::http::hop;
use crate::upstream::{
    BodyStream, FetchBody, FetchRequest, FetchResponse, OnInterim, Source, Upstream, UpstreamError,
};

/// The origins of one site, resolved; shared by all workers, as their bounds and their health are.
#[derive(Debug)]
pub struct OriginSite {
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    pub(super) settings: Arc<OriginSettings>,
    metrics: OriginMetrics,
}

impl OriginSite {
    /// Resolves `origins`, in the order they are to be tried. Reads certificate authorities from disk.
    ///
    /// # Errors
    /// The first origin that cannot be used, and why.
    pub fn new(
        origins: &[OriginSpec],
        settings: OriginSettings,
    ) -> Result<Arc<Self>, OriginConfigError> {
        if origins.is_empty() {
            return Err(OriginConfigError::Empty);
        }
        let endpoints = origins
            .iter()
            .map(|spec| Endpoint::resolve(spec, &settings).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            endpoints,
            settings: Arc::new(settings),
            metrics: OriginMetrics::default(),
        }))
    }

    /// The site's counters, of all workers together.
    #[must_use]
    pub fn metrics(&self) -> &OriginMetrics {
        &self.metrics
    }
}

/// One worker's client for one site's origins. Its connections are driven on the runtime that calls
/// [`fetch`](Upstream::fetch), so each worker has a client of its own; dropping it closes what is unused.
#[derive(Debug)]
pub struct OriginClient {
    site: Arc<OriginSite>,
    lanes: Vec<Arc<Lane>>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lane").field(&self.endpoint).finish()
    }
}

/// A request in the parts that can be put together again for another origin or another connection.
struct Outgoing {
    method: Method,
    authority: String,
    path_and_query: PathAndQuery,
    headers: HeaderMap,
    body: Option<BodyStream>,
    /// Who listens to interim responses.
    interim: Option<OnInterim>,
    /// A second sending could do no harm: a safe method without a body.
    ///
    //= https://www.rfc-editor.org/rfc/rfc9110#section-9.2.2
    //# A proxy MUST NOT automatically retry non-idempotent requests.
    repeatable: bool,
}

/// Why an attempt at one origin gave no answer.
enum Missed {
    /// No connection: the next origin may be asked.
    Connect(UpstreamError),
    /// The request may have been seen: no other origin may be asked.
    Answer(UpstreamError),
}

impl OriginClient {
    /// A client for `site`, without connections yet.
    #[must_use]
    pub fn new(site: Arc<OriginSite>) -> Self {
        let tasks = TaskTracker::new();
        let lanes = site
            .endpoints
            .iter()
            .map(|endpoint| {
                Lane::new(
                    Arc::clone(endpoint),
                    Arc::clone(&site.settings),
                    tasks.clone(),
                )
            })
            .collect();
        Self { site, lanes, tasks }
    }

    /// Closes unused connections and waits until exchanges under way have ended and every task is gone. The caller
    /// bounds the wait. Requests that still come are served and keep no connection.
    pub async fn close(&self) {
        for lane in &self.lanes {
            lane.close();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn send(
        &self,
        request: FetchRequest,
        interim: Option<OnInterim>,
    ) -> Result<FetchResponse, UpstreamError> {
        let metrics = &self.site.metrics;
        metrics.requests.inc();
        let mut outgoing = Outgoing::new(request, interim);
        let now = Instant::now();
        // In the operator's order, but those that failed a moment ago last: a dead first origin costs its connect
        // timeout once per `hold_down`, not once per request.
        let mut order: Vec<&Arc<Lane>> = self.lanes.iter().collect();
        order.sort_by_key(|lane| lane.endpoint.held_down(now));
        let mut missed = UpstreamError::Unreachable("the site has no origin".to_owned());
        for lane in order {
            let Ok(place) = lane.endpoint.admit(&self.site.settings).await else {
                metrics.refused_at_bound.inc();
                return Err(UpstreamError::TooMany {
                    limit: self.site.settings.requests_max,
                });
            };
            match self.attempt(lane, &mut outgoing, place).await {
                Ok(response) => return Ok(response),
                Err(Missed::Answer(error)) => return Err(error),
                Err(Missed::Connect(error)) => {
                    metrics.connect_failures.inc();
                    lane.endpoint
                        .connect_failed(Instant::now() + self.site.settings.hold_down);
                    tracing::warn!(origin = %lane.endpoint.name, %error, "origin cannot be connected to");
                    missed = error;
                }
            }
        }
        Err(missed)
    }

    /// One origin: a connection from the pool, and once more on a new one if that had died.
    async fn attempt(
        &self,
        lane: &Arc<Lane>,
        outgoing: &mut Outgoing,
        place: OwnedSemaphorePermit,
    ) -> Result<FetchResponse, Missed> {
        let metrics = &self.site.metrics;
        if let Some(lease) = lane.reuse().await {
            metrics.reused.inc();
            match self.on(lane, lease, outgoing).await? {
                Ok((head, lease, turn)) => {
                    return self.respond(lane, outgoing, head, Held { lease, turn, place });
                }
                Err(Lost::Unsent(body)) => outgoing.body = body,
                Err(Lost::Died(_)) if outgoing.repeatable => {
                    metrics.resent.inc();
                }
                Err(lost) => return Err(Missed::Answer(self.failed(lane, lost))),
            }
        }
        let lease = lane
            .open()
            .await
            .map_err(|error| Missed::Connect(unreachable(lane, error)))?;
        lane.endpoint.connect_succeeded();
        if !lease.reused {
            metrics.connections.inc();
        }
        match self.on(lane, lease, outgoing).await? {
            Ok((head, lease, turn)) => {
                self.respond(lane, outgoing, head, Held { lease, turn, place })
            }
            Err(lost) => Err(Missed::Answer(self.failed(lane, lost))),
        }
    }

    /// The request on one connection. The outer error is a request that cannot be written at all.
    async fn on(
        &self,
        lane: &Arc<Lane>,
        mut lease: Lease,
        outgoing: &mut Outgoing,
    ) -> Result<Result<(Response<Incoming>, Lease, Arc<Turn>), Lost>, Missed> {
        let (upload, turn) = Upload::new(outgoing.body.take());
        let request = outgoing
            .request(&lane.endpoint, lease.is_http2(), upload)
            .map_err(Missed::Answer)?;
        let sent = exchange(&mut lease, request, &turn, self.site.settings.head_timeout).await;
        Ok(match sent {
            Ok(head) => Ok((head, lease, turn)),
            Err(lost) => {
                lane.forget(&lease);
                Err(lost)
            }
        })
    }

    fn failed(&self, lane: &Lane, lost: Lost) -> UpstreamError {
        let name = &lane.endpoint.name;
        match lost {
            Lost::Timeout => {
                self.site.metrics.head_timeouts.inc();
                let limit = self.site.settings.head_timeout;
                UpstreamError::Timeout(format!("{name}: no response head within {limit:?}"))
            }
            lost => {
                self.site.metrics.failed.inc();
                match lost {
                    Lost::Unsent(_) => UpstreamError::Unreachable(format!(
                        "{name}: the connection closed before the request"
                    )),
                    Lost::Died(text) => UpstreamError::Unreachable(format!("{name}: {text}")),
                    Lost::RequestBody(error) => UpstreamError::RequestBody(error),
                    Lost::Protocol(text) => UpstreamError::Protocol(format!("{name}: {text}")),
                    Lost::Timeout => UpstreamError::Timeout(name.to_string()),
                }
            }
        }
    }

    /// The origin's head as ours, and its body or none.
    fn respond(
        &self,
        lane: &Lane,
        outgoing: &Outgoing,
        head: Response<Incoming>,
        held: Held,
    ) -> Result<FetchResponse, Missed> {
        let (head, incoming) = head.into_parts();
        let name = &lane.endpoint.name;
        // hyper gives no interim response to us except this one, which answers an Upgrade that was not asked for.
        if head.status.is_informational() {
            self.site.metrics.failed.inc();
            let text = format!(
                "{name}: status {} where a final one belongs",
                head.status.as_u16()
            );
            return Err(Missed::Answer(UpstreamError::Protocol(text)));
        }
        let mut headers = head.headers;
        let coded = headers.contains_key(TRANSFER_ENCODING);
        hop::strip(&mut headers);
        let upstream_cache_status = cache_status(&headers);
        let bodyless = outgoing.method == Method::HEAD
            || matches!(
                head.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        let declared = incoming.size_hint().exact();
        if coded && !bodyless {
            //= https://www.rfc-editor.org/rfc/rfc9112#section-6.3
            //# An intermediary that chooses to forward the message MUST first
            //# remove the received Content-Length field
            headers.remove(CONTENT_LENGTH);
        } else if !bodyless && headers.contains_key(CONTENT_LENGTH) {
            // hyper has checked that repeated values agree; one of them is enough.
            match declared {
                Some(length) => headers.insert(CONTENT_LENGTH, HeaderValue::from(length)),
                None => headers.remove(CONTENT_LENGTH),
            };
        }
        let body = if bodyless || incoming.is_end_stream() {
            held.release();
            FetchBody::Empty
        } else {
            let settings = &self.site.settings;
            let metrics = self.site.metrics.clone();
            let body = Download::new(
                incoming,
                held,
                settings.between_bytes_timeout,
                Arc::clone(name),
                metrics,
            );
            FetchBody::Stream(Box::pin(body))
        };
        Ok(FetchResponse {
            status: head.status,
            headers,
            body,
            via: Source::Origin,
            upstream_cache_status,
        })
    }
}

impl Upstream for OriginClient {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        Box::pin(self.send(request, None))
    }

    fn fetch_with_interim(
        &self,
        request: FetchRequest,
        interim: OnInterim,
    ) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        Box::pin(self.send(request, Some(interim)))
    }
}

impl Outgoing {
    fn new(request: FetchRequest, interim: Option<OnInterim>) -> Self {
        let mut headers = request.headers;
        // The servers have done this already; doing it again costs little and keeps a smuggled `Transfer-Encoding`
        // from ever reaching an origin.
        hop::strip(&mut headers);
        headers.remove(HOST);
        if request.body.is_none()
            && headers
                .get(CONTENT_LENGTH)
                .is_some_and(|length| length != "0")
        {
            headers.remove(CONTENT_LENGTH);
        }
        let repeatable = request.body.is_none() && request.method.is_safe();
        Self {
            method: request.method,
            authority: request.authority,
            path_and_query: request.path_and_query,
            headers,
            body: request.body,
            interim,
            repeatable,
        }
    }

    fn request(
        &self,
        endpoint: &Endpoint,
        http2: bool,
        body: Upload,
    ) -> Result<Request<Upload>, UpstreamError> {
        let invalid = |what: &str| {
            UpstreamError::Protocol(format!(
                "{}: the request cannot be written: {what}",
                endpoint.name
            ))
        };
        let (authority, host) = endpoint
            .host_for(&self.authority)
            .ok_or_else(|| invalid("its authority is not one"))?;
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        *request.uri_mut() = if http2 {
            absolute(endpoint, authority, self.path_and_query.clone())
                .map_err(|error| invalid(&error.to_string()))?
        } else {
            request.headers_mut().insert(HOST, host);
            if let Some(interim) = &self.interim {
                interim::listen(&mut request, interim);
            }
            Uri::from(self.path_and_query.clone())
        };
        Ok(request)
    }
}

fn absolute(
    endpoint: &Endpoint,
    authority: Authority,
    path: PathAndQuery,
) -> Result<Uri, http::Error> {
    Uri::builder()
        .scheme(endpoint.scheme.clone())
        .authority(authority)
        .path_and_query(path)
        .build()
}

fn unreachable(lane: &Lane, error: DialError) -> UpstreamError {
    let name = &lane.endpoint.name;
    match error {
        DialError::Unreachable(text) | DialError::Tls(text) => {
            UpstreamError::Unreachable(format!("{name}: {text}"))
        }
        DialError::Timeout(limit) => {
            UpstreamError::Timeout(format!("{name}: no connection within {limit:?}"))
        }
    }
}

/// The `Cache-Status` members of caches nearer the origin, as one value.
fn cache_status(headers: &HeaderMap) -> Option<String> {
    let values: Vec<&str> = headers
        .get_all("cache-status")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}
