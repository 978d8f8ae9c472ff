//! An origin that is gone: what is stored answers for as long as it may, and says so; then, and for all else, 504.

use http::Request;
use integration::{Answer, Client, Cluster, Origin, Payload, Running, Version, until};

const EACH: [Version; 3] = [Version::Http3, Version::Http2, Version::Http1];

/// A response's fields.
type Fields = &'static [(&'static str, &'static str)];

/// What the origin sent while it was there, and what is made of it afterwards: the status, and what a cache says of it behind its
/// name, the edge of what it answers by itself or cannot answer, the cache that misses the origin of the rest.
///
/// Nobody waits for a window to pass: a response that is past it came so, by its `Age`.
const OBJECTS: &[(&str, Fields, u16, &str)] = &[
    (
        "/fresh",
        &[("cache-control", "max-age=5000")],
        200,
        "hit; ttl=",
    ),
    (
        "/fresh-and-strict",
        &[("cache-control", "max-age=5000, must-revalidate")],
        200,
        "hit; ttl=",
    ),
    // RFC 9111 §4.2.4: a disconnected cache may, for as long as the site says.
    (
        "/stale",
        &[("cache-control", "max-age=60"), ("age", "100")],
        200,
        "hit; ttl=-4x; detail=upstream-unreachable",
    ),
    (
        "/stale-near-the-end",
        &[("cache-control", "max-age=60"), ("age", "3500")],
        200,
        "hit; ttl=-34xx; detail=upstream-unreachable",
    ),
    (
        "/stale-past-the-end",
        &[("cache-control", "max-age=60"), ("age", "3700")],
        504,
        "fwd=miss; detail=upstream-unreachable",
    ),
    // Its own window is longer than the site's.
    (
        "/stale-longer",
        &[
            ("cache-control", "max-age=60, stale-if-error=90000"),
            ("age", "3700"),
        ],
        200,
        "hit; ttl=-36xx; detail=upstream-unreachable",
    ),
    (
        "/strict",
        &[
            ("cache-control", "max-age=60, must-revalidate"),
            ("age", "100"),
        ],
        504,
        "fwd=miss; detail=upstream-unreachable",
    ),
    (
        "/strict-for-all-who-share",
        &[("cache-control", "s-maxage=60"), ("age", "100")],
        504,
        "fwd=miss; detail=upstream-unreachable",
    ),
    (
        "/never-without-asking",
        &[("cache-control", "no-cache")],
        504,
        "fwd=miss; detail=upstream-unreachable",
    ),
    (
        "/not-stored",
        &[("cache-control", "no-store")],
        504,
        "fwd=miss; detail=upstream-unreachable",
    ),
];

fn object(path: &str) -> Answer {
    let fields = OBJECTS.iter().find(|(name, ..)| *name == path);
    let fields = fields.map_or(&[][..], |(_, fields, ..)| fields);
    let answer = Answer::ok(path.to_owned()).header("etag", "\"v\"");
    fields
        .iter()
        .fold(answer, |answer, (name, value)| answer.header(name, value))
}

/// Status, `Cache-Status`, and the body.
async fn get(client: &Client, path: &str) -> (u16, String, String) {
    let request = Request::get(path)
        .body(Payload::empty())
        .expect("a request");
    let answer = client.send(request).await.expect("an answer");
    let status = answer.status.as_u16();
    let said = answer.header("cache-status").unwrap_or_default().to_owned();
    let body = answer.bytes(1 << 16).await.expect("a body");
    (status, said, String::from_utf8_lossy(&body).into_owned())
}

/// Whether the cache whose name begins like this said `pattern`, in which an x stands for a digit; the pattern may end early.
fn fits(field: &str, cache: &str, pattern: &str) -> bool {
    let member = field.split(", ").find(|member| member.starts_with(cache));
    let said = member.and_then(|member| member.split_once("; "));
    let said = said.map_or("", |(_, said)| said);
    said.len() >= pattern.len()
        && said
            .chars()
            .zip(pattern.chars())
            .all(|(said, wanted)| said == wanted || wanted == 'x' && said.is_ascii_digit())
}

async fn settled(cluster: &Running) {
    until("all is stored", || {
        let edge = cluster.edge().metric("stoq_cache_fills_open", &[]);
        let shield = cluster.shields.first();
        edge + shield.map_or(0.0, |node| node.metric("stoq_cache_fills_open", &[])) == 0.0
    })
    .await;
}

#[tokio::test]
async fn what_is_stored_answers_within_its_window_and_then_it_is_504() {
    for shielded in [false, true] {
        let origin = Origin::start(|seen| async move { object(seen.uri.path()) }).await;
        let cluster = Cluster::new()
            .origin(&origin)
            .site("stale_if_unreachable = \"1h\"");
        let cluster = if shielded { cluster.shield() } else { cluster };
        let cluster = cluster.start().await;
        let client = cluster.edge().client(Version::Http3).await;
        for (path, ..) in OBJECTS {
            assert_eq!(get(&client, path).await.0, 200, "{path}");
        }
        settled(&cluster).await;
        drop(origin);
        for version in EACH {
            let client = cluster.edge().client(version).await;
            let what = format!("{version}, shield {shielded}");
            for (path, _, status, pattern) in OBJECTS {
                let (got, said, body) = get(&client, path).await;
                assert_eq!(got, *status, "{what}: {path}: {said}");
                let alone = pattern.starts_with("fwd") || *pattern == "hit; ttl=";
                let cache = if alone || !shielded {
                    "edge-1"
                } else {
                    "shield-1"
                };
                assert!(fits(&said, cache, pattern), "{what}: {path}: {said}");
                assert_eq!(body == *path, *status == 200, "{what}: {path}: {body}");
            }
            let (got, said, _) = get(&client, "/unknown").await;
            assert_eq!(got, 504, "{what}: {said}");
        }
    }
}

#[tokio::test]
async fn an_origin_that_comes_back_is_asked_at_once() {
    for shielded in [false, true] {
        let origin = Origin::start(|seen| async move { object(seen.uri.path()) }).await;
        let addr = origin.addr();
        let cluster = Cluster::new().origin(&origin);
        let cluster = if shielded { cluster.shield() } else { cluster };
        let cluster = cluster.start().await;
        let client = cluster.edge().client(Version::Http2).await;
        get(&client, "/stale").await;
        settled(&cluster).await;
        drop(origin);
        let (status, said, _) = get(&client, "/stale").await;
        assert_eq!(status, 200, "shield {shielded}: {said}");
        assert_eq!(get(&client, "/strict").await.0, 504, "shield {shielded}");

        let origin = Origin::start_on(addr, |seen| async move {
            Answer::ok("again")
                .fresh(60)
                .header("x-for", seen.uri.path())
        })
        .await;
        for path in ["/stale", "/strict"] {
            let (status, said, body) = get(&client, path).await;
            assert_eq!((status, &body[..]), (200, "again"), "{path}: {said}");
        }
        assert_eq!(origin.seen().len(), 2, "shield {shielded}");
    }
}
