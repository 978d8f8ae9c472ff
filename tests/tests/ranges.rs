//! Random sets of ranges through a whole edge, over each HTTP version, against a plain reference.
//!
//! `STOQ_TEST_SEED` repeats a run, `STOQ_RANGE_CASES` sets the requests over each version (100 unless set).

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use http::{Method, Request};
use integration::{Answer, Client, Cluster, Gate, Origin, Payload, Version, body};
use rand::{Rng, SeedableRng, rngs::StdRng};

const LENGTH: usize = 300_000;
const ALL: [Version; 3] = [Version::Http3, Version::Http2, Version::Http1];

/// A random set of two to six ranges, apart from each other and in no order.
fn set(rng: &mut StdRng) -> Vec<Range<usize>> {
    let mut cuts: Vec<usize> = (0..2 * rng.random_range(2..7))
        .map(|_| rng.random_range(0..LENGTH))
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut parts: Vec<_> = cuts.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
    for i in 0..parts.len() {
        parts.swap(i, rng.random_range(0..=i));
    }
    parts
}

fn field(parts: &[Range<usize>]) -> String {
    let members: Vec<_> = parts
        .iter()
        .map(|part| format!("{}-{}", part.start, part.end - 1))
        .collect();
    format!("bytes={}", members.join(","))
}

/// The body that an answer with these parts has, given the boundary the server chose.
fn multipart(parts: &[Range<usize>], whole: &[u8], boundary: &str) -> Vec<u8> {
    let mut text = Vec::new();
    for part in parts {
        let (first, last) = (part.start, part.end - 1);
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {first}-{last}/{LENGTH}\r\n\r\n"
        );
        text.extend_from_slice(head.as_bytes());
        text.extend_from_slice(&whole[part.clone()]);
    }
    text.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    text.split_off(2)
}

async fn ask(client: &Client, method: Method, fields: &[(&str, &str)]) -> stoq_loadtest::Answer {
    let mut request = Request::builder().method(method).uri("/object");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let sent = client.send(request.body(Payload::empty()).expect("a request"));
    tokio::time::timeout(Duration::from_secs(20), sent)
        .await
        .expect("an answer in time")
        .expect("an answer")
}

/// One set, asked for and compared.
async fn compare(client: &Client, parts: &[Range<usize>], whole: &Bytes) {
    let range = field(parts);
    let answer = ask(client, Method::GET, &[("range", &range)]).await;
    assert_eq!(answer.status, 206, "{range}");
    let kind = answer.header("content-type").map(str::to_owned);
    let declared = answer.body.declared();
    let got = answer.bytes(2 * LENGTH).await.expect("a whole body");
    let expected = match parts {
        [only] => whole[only.clone()].to_vec(),
        parts => {
            let kind = kind.expect("a type");
            let boundary = kind.strip_prefix("multipart/byteranges; boundary=");
            multipart(parts, whole, boundary.expect("a boundary"))
        }
    };
    assert!(got == expected, "{range}");
    assert_eq!(declared, Some(got.len() as u64), "{range}");
}

fn origin_of(whole: &Bytes) -> Answer {
    Answer::ok(whole.clone())
        .fresh(600)
        .header("etag", "\"v1\"")
        .header("content-type", "text/plain")
}

#[tokio::test]
async fn random_sets_of_ranges_are_the_same_bytes_over_every_version() {
    let seed = body::seed();
    let cases = std::env::var("STOQ_RANGE_CASES").map_or(100, |text| {
        text.parse::<usize>().expect("STOQ_RANGE_CASES is a number")
    });
    let whole = body::random(seed, LENGTH);
    let scripted = whole.clone();
    let origin = Origin::start(move |_| {
        let answer = origin_of(&scripted);
        async move { answer }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    let mut rng = StdRng::seed_from_u64(seed);
    for version in ALL {
        let client = cluster.edge().client(version).await;
        let got = ask(&client, Method::GET, &[]).await.bytes(LENGTH).await;
        assert!(got.expect("the whole") == whole);
        for _ in 0..cases {
            let parts = set(&mut rng);
            compare(&client, &parts, &whole).await;
        }
        let several = ("range", "bytes=0-0,5-5");
        for (method, fields, status) in [
            (Method::HEAD, &[several][..], 200),
            (Method::GET, &[several, ("if-range", "\"v0\"")], 200),
            (Method::GET, &[several, ("if-range", "W/\"v1\"")], 200),
            (Method::GET, &[several, ("if-range", "\"v1\"")], 206),
            (Method::GET, &[several, ("if-none-match", "\"v1\"")], 304),
            (Method::GET, &[several, ("if-match", "\"v1\"")], 206),
            (Method::GET, &[("range", "bytes=300000-,400000-")], 416),
        ] {
            let answer = ask(&client, method, fields).await;
            assert_eq!(answer.status, status, "{version:?} {fields:?}");
            if status == 416 {
                assert_eq!(answer.header("content-range"), Some("bytes */300000"));
            }
        }
    }
    assert_eq!(origin.requests("/object"), 1, "everything from the store");
}

#[tokio::test]
async fn parts_of_an_object_that_arrives_are_sent_before_the_rest_is_there() {
    let whole = body::random(7, LENGTH);
    let gate = Gate::default();
    let (scripted, held) = (whole.clone(), gate.clone());
    let origin = Origin::start(move |_| {
        let (whole, gate) = (scripted.clone(), held.clone());
        async move {
            let pieces = futures_util::stream::unfold(0, move |half| {
                let (whole, gate) = (whole.clone(), gate.clone());
                async move {
                    if half == 1 {
                        gate.passed().await;
                    }
                    let (at, end) = (half * LENGTH / 2, (half + 1) * LENGTH / 2);
                    (half < 2).then(|| (Ok(whole.slice(at..end)), half + 1))
                }
            });
            Answer::ok("")
                .stream(Some(LENGTH as u64), pieces)
                .header("content-type", "text/plain")
                .fresh(600)
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    let client = cluster.edge().client(Version::Http3).await;
    let parts = [10..20, 1_000..140_000, 200_000..200_005];
    let range = field(&parts);
    let mut answer = ask(&client, Method::GET, &[("range", &range)]).await;
    assert_eq!(answer.status, 206);
    let mut got = Vec::new();
    // The head of the third part comes before its bytes do.
    while got.len() < 139_010 {
        let piece = answer
            .body
            .chunk()
            .await
            .expect("a piece")
            .expect("no end yet");
        got.extend_from_slice(&piece);
    }
    gate.open();
    while let Some(piece) = answer.body.chunk().await.expect("a piece") {
        got.extend_from_slice(&piece);
    }
    let kind = answer.header("content-type").expect("a type").to_owned();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=");
    assert!(got == multipart(&parts, &whole, boundary.expect("a boundary")));
    assert_eq!(origin.requests("/object"), 1);
}
