//! An edge that fetches from the origin itself: whose word it takes for what another edge has, and whose it does not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{TryStreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use stoq::identity::{AuditEvent, AuditSink, AuditWhat, Identity, Role, Trust};
use stoq::pool::{Pool, PoolConfig};
use stoq::quic::Endpoint;
use stoq_cache::content::ChunkId;
use stoq_cache::upstream::{
    FetchBody, FetchRequest, FetchResponse, Source, Upstream, UpstreamError,
};
use stoq_mesh::{
    BeforeOrigin, Candidate, FillMetrics, Holders, Patience, PeerFills, Voucher, between_nodes,
};

use crate::Says;
use crate::rig::*;

const HOUR: Duration = Duration::from_secs(3600);

/// A clock of so long ago.
#[derive(Debug)]
struct Ago(Duration);

impl TimeProvider for Ago {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_secs(UnixTime::now().as_secs());
        Some(UnixTime::since_unix_epoch(now - self.0))
    }
}

/// Counts who asks it.
#[derive(Debug, Default)]
struct Origin(AtomicUsize);

impl Upstream for Origin {
    fn fetch(&self, _: FetchRequest) -> BoxFuture<'_, Result<FetchResponse, UpstreamError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let body = Bytes::from_static(b"from the origin");
        let response = FetchResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: FetchBody::Stream(Box::pin(stream::iter([Ok(body)]))),
            via: Source::Origin,
            upstream_cache_status: None,
        };
        Box::pin(std::future::ready(Ok(response)))
    }
}

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<AuditEvent>>);

impl AuditSink for Heard {
    fn record(&self, event: &AuditEvent) {
        self.0.lock().push(event.clone());
    }
}

/// What is said of the place's object, by this node.
fn word(place: &Place, by: &Identity) -> Vec<u8> {
    word_of(place, by, HeaderMap::new())
}

/// What is said of it as of a response with these fields.
fn word_of(place: &Place, by: &Identity, response: HeaderMap) -> Vec<u8> {
    let voucher = Voucher {
        key: *request().key.as_bytes(),
        chunk_key_id: *place.object.key.key_id().as_bytes(),
        site: "site".to_owned(),
        status: StatusCode::OK,
        root: place.object.manifest.root(),
        total: place.object.manifest.total_len(),
        sent_ms: 1,
        response,
        request: HeaderMap::new(),
    };
    voucher.seal(by).unwrap().to_vec()
}

/// Asks through peers first, of whom one has this word; the source of what came, what was counted as disbelieved, and what the audit heard.
async fn ask(place: &Place, word: Vec<u8>, revoked: Option<&Identity>) -> (Source, String, usize) {
    let peer = place.node_with("edge-1", &Role::Edge, Fate::Gives, all, Some(word.into()));
    ask_of(place, &peer, request(), revoked).await
}

/// As [`ask`], with this request and of this peer.
async fn ask_of(
    place: &Place,
    peer: &Served,
    request: FetchRequest,
    revoked: Option<&Identity>,
) -> (Source, String, usize) {
    let endpoint =
        Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)), between_nodes()).unwrap();
    let heard = Arc::<Heard>::default();
    let file = place
        .root
        .issue("asker", &[Role::Edge], validity())
        .unwrap();
    let mut trust = Trust::default();
    trust.audit = Arc::clone(&heard) as _;
    let identity = Identity::with_trust(file, place.root.certificate().clone(), trust).unwrap();
    if let Some(revoked) = revoked {
        identity.revocations().replace([revoked.node_id()]).unwrap();
    }
    let pool = Pool::new(endpoint, identity.clone(), PoolConfig::default());
    let metrics = Arc::new(FillMetrics::default());
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let key = place.object.key.clone();
    let fills = PeerFills::new(
        Arc::new(neighbours(vec![peer.addr])),
        Arc::new(move |_: &str| Some(key.clone())),
        Arc::new(|_| false),
        metrics,
    )
    .patient(PATIENCE)
    .judging_as(identity);
    let origin = Arc::<Origin>::default();
    let upstream = fills.before(pool, Arc::clone(&origin) as _, Arc::new(|_, _, _, _| true));
    let response = upstream.fetch(request).await.unwrap();
    let via = response.via;
    if let FetchBody::Chunked(events) = response.body {
        let _: Vec<_> = events.try_collect().await.unwrap();
    }
    assert_eq!(
        origin.0.load(Ordering::Relaxed),
        usize::from(via == Source::Origin)
    );
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let refused = text
        .lines()
        .filter_map(|line| line.strip_prefix("fill_vouchers_refused_total{why=\""));
    let refused = refused.filter(|line| !line.ends_with(" 0"));
    let refused = refused
        .filter_map(|line| line.split('"').next())
        .collect::<Vec<_>>()
        .join(",");
    let events = heard.0.lock();
    let audited = events
        .iter()
        .filter(|event| event.what == AuditWhat::Statement);
    (via, refused, audited.count())
}

#[tokio::test]
async fn only_the_word_of_who_may_fetch_the_site_now_spares_the_origin() {
    let place = Place::new(4);
    let fetcher = |site: &str| Role::Fetch(site.to_owned());
    let good = place.identity("fetcher", fetcher("site"));
    let past = at(3 * HOUR, HOUR.as_secs());
    let expired = place.root.issue("old", &[fetcher("site")], past).unwrap();
    let root = place.root.certificate().clone();
    let expired = Identity::with_clock(expired, root, Arc::new(Ago(5 * HOUR / 2))).unwrap();
    let another = place.identity("another", fetcher("another"));
    let edge = place.identity("edge-2", Role::Edge);
    let stranger = Place::new(4).identity("fetcher", fetcher("site"));
    let mut forged = word(&place, &good);
    *forged.last_mut().unwrap() ^= 1;

    let spared = (Source::Peer, String::new(), 0);
    assert_eq!(ask(&place, word(&place, &good), None).await, spared);
    let refused = |why: &str| (Source::Origin, why.to_owned(), 1);
    let cases = [
        (word(&place, &another), "role"),
        (word(&place, &edge), "role"),
        (word(&place, &stranger), "certificate"),
        (word(&place, &expired), "certificate"),
        (forged, "signature"),
        (b"no word".to_vec(), "malformed"),
    ];
    for (word, why) in cases {
        assert_eq!(ask(&place, word, None).await, refused(why));
    }
    let said = ask(&place, word(&place, &good), Some(&good)).await;
    assert_eq!(said, refused("certificate"));
}

/// A request with these fields.
fn request_with(fields: &[(&'static str, &'static str)]) -> FetchRequest {
    let mut request = request();
    for (name, value) in fields {
        let value = HeaderValue::from_static(value);
        request.headers.append(*name, value);
    }
    request
}

#[tokio::test]
async fn other_edges_are_not_told_who_asks_and_choose_for_nobody_by_it() {
    let place = Place::new(4);
    let fetcher = place.identity("fetcher", Role::Fetch("site".to_owned()));
    let mut varies = HeaderMap::new();
    varies.insert("vary", HeaderValue::from_static("cookie"));
    let asked = request_with(&[
        ("accept-language", "de"),
        ("cookie", "session=1"),
        ("authorization", "Basic eDp5"),
        ("x-forwarded-for", "192.0.2.1"),
        ("forwarded", "for=192.0.2.1"),
        ("x-api-key", "secret"),
    ]);
    let with_cookie = asked.headers.clone();
    let told = request_with(&[("accept-language", "de")]).headers;
    // Where the response is the same for all, and where it is that for those without a cookie.
    for (response, from) in [(HeaderMap::new(), Source::Peer), (varies, Source::Origin)] {
        let word = word_of(&place, &fetcher, response);
        let peer = place.node_with("edge-1", &Role::Edge, Fate::Gives, all, Some(word.into()));
        let mut request = request();
        request.headers = with_cookie.clone();
        let (via, ..) = ask_of(&place, &peer, request, None).await;
        assert_eq!(via, from);
        assert_eq!(*peer.asked_with.lock(), std::slice::from_ref(&told));
    }
}

/// Asks this holder first, as one who waits for nobody longer than 200 ms.
fn hasty(place: &Place, holders: Arc<dyn Holders>) -> (BeforeOrigin, Arc<Origin>) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = Endpoint::client(any, between_nodes()).unwrap();
    let identity = place.identity("asker", Role::Edge);
    let pool = Pool::new(endpoint, identity.clone(), patient());
    let key = place.object.key.clone();
    let keys = Arc::new(move |_: &str| Some(key.clone()));
    let has = Arc::new(|_: &ChunkId| false);
    let fills = PeerFills::new(holders, keys, has, Arc::default());
    let fills = fills.judging_as(identity).patient(Patience {
        first: Duration::from_millis(200),
        ..PATIENCE
    });
    let origin = Arc::<Origin>::default();
    let upstream = fills.before(pool, Arc::clone(&origin) as _, Arc::new(|_, _, _, _| true));
    (upstream, origin)
}

#[tokio::test]
async fn origin_is_asked_where_another_edge_cannot_be_reached_or_says_nothing() {
    let place = Place::new(4);
    let (_open, addr) = nobody();
    let unreached = Arc::new(Says(Candidate {
        node: None,
        addresses: vec![addr],
        manifest: place.object.manifest.root(),
        whole: true,
        rtt: None,
    }));
    let (upstream, origin) = hasty(&place, unreached);
    let response = soon(upstream.fetch(request())).await.unwrap();
    assert_eq!(response.via, Source::Origin);
    assert_eq!(origin.0.load(Ordering::Relaxed), 1);

    let word = word(&place, &place.identity("edge-2", Role::Edge));
    let mute = place.node_with("edge-1", &Role::Edge, Fate::Mute, all, Some(word.into()));
    let (upstream, origin) = hasty(&place, Arc::new(neighbours(vec![mute.addr])));
    for misses in 1..=3 {
        let response = soon(upstream.fetch(request())).await.unwrap();
        assert_eq!(response.via, Source::Origin);
        assert_eq!(origin.0.load(Ordering::Relaxed), misses);
    }
    // The next misses did not wait for it.
    assert!(mute.asked_with.lock().len() <= 1);
}
