//! Keeps what other edges ask this one to: each object is fetched as for a miss, with who asked as its first holder.
//!
//! It is one worker's work, over that worker's connections, at most [`PULLS_MAX`] objects at once; what waits is bounded, and what is beyond is refused.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use stoq::identity::NodeId;
use stoq_cache::content::ManifestId;
use stoq_cache::engine::{CacheRequest, Lookup};
use stoq_cache::reply::ReplyBody;
use stoq_cache::upstream::Upstream;
use stoq_mesh::Candidate;
use stoq_mesh::keep::{Answer, Keeper, Object, Request, Told};
use stoq_node::Drain;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::KeepMetrics;
use crate::serve::Shared;

/// Objects that are fetched at once: 4, so that clients' own misses go first.
const PULLS_MAX: usize = 4;

/// Objects that wait to be fetched: 256.
const JOBS_MAX: usize = 256;

/// The longest that an asker is answered after: 60 s.
const WITHIN_MAX: Duration = Duration::from_secs(60);

/// Where a node takes connections from others.
pub(crate) type Addresses = Box<dyn Fn(NodeId) -> Vec<SocketAddr> + Send + Sync>;

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// It was here, and fresh.
    Held,
    /// What is stored now came since it was asked for.
    Fetched,
    Failed,
}

struct Job {
    /// Position of the site.
    site: usize,
    request: CacheRequest,
    holder: Candidate,
    until: Instant,
    done: oneshot::Sender<Kept>,
}

/// See the [module](self).
pub(crate) struct Puller {
    shared: Arc<Shared>,
    told: Told,
    addresses: Addresses,
    drain: Drain,
    jobs: mpsc::Sender<Job>,
    queue: Mutex<Option<mpsc::Receiver<Job>>>,
    metrics: Arc<KeepMetrics>,
}

impl fmt::Debug for Puller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Puller").finish_non_exhaustive()
    }
}

impl Puller {
    /// Into this edge's cache. `told` is asked first by its fills.
    pub(crate) fn new(
        shared: Arc<Shared>,
        told: Told,
        addresses: Addresses,
        drain: Drain,
        metrics: Arc<KeepMetrics>,
    ) -> Self {
        let (jobs, queue) = mpsc::channel(JOBS_MAX);
        Self {
            shared,
            told,
            addresses,
            drain,
            jobs,
            queue: Mutex::new(Some(queue)),
            metrics,
        }
    }

    /// Fetches what is asked for, from these upstreams, one for each site. Never ends. Once, on their runtime.
    pub(crate) async fn run(&self, upstreams: &[Arc<dyn Upstream>]) {
        let queue = self.queue.lock().take();
        if let Some(mut queue) = queue {
            let jobs = stream::poll_fn(move |cx| queue.poll_recv(cx));
            jobs.for_each_concurrent(PULLS_MAX, |job| async move {
                let Job {
                    site,
                    request,
                    holder,
                    until,
                    done,
                } = job;
                let kept = match upstreams.get(site) {
                    // Who waits no more may have gone, and what it held with it.
                    Some(upstream) if !done.is_closed() => {
                        self.pull(request, holder, until, upstream).await
                    }
                    Some(_) | None => Kept::Failed,
                };
                match kept {
                    Kept::Held => self.metrics.held.inc(),
                    Kept::Fetched => self.metrics.fetched.inc(),
                    Kept::Failed => self.metrics.failed.inc(),
                };
                let _ = done.send(kept);
            })
            .await;
        }
        std::future::pending().await
    }

    async fn pull(
        &self,
        request: CacheRequest,
        holder: Candidate,
        until: Instant,
        upstream: &Arc<dyn Upstream>,
    ) -> Kept {
        if Instant::now() >= until {
            return Kept::Failed;
        }
        let is_fresh = |found: &Lookup| matches!(found, Lookup::Fresh(_));
        if is_fresh(&self.look(&request)) {
            return Kept::Held;
        }
        // Where too many are known so it is fetched like any.
        let _word = self.told.hear(request.key, holder);
        let (cache, began) = (&self.shared.cache, (self.shared.clock)());
        let fetched = timeout_at(until, async {
            let reply = cache.serve(request.clone(), Arc::clone(upstream)).await;
            let reply = reply.map_err(|error| error.to_string())?;
            if let ReplyBody::Stream(mut body) = reply.body {
                while let Some(piece) = body.next().await {
                    piece.map_err(|error| error.to_string())?;
                }
            }
            Ok::<_, String>(())
        });
        match fetched.await {
            Ok(Ok(())) => match self.look(&request) {
                Lookup::Miss | Lookup::VaryMiss | Lookup::HitForMiss => Kept::Failed,
                Lookup::Fresh(_) => Kept::Fetched,
                // What was here before, for want of anything better, was not fetched.
                Lookup::Stale(hit) | Lookup::Unwanted(hit) | Lookup::Expired(hit) => {
                    match hit.object.freshness.response_time >= began {
                        true => Kept::Fetched,
                        false => Kept::Failed,
                    }
                }
            },
            Ok(Err(error)) => {
                tracing::debug!(%error, "an object is not kept");
                Kept::Failed
            }
            Err(_) => Kept::Failed,
        }
    }

    fn look(&self, request: &CacheRequest) -> Lookup {
        let now = (self.shared.clock)();
        let policy = &request.site.policy;
        let cache = &self.shared.cache;
        cache.lookup(&request.key, &request.facts(), policy, now)
    }

    /// Has an object fetched; what tells of its end, `None` where it is not to be.
    fn accept(
        &self,
        object: &Object,
        from: NodeId,
        addresses: &[SocketAddr],
        until: Instant,
    ) -> Option<oneshot::Receiver<Kept>> {
        let (site, request) = self.shared.wanted(object)?;
        let (done, kept) = oneshot::channel();
        let job = Job {
            site,
            request,
            holder: Candidate {
                node: Some(from),
                addresses: addresses.to_vec(),
                manifest: ManifestId::from_bytes(object.root),
                whole: true,
                rtt: None,
            },
            until,
            done,
        };
        self.jobs.try_send(job).ok()?;
        Some(kept)
    }
}

impl Keeper for Puller {
    fn keep(&self, from: NodeId, request: Request) -> BoxFuture<'_, Answer> {
        Box::pin(async move {
            let asked = request.objects.len();
            self.metrics.asked.inc_by(asked as u64);
            let within = Duration::from_millis(request.within_ms.into()).min(WITHIN_MAX);
            let until = Instant::now() + within;
            let addresses = (self.addresses)(from);
            let objects = match self.drain.is_draining() {
                // It would have to hand them on.
                true => &[],
                false => &request.objects[..],
            };
            let accepted: Vec<_> = objects
                .iter()
                .filter_map(|object| self.accept(object, from, &addresses, until))
                .collect();
            let refused = asked - accepted.len();
            // Those accepted are counted when they end, whether or not anybody waits for it here.
            self.metrics.refused.inc_by(refused as u64);
            let ends = accepted.into_iter().map(|kept| timeout_at(until, kept));
            let ends = join_all(ends).await;
            let mut answer = Answer {
                refused: u16::try_from(refused).unwrap_or(u16::MAX),
                ..Answer::default()
            };
            for end in ends {
                match end {
                    Ok(Ok(Kept::Held)) => answer.held += 1,
                    Ok(Ok(Kept::Fetched)) => answer.fetched += 1,
                    Ok(Ok(Kept::Failed) | Err(_)) | Err(_) => answer.failed += 1,
                }
            }
            answer
        })
    }
}
