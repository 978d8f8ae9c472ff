//! A thousand at once for what nobody may share: none waits for another, however the cache comes to know. And what a crowd
//! gets when the one whose request was sent leaves, or its node dies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use integration::{Answer, Client, Cluster, EdgeNode, Gate, Origin, Running, Version, body, until};
use tokio::task::JoinSet;

const CROWD: usize = 1_000;
/// 20 connections over HTTP/3 and HTTP/2 carry 50 each; an HTTP/1.1 one carries one at a time.
const CONNECTIONS: usize = 20;
/// How long an origin that is asked at leisure takes.
const DELAY: Duration = Duration::from_secs(1);

/// Clients, and for each request the one that sends it.
async fn crowd(edge: &EdgeNode, version: Version) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(edge.client(version).await);
    }
    (0..CROWD)
        .map(|n| clients[n % CONNECTIONS].clone())
        .collect()
}

/// Requests under way at the origin, and the most there were at once.
#[derive(Default)]
struct Under {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Under {
    fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// All of them ask; returns the bodies, which say whose they are.
async fn all_ask(clients: Vec<Client>, path: &'static str) -> BTreeSet<Bytes> {
    let mut asked = JoinSet::new();
    for client in clients {
        asked.spawn(async move {
            let answer = client.get(path).await.expect("an answer");
            assert_eq!(answer.status, 200);
            answer.bytes(100).await.expect("a body")
        });
    }
    let mut bodies = BTreeSet::new();
    while let Some(body) = asked.join_next().await {
        bodies.insert(body.expect("a request does not panic"));
    }
    bodies
}

#[tokio::test]
async fn a_thousand_private_answers_are_fetched_side_by_side() {
    for shielded in [false, true] {
        for version in [Version::Http3, Version::Http2] {
            let under = Arc::new(Under::default());
            // Opened once all are there: if one waited for another, that would be never.
            let together = Gate::default();
            let origin = Origin::start({
                let (under, together) = (Arc::clone(&under), together.clone());
                move |seen| {
                    let (under, together) = (Arc::clone(&under), together.clone());
                    async move {
                        under.enter();
                        if seen.nth > 0 {
                            together.passed().await;
                        }
                        tokio::time::sleep(DELAY).await;
                        under.leave();
                        Answer::ok(seen.nth.to_string())
                            .header("cache-control", "private, max-age=60")
                    }
                }
            })
            .await;
            let cluster = Cluster::new().origin(&origin);
            let cluster = if shielded { cluster.shield() } else { cluster };
            let cluster = cluster.start().await;
            let clients = crowd(cluster.edge(), version).await;

            let start = Instant::now();
            let first = clients[0].get("/a").await.expect("an answer");
            assert_eq!(first.bytes(100).await.expect("a body"), "0");
            let one = start.elapsed();

            let start = Instant::now();
            let asked = tokio::spawn(all_ask(clients, "/a"));
            let now = || under.now.load(Ordering::SeqCst);
            until("all are at the origin at once", || now() == CROWD).await;
            let gathered = start.elapsed();
            together.open();
            let bodies = asked.await.expect("no panic");
            let all = start.elapsed();
            assert_eq!(bodies.len(), CROWD, "each has an answer of its own");
            assert_eq!(under.most.load(Ordering::SeqCst), CROWD);
            println!(
                "{version}, shield {shielded}: one {:.3} s; {CROWD}, known to be private, {:.3} s: {:.2} of one; {:.3} s of it went by until all were at the origin, clients and origin in this process too",
                one.as_secs_f64(),
                all.as_secs_f64(),
                all.as_secs_f64() / one.as_secs_f64(),
                gathered.as_secs_f64(),
            );
        }
    }
}

#[tokio::test]
async fn the_first_private_answer_releases_all_that_waited_for_it() {
    for shielded in [false, true] {
        let under = Arc::new(Under::default());
        let (first, others) = (Gate::default(), Gate::default());
        let origin = Origin::start({
            let (under, first, others) = (Arc::clone(&under), first.clone(), others.clone());
            move |seen| {
                let (under, first, others) = (Arc::clone(&under), first.clone(), others.clone());
                async move {
                    under.enter();
                    let gate = if seen.nth == 0 { first } else { others };
                    gate.passed().await;
                    under.leave();
                    Answer::ok(seen.nth.to_string()).header("cache-control", "private")
                }
            }
        })
        .await;
        let cluster = Cluster::new().origin(&origin);
        let cluster = if shielded { cluster.shield() } else { cluster };
        let cluster = cluster.start().await;
        let clients = crowd(cluster.edge(), Version::Http3).await;
        let asked = tokio::spawn(all_ask(clients, "/a"));
        waiting(&cluster, CROWD).await;
        // Waiting begins before the one who asks has reached the origin.
        until("one is at the origin", || origin.requests("/a") > 0).await;
        assert_eq!(origin.requests("/a"), 1, "nobody knows yet: one asks");
        first.open();
        let now = || under.now.load(Ordering::SeqCst);
        until("all others are at the origin at once", || {
            now() == CROWD - 1
        })
        .await;
        others.open();
        let bodies = asked.await.expect("no panic");
        assert_eq!(bodies.len(), CROWD, "each has an answer of its own");
        assert_eq!(origin.requests("/a"), CROWD);
    }
}

/// Until so many requests wait at the edges.
async fn waiting(cluster: &Running, wanted: usize) {
    let waiting = || {
        let per_edge = cluster.edges.iter().map(|edge| {
            edge.metric("stoq_listen_requests_total", &[])
                - edge.metric("stoq_listen_requests_ended_total", &[])
        });
        per_edge.sum::<f64>()
    };
    until("all wait at the edges", || waiting() >= wanted as f64).await;
}

const HALF: usize = 1 << 20;

/// An origin of one object in two halves: the head and each half behind a gate of their own.
async fn halves(whole: &Bytes, gates: &[Gate; 3]) -> Origin {
    let (whole, gates) = (whole.clone(), gates.clone());
    Origin::start(move |_| {
        let (whole, gates) = (whole.clone(), gates.clone());
        async move {
            let [head, first, second] = gates;
            head.passed().await;
            let body = stream::unfold(0, move |half| {
                let (whole, gates) = (whole.clone(), [first.clone(), second.clone()]);
                async move {
                    gates.get(half)?.passed().await;
                    let piece = whole.slice(half * HALF..(half + 1) * HALF);
                    Some((Ok(piece), half + 1))
                }
            });
            Answer::status(200)
                .stream(Some(2 * HALF as u64), body)
                .fresh(60)
                .header("etag", "\"v\"")
        }
    })
    .await
}

/// Whether the leader leaves before it has a head, or in the middle of its body.
#[derive(Debug, Clone, Copy)]
enum Leaves {
    BeforeTheHead,
    Midway,
}

#[tokio::test]
async fn followers_complete_when_the_leaders_client_is_gone() {
    for leaves in [Leaves::BeforeTheHead, Leaves::Midway] {
        for shielded in [false, true] {
            for version in [Version::Http3, Version::Http2, Version::Http1] {
                let what = format!("{leaves:?}, {version}, shield {shielded}");
                let whole = body::random(9, 2 * HALF);
                let gates = [Gate::default(), Gate::default(), Gate::default()];
                let origin = halves(&whole, &gates).await;
                let cluster = Cluster::new().origin(&origin);
                let cluster = if shielded { cluster.shield() } else { cluster };
                let cluster = cluster.start().await;
                let leader = cluster.edge().client(version).await;
                let leading = tokio::spawn({
                    let leader = leader.clone();
                    async move {
                        let mut answer = leader.get("/a").await.expect("an answer");
                        answer.body.chunk().await.expect("the first bytes");
                        answer
                    }
                });
                until("the leader's request is at the origin", || {
                    origin.requests("/a") == 1
                })
                .await;
                let mut followers = JoinSet::new();
                for _ in 0..20 {
                    let client = cluster.edge().client(version).await;
                    followers.spawn(async move {
                        let answer = client.get("/a").await.expect("an answer");
                        answer.whole().await.expect("a whole body").hash
                    });
                }
                waiting(&cluster, 21).await;
                match leaves {
                    Leaves::BeforeTheHead => {
                        leading.abort();
                        leader.close().await;
                        // A request that was cancelled has ended here before the origin goes on.
                        let ended = || {
                            cluster
                                .edge()
                                .metric("stoq_listen_requests_ended_total", &[])
                        };
                        until("the leader has left", || ended() >= 1.0).await;
                        gates[0].open();
                        gates[1].open();
                    }
                    Leaves::Midway => {
                        gates[0].open();
                        gates[1].open();
                        drop(leading.await.expect("the leader has its first bytes"));
                        leader.close().await;
                    }
                }
                gates[2].open();
                while let Some(hash) = followers.join_next().await {
                    let hash = hash.expect("a follower does not panic");
                    assert_eq!(hash, blake3::hash(&whole), "{what}");
                }
                assert_eq!(origin.requests("/a"), 1, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn another_edges_followers_complete_when_the_leaders_edge_dies() {
    let whole = body::random(11, 2 * HALF);
    let gates = [Gate::default(), Gate::default(), Gate::default()];
    let origin = halves(&whole, &gates).await;
    let cluster = Cluster::new().origin(&origin).shield().edges(2);
    let mut cluster = cluster.start().await;
    // Over TCP, whose end the client sees at once; over QUIC it would wait for silence to be long enough.
    let leader = cluster.edges[0].client(Version::Http2).await;
    gates[0].open();
    gates[1].open();
    let mut leading = leader.get("/a").await.expect("an answer");
    leading.body.chunk().await.expect("the first bytes");
    let mut followers = JoinSet::new();
    for version in [Version::Http3, Version::Http2, Version::Http1] {
        let client = cluster.edges[1].client(version).await;
        followers.spawn(async move {
            let answer = client.get("/a").await.expect("an answer");
            answer.whole().await.expect("a whole body").hash
        });
    }
    waiting(&cluster, 4).await;
    let asked = || cluster.shield().metric("stoq_cache_requests_total", &[]);
    until("both edges wait for the shield", || asked() == 2.0).await;
    cluster.edges[0].drain().end();
    assert!(leading.whole().await.is_err(), "cut off, and not silently");
    cluster.edges[0].stop().await.expect("its workers end");
    gates[2].open();
    while let Some(hash) = followers.join_next().await {
        let hash = hash.expect("a follower does not panic");
        assert_eq!(hash, blake3::hash(&whole));
    }
    assert_eq!(origin.requests("/a"), 1);
}
