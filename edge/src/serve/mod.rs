//! A request from its head to its reply, in one line: admit, site, key, then the cache or past it; errors end in
//! `rescue`, and every request, however it ended, in `log`.
//!
//! The two entrances of [`Service`] share the steps before the cache ([`Serve::open`]), so they cannot disagree about
//! what a request is: [`Serve::try_hit`] answers fresh hits where it is called, [`Serve::serve`] takes the rest.

mod admit;
mod authority;
mod cdn_loop;
mod forward;
mod interim;
mod key;
mod log;
mod metrics;
mod pass;
mod record;
mod rescue;
#[cfg(test)]
mod sample;
mod shape;
mod site;
#[cfg(test)]
mod tests;
mod upstream;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::HeaderMap;
use stoq::shape::Shaper;
use stoq_cache::engine::{Cache, CacheRequest, CacheSite};
use stoq_cache::http::cache_status::CacheStatus;
use stoq_cache::http::facts::RequestFacts;
use stoq_cache::key::CacheKey;
use stoq_cache::reply::Reply;
use stoq_cache::time::Timestamp;
use stoq_cache::upstream::{FetchRequest, Upstream};

pub(crate) use admit::Bounds;
pub(crate) use cdn_loop::CdnId;
pub(crate) use forward::Forwarder;
pub(crate) use log::{AccessLog, AccessWriter};
pub(crate) use metrics::ServeMetrics;
pub(crate) use site::SiteTable;
pub(crate) use upstream::choose;

use admit::Admitted;
use forward::Received;
use record::Ended;
use rescue::{Refusal, Trouble, rescue};

use crate::service::{
    Answer, Interim, ListenerKind, RequestBody, RequestHead, RequestView, Sent, Service,
};
use crate::xdp::Teller;

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Our name in `Cache-Status`.
    pub(crate) node: String,
    /// The cache.
    pub(crate) cache: Cache,
    /// Host to position in `sites`.
    pub(crate) hosts: SiteTable,
    /// The sites, as the cache knows them.
    pub(crate) sites: Vec<Arc<CacheSite>>,
    /// What requests are measured against.
    pub(crate) bounds: Bounds,
    /// What upstreams are told.
    pub(crate) forwarder: Forwarder,
    /// The counters.
    pub(crate) metrics: ServeMetrics,
    /// What bodies to clients wait for; `None` where nothing limits what the node sends.
    pub(crate) shaper: Option<Shaper>,
    /// For the log's times.
    pub(crate) clock: fn() -> Timestamp,
}

/// The serve path of one worker.
#[derive(Debug)]
pub(crate) struct Serve {
    shared: Arc<Shared>,
    /// One for each of `shared.sites`, with this worker's own connections.
    upstreams: Vec<Arc<dyn Upstream>>,
    /// `None` when the operator wants no access log.
    log: Option<AccessWriter>,
    /// Where a packet limiter is told who asks for what; `None` without one.
    teller: Option<Teller>,
}

/// What is remembered of a request until its answer has been sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note {
    outcome: CacheStatus,
    /// Position in `Shared::sites`; `None` when it was refused before it had one.
    site: Option<usize>,
}

/// A request that passed the steps before the cache.
#[derive(Debug)]
struct Opened<'a> {
    admitted: Admitted<'a>,
    place: usize,
    site: &'a Arc<CacheSite>,
    key: CacheKey,
}

impl Serve {
    /// The serve path over these upstreams, one for each site.
    pub(crate) fn new(
        shared: Arc<Shared>,
        upstreams: Vec<Arc<dyn Upstream>>,
        log: Option<AccessWriter>,
    ) -> Self {
        Self {
            shared,
            upstreams,
            log,
            teller: None,
        }
    }

    /// The same, telling a packet limiter how requests end.
    pub(crate) fn telling(self, teller: Option<Teller>) -> Self {
        Self { teller, ..self }
    }

    /// Admit, site, key.
    fn open<'a>(&'a self, request: &RequestView<'a>) -> Result<Opened<'a>, Refusal> {
        let admitted = admit::admit(request, &self.shared.bounds)?;
        let place = self
            .shared
            .hosts
            .find(admitted.authority.host())
            .ok_or(Refusal::UnknownSite)?;
        //= https://www.rfc-editor.org/rfc/rfc9110#section-7.4
        //# Unless the connection is from a trusted gateway, an origin server MUST
        //# reject a request if any scheme-specific requirements for the target
        //# URI are not met.
        // The certificate that the client checked is that of the name it asked for: what it asks under another site's name
        // came by a mistake of its own or of somebody in between.
        if let Some(name) = request.connection.server_name.as_deref()
            && name != admitted.authority.host()
            && self
                .shared
                .hosts
                .find(name)
                .is_some_and(|other| other != place)
        {
            return Err(Refusal::UnknownSite);
        }
        let site = self.shared.sites.get(place).ok_or(Refusal::UnknownSite)?;
        let key = key::key(site, request.scheme, &admitted);
        Ok(Opened {
            admitted,
            place,
            site,
            key,
        })
    }

    /// The cache, or past it.
    async fn answer(
        &self,
        head: &RequestHead,
        body: RequestBody,
        interim: Interim,
        place: &mut Option<usize>,
    ) -> Result<Reply, Trouble> {
        let view = head.view();
        let opened = self.open(&view)?;
        *place = Some(opened.place);
        let upstream = self
            .upstreams
            .get(opened.place)
            .ok_or(Refusal::UnknownSite)?;
        let upstream = interim::announcing(upstream, interim);
        let headers = self.outgoing(&view, &opened);
        if opened.admitted.cacheable {
            let request = CacheRequest {
                site: Arc::clone(opened.site),
                key: opened.key,
                method: head.method.clone(),
                scheme: head.scheme.clone(),
                authority: opened.admitted.authority.as_str().to_owned(),
                path_and_query: key::target(opened.site, &head.path_and_query)?,
                headers,
            };
            return Ok(self.shared.cache.serve(request, upstream).await?);
        }
        self.pass(head, body, &opened, headers, upstream).await
    }

    /// Straight through, both ways streaming.
    async fn pass(
        &self,
        head: &RequestHead,
        body: RequestBody,
        opened: &Opened<'_>,
        headers: HeaderMap,
        upstream: Arc<dyn Upstream>,
    ) -> Result<Reply, Trouble> {
        let limit = self.shared.bounds.body_bytes;
        let (body, overrun) = body
            .into_stream()
            .map(|stream| pass::bounded(stream, limit))
            .unzip();
        let request = FetchRequest {
            method: head.method.clone(),
            scheme: head.scheme.clone(),
            authority: opened.admitted.authority.as_str().to_owned(),
            path_and_query: head.path_and_query.clone(),
            headers,
            body,
            site: Arc::clone(&opened.site.name),
            key: opened.key,
            held: None,
        };
        self.shared
            .cache
            .pass(opened.site, request, upstream, CacheStatus::Method)
            .await
            .map_err(|failure| {
                if overrun.is_some_and(|overrun| overrun.happened()) {
                    Refusal::BodyTooLarge { limit }.into()
                } else {
                    failure.into()
                }
            })
    }

    fn outgoing(&self, view: &RequestView<'_>, opened: &Opened<'_>) -> HeaderMap {
        let received = Received {
            from: view.peer,
            version: view.version,
            scheme: view.scheme,
            authority: &opened.admitted.authority,
            cacheable: opened.admitted.cacheable,
        };
        self.shared.forwarder.headers(view.headers, received)
    }
}

impl Service for Serve {
    type Note = Note;

    fn try_hit(&self, request: &RequestView<'_>, now: Timestamp) -> Option<Answer<Note>> {
        let opened = self.open(request).ok()?;
        if !opened.admitted.cacheable {
            return None;
        }
        // Stored responses are selected by the fields as upstreams see them, here as in `serve`. Where the client sent none that
        // leaves changed, its own are as good and cost no copy: what we add is in every stored selection, so it matches none.
        let changed = forward::rewrites(request.headers).then(|| self.outgoing(request, &opened));
        let facts = RequestFacts {
            method: request.method,
            headers: changed.as_ref().unwrap_or(request.headers),
        };
        let reply = self
            .shared
            .cache
            .try_hit(&opened.key, &facts, &opened.site.policy, now)?;
        let note = Note {
            outcome: reply.outcome,
            site: Some(opened.place),
        };
        let reply = shape::shaped(reply, self.shared.shaper.as_ref());
        Some(Answer { reply, note })
    }

    fn serve(
        self: Arc<Self>,
        head: Arc<RequestHead>,
        body: RequestBody,
        interim: Interim,
    ) -> BoxFuture<'static, Answer<Note>> {
        Box::pin(async move {
            let mut site = None;
            let reply = match self.answer(&head, body, interim, &mut site).await {
                Ok(reply) => reply,
                Err(trouble) => {
                    tracing::debug!(%trouble, method = %head.method, "no answer");
                    rescue(&trouble, &head.method, &self.shared.node)
                }
            };
            let note = Note {
                outcome: reply.outcome,
                site,
            };
            let reply = shape::shaped(reply, self.shared.shaper.as_ref());
            Answer { reply, note }
        })
    }

    fn done(&self, request: &RequestView<'_>, note: Option<Note>, sent: &Sent) {
        let outcome = note.map(|note| note.outcome);
        self.shared.metrics.ended(request.version, outcome, sent);
        // Behind a local terminator all have one address.
        if let (Some(teller), Some(status)) = (&self.teller, sent.status)
            && request.connection.listener != ListenerKind::Plain
        {
            let is_miss = outcome == Some(CacheStatus::Miss);
            teller.answered(request.peer.ip(), status.is_client_error(), is_miss);
        }
        if let Some(log) = &self.log {
            let site = note
                .and_then(|note| note.site)
                .and_then(|place| self.shared.sites.get(place));
            let now = (self.shared.clock)();
            log.record(Ended {
                request,
                site: site.map(|site| &*site.name),
                outcome,
                sent,
                now,
            });
        }
    }
}
