//! A thousand cold requests for one object are one fetch, and what they wait for streams through while it grows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream;
use integration::{Answer, Client, Cluster, EdgeNode, Gate, Origin, Version, body, until};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// 10 connections to each of 3 edges, and so many requests on each: 1,020 in all; HTTP/3 allows 100 streams.
const CONNECTIONS_AN_EDGE: usize = 10;
const REQUESTS_A_CONNECTION: usize = 34;
const PIECES: usize = 8;
const PIECE_BYTES: usize = 32 * 1024;

/// Pieces that begin with the microseconds since `epoch` at which the origin hands them out.
fn piece(seed: u64, index: usize, epoch: Instant) -> Bytes {
    let mut piece = BytesMut::with_capacity(PIECE_BYTES);
    piece.put_u64(micros(epoch));
    piece.extend_from_slice(&body::random(seed + index as u64, PIECE_BYTES - 8));
    piece.freeze()
}

fn micros(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_micros()).expect("a test is shorter than that")
}

/// What one client saw: the hash of its body, and each piece's delay from the origin's hand to here, in microseconds.
async fn download(
    client: Client,
    epoch: Instant,
    first: mpsc::Sender<()>,
) -> (blake3::Hash, Vec<u64>) {
    let mut answer = client.get("/cold").await.expect("an answer");
    assert_eq!(answer.status, 200);
    let (mut hash, mut delays, mut open) = (blake3::Hasher::new(), Vec::new(), BytesMut::new());
    while let Some(bytes) = answer.body.chunk().await.expect("a whole body") {
        if hash.count() == 0 {
            first.send(()).await.expect("the test counts first bytes");
        }
        hash.update(&bytes);
        open.extend_from_slice(&bytes);
        while open.len() >= PIECE_BYTES {
            let mut piece = open.split_to(PIECE_BYTES);
            delays.push(micros(epoch).saturating_sub(piece.get_u64()));
        }
    }
    assert_eq!(hash.count(), (PIECES * PIECE_BYTES) as u64);
    (hash.finalize(), delays)
}

#[tokio::test]
async fn a_thousand_cold_requests_make_one_fetch_and_stream_while_the_origin_drips() {
    let seed = body::seed();
    let epoch = Instant::now();
    let (answering, dripping) = (Gate::default(), Gate::default());
    let handed_out = Arc::new(Mutex::new(blake3::Hasher::new()));
    let origin = Origin::start({
        let (answering, dripping, handed_out) =
            (answering.clone(), dripping.clone(), Arc::clone(&handed_out));
        move |_| {
            let (answering, dripping, handed_out) =
                (answering.clone(), dripping.clone(), Arc::clone(&handed_out));
            async move {
                answering.passed().await;
                // The first piece at once, the others one by one after the gate.
                let pieces = stream::unfold(0, move |index| {
                    let (dripping, handed_out) = (dripping.clone(), Arc::clone(&handed_out));
                    async move {
                        if index == PIECES {
                            return None;
                        }
                        if index > 0 {
                            dripping.passed().await;
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        let piece = piece(seed, index, epoch);
                        handed_out.lock().update(&piece);
                        Some((Ok(piece), index + 1))
                    }
                });
                Answer::status(200)
                    .stream(Some((PIECES * PIECE_BYTES) as u64), pieces)
                    .fresh(60)
                    .header("etag", "\"one\"")
            }
        }
    })
    .await;
    let cluster = Cluster::new()
        .origin(&origin)
        .shield()
        .edges(3)
        .start()
        .await;

    let (first, mut firsts) = mpsc::channel(64);
    let mut downloads = JoinSet::new();
    for edge in &cluster.edges {
        for _ in 0..CONNECTIONS_AN_EDGE {
            let client = edge.client(Version::Http3).await;
            for _ in 0..REQUESTS_A_CONNECTION {
                downloads.spawn(download(client.clone(), epoch, first.clone()));
            }
        }
    }
    let total = downloads.len();
    let waiting = || {
        let per_edge = cluster.edges.iter().map(|edge| {
            edge.metric("stoq_listen_requests_total", &[])
                - edge.metric("stoq_listen_requests_ended_total", &[])
        });
        per_edge.sum::<f64>()
    };
    until("all requests wait at the edges", || {
        waiting() >= total as f64
    })
    .await;
    answering.open();

    // Everybody has first bytes while the origin still holds seven of eight pieces.
    for _ in 0..total {
        firsts.recv().await.expect("a first byte for each request");
    }
    assert_eq!(
        origin.body_bytes(),
        PIECE_BYTES as u64,
        "the origin has handed out one piece only"
    );
    dripping.open();

    let (mut hashes, mut delays) = (BTreeSet::new(), Vec::new());
    while let Some(done) = downloads.join_next().await {
        let (hash, seen) = done.expect("a download does not panic");
        hashes.insert(*hash.as_bytes());
        delays.extend(seen.into_iter().skip(1));
    }
    assert_eq!(
        origin.requests("/cold"),
        1,
        "one fetch for {total} requests"
    );
    let want = *handed_out.lock().finalize().as_bytes();
    assert_eq!(
        hashes,
        BTreeSet::from([want]),
        "every body is what the origin handed out"
    );
    delays.sort_unstable();
    let at = |percent: usize| delays[(delays.len() - 1) * percent / 100] as f64 / 1000.0;
    println!(
        "{total} requests, 1 fetch; from the origin's hand to a client's, through shield and edge, all in one process: p50 {:.1} ms, p99 {:.1} ms",
        at(50),
        at(99)
    );
    for edge in &cluster.edges {
        print_relay(edge);
    }
}

/// What an edge itself adds, by its own measure: from a piece's arrival in the fill to a reader's having it.
fn print_relay(edge: &EdgeNode) {
    let bound = |share| {
        edge.quantile("stoq_cache_fill_relay_seconds", share)
            .map_or_else(
                || "beyond 0.33 s".to_owned(),
                |seconds| format!("≤ {:.2} ms", seconds * 1000.0),
            )
    };
    let count = edge.metric("stoq_cache_fill_relay_seconds_count", &[]);
    assert!(count > 0.0, "nobody waited for a piece");
    println!(
        "added inside the edge, {count} pieces that were waited for: p50 {}, p99 {}",
        bound(0.5),
        bound(0.99)
    );
}

#[tokio::test]
async fn what_a_collapsed_miss_waits_on_its_way_is_printed() {
    let seed = body::seed();
    let epoch = Instant::now();
    let origin = Origin::start(move |_| async move {
        let pieces = stream::unfold(0, move |index| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            (index < PIECES).then(|| (Ok(piece(seed, index, epoch)), index + 1))
        });
        Answer::status(200)
            .stream(Some((PIECES * PIECE_BYTES) as u64), pieces)
            .fresh(60)
    })
    .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    let (first, mut firsts) = mpsc::channel(64);
    let mut downloads = JoinSet::new();
    for _ in 0..8 {
        let client = cluster.edge().client(Version::Http3).await;
        downloads.spawn(download(client, epoch, first.clone()));
    }
    for _ in 0..8 {
        firsts.recv().await.expect("a first byte for each request");
    }
    let mut delays: Vec<_> = Vec::new();
    while let Some(done) = downloads.join_next().await {
        delays.extend(done.expect("a download does not panic").1);
    }
    assert_eq!(origin.requests("/cold"), 1);
    delays.sort_unstable();
    let at = |percent: usize| delays[(delays.len() - 1) * percent / 100] as f64 / 1000.0;
    println!(
        "8 collapsed requests, connections open: from the origin's hand to a client's through one edge, an upper bound of what the edge adds: p50 {:.2} ms, p99 {:.2} ms",
        at(50),
        at(99)
    );
    print_relay(cluster.edge());
}
