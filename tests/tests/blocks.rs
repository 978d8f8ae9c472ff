//! Ranges of an object that nobody could store: 50 GiB, of which only what is asked for may move.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use integration::{Answer, Client, Cluster, Origin, Payload, Version};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 256 << 10;
const TOTAL: u64 = 50 * GIB;

/// The object's bytes from `start` to `end`, made of where they stand.
fn content(start: u64, end: u64) -> Bytes {
    (start..end)
        .map(|at| at.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0])
        .collect()
}

/// A server of that object, for whoever asks for a part of it.
async fn large() -> Origin {
    Origin::start(|seen| async move {
        let range = seen
            .header("range")
            .strip_prefix("bytes=")
            .map(str::to_owned);
        let ends = range.as_deref().and_then(|range| range.split_once('-'));
        let Some((first, last)) = ends else {
            return Answer::status(200).stream(Some(TOTAL), stream::iter([Ok(Bytes::from("x"))]));
        };
        let first: u64 = first.parse().expect("a first byte");
        let last: u64 = last.parse().expect("a last byte");
        Answer::status(206)
            .body(content(first, last + 1))
            .header("content-range", &format!("bytes {first}-{last}/{TOTAL}"))
            .header("etag", "\"v1\"")
            .fresh(60)
    })
    .await
}

async fn ask(client: &Client, start: u64, end: u64) -> String {
    let request = Request::get("/large")
        .header("range", format!("bytes={start}-{}", end - 1))
        .body(Payload::empty())
        .expect("a request");
    let answer = tokio::time::timeout(Duration::from_secs(20), client.send(request))
        .await
        .expect("an answer in time")
        .expect("an answer");
    assert_eq!(answer.status.as_u16(), 206);
    let range = format!("bytes {start}-{}/{TOTAL}", end - 1);
    assert_eq!(answer.header("content-range"), Some(range.as_str()));
    let status = answer.header("cache-status").unwrap_or_default().to_owned();
    let limit = usize::try_from(end - start).expect("a part that fits");
    let bytes = answer.bytes(limit).await.expect("a whole part");
    assert!(bytes == content(start, end), "other bytes at {start}");
    status
}

/// Bytes that the origin was asked for.
fn moved(origin: &Origin) -> u64 {
    let seen = origin.seen();
    let lengths = seen.iter().map(|seen| {
        let (first, last) = seen
            .header("range")
            .strip_prefix("bytes=")
            .and_then(|range| range.split_once('-'))
            .expect("only ranges are asked for");
        last.parse::<u64>().expect("a last byte") + 1 - first.parse::<u64>().expect("a first byte")
    });
    lengths.sum()
}

#[tokio::test]
async fn a_part_of_a_huge_object_moves_that_part_and_is_then_here_for_every_version() {
    for shield in [false, true] {
        let origin = large().await;
        let mut cluster = Cluster::new().origin(&origin).edges(2);
        if shield {
            cluster = cluster.shield();
        }
        let cluster = cluster.start().await;
        let (start, end) = (40 * GIB + 4_321, 40 * GIB + 4_321 + MIB);
        let [first, second] = &cluster.edges[..] else {
            panic!("two edges")
        };
        let client = first.client(Version::Http3).await;
        let miss = ask(&client, start, end).await;
        assert!(miss.contains("fwd=partial"), "{miss}");
        let once = moved(&origin);
        assert!((MIB..=MIB + 2 * BLOCK).contains(&once), "{once}");
        for version in [Version::Http3, Version::Http2, Version::Http1] {
            let client = first.client(version).await;
            let hit = ask(&client, start + 1000, end - 1000).await;
            assert!(hit.contains("edge-1; hit"), "{hit}");
        }
        assert_eq!(moved(&origin), once, "shield: {shield}");
        let other = second.client(Version::Http3).await;
        let _ = ask(&other, start, end).await;
        let twice = if shield { once } else { 2 * once };
        assert_eq!(moved(&origin), twice, "shield: {shield}");
    }
}
