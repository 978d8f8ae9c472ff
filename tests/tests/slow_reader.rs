//! A client that does not read, in a process whose memory nobody else changes meanwhile.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use integration::{Answer, Cluster, Origin, Version, body};

#[tokio::test]
async fn a_client_that_does_not_read_holds_no_memory_and_stops_nobody() {
    const TOTAL: u64 = 256 << 20;
    let seed = body::seed();
    let origin = Origin::start(move |_| async move {
        let pieces = stream::iter(body::pieces(seed, TOTAL).map(Ok::<Bytes, std::io::Error>));
        Answer::status(200)
            .stream(Some(TOTAL), pieces)
            .header("etag", "\"v\"")
            .fresh(60)
    })
    .await;
    let cluster = Cluster::new().origin(&origin).ram("64MiB").start().await;
    let slow = cluster.edge().client(Version::Http3).await;
    let mut unread = slow.get("/big").await.unwrap();
    assert!(unread.body.chunk().await.unwrap().is_some());

    let before = stoq_node::ProcessStats::read().unwrap().resident_bytes;
    let reader = cluster.edge().client(Version::Http3).await;
    let whole = tokio::time::timeout(
        Duration::from_secs(60),
        reader.get("/big").await.unwrap().whole(),
    )
    .await;
    assert_eq!(
        whole.expect("the slow one stops nobody").unwrap().length,
        TOTAL
    );
    let grown = stoq_node::ProcessStats::read()
        .unwrap()
        .resident_bytes
        .saturating_sub(before);
    println!(
        "256 MiB passed an unread client; this process (origin, edge, clients) grew by {} MiB",
        grown >> 20
    );
    assert!(
        grown < 160 << 20,
        "64 MiB of tier, windows and buffers; grown by {grown} bytes"
    );
}
