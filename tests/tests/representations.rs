//! What whole clusters say of a stored representation, and what may become one: digests for those who want them, ranges, answers to POST.

use http::{Method, Request};
use integration::{Answer, Client, Cluster, Origin, Payload, Running, Version};
use stoq_cache::http::digest::Algorithm;

const ALL: [Version; 3] = [Version::Http3, Version::Http2, Version::Http1];

/// One cluster without a shield and one with.
async fn clusters(origin: &Origin) -> [(&'static str, Running); 2] {
    let cluster = || Cluster::new().origin(origin);
    [
        ("edge", cluster().start().await),
        ("edge and shield", cluster().shield().start().await),
    ]
}

/// Status, `repr-digest`, `accept-ranges` and body.
async fn ask(
    client: &Client,
    method: Method,
    path: &str,
    fields: &[(&str, &str)],
) -> (u16, String, String, bytes::Bytes) {
    let payload = match method {
        Method::POST => Payload::bytes("question"),
        _ => Payload::empty(),
    };
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(payload).expect("a request");
    let answer = client.send(request).await.expect("an answer");
    let field = |name| answer.header(name).unwrap_or_default().to_owned();
    let (digest, ranges) = (field("repr-digest"), field("accept-ranges"));
    let status = answer.status.as_u16();
    let body = answer.bytes(1 << 20).await.expect("a whole body");
    (status, digest, ranges, body)
}

#[tokio::test]
async fn a_digest_is_that_of_the_whole_by_every_protocol_and_through_both_tiers() {
    let content = "representation ".repeat(10_000);
    let digest = |algorithm: Algorithm| {
        let mut hash = algorithm.hash();
        hash.update(content.as_bytes());
        hash.into_field()
            .expect("a field")
            .to_str()
            .expect("text")
            .to_owned()
    };
    let (sha256, sha512) = (digest(Algorithm::Sha256), digest(Algorithm::Sha512));
    let origin = {
        let content = content.clone();
        Origin::start(move |_| {
            let answer = Answer::ok(content.clone())
                .fresh(60)
                .header("etag", "\"1\"");
            async move { answer }
        })
        .await
    };
    for (tiers, cluster) in clusters(&origin).await {
        for version in ALL {
            let client = cluster.edge().client(version).await;
            let path = format!("/{version:?}");
            let what = format!("{tiers} {path}");
            let wants = |wish| [("want-repr-digest", wish)];
            let (status, none, _, body) = ask(&client, Method::GET, &path, &[]).await;
            assert_eq!(
                (status, none.as_str(), &body[..]),
                (200, "", content.as_bytes())
            );
            for (method, fields, expected, length) in [
                (
                    Method::GET,
                    &wants("sha-256=1")[..],
                    (200, &sha256),
                    content.len(),
                ),
                (
                    Method::GET,
                    &wants("sha-512=9, sha-256=1"),
                    (200, &sha512),
                    content.len(),
                ),
                (Method::HEAD, &wants("sha-256=1"), (200, &sha256), 0),
                (
                    Method::GET,
                    &[("want-repr-digest", "sha-256=1"), ("range", "bytes=7-16")],
                    (206, &sha256),
                    10,
                ),
                (
                    Method::GET,
                    &[
                        ("want-repr-digest", "sha-256=1"),
                        ("if-none-match", "\"1\""),
                    ],
                    (304, &String::new()),
                    0,
                ),
                (Method::GET, &[], (200, &String::new()), content.len()),
            ] {
                let (status, digest, ranges, body) = ask(&client, method, &path, fields).await;
                assert_eq!((status, &digest), expected, "{what} {fields:?}");
                assert_eq!(body.len(), length, "{what} {fields:?}");
                assert_eq!(ranges, "bytes", "{what} {fields:?}");
            }
        }
        // The bytes are the same under three URLs.
        let made = cluster.edge().metric("stoq_cache_digests_made_total", &[]);
        assert_eq!(made, 2.0, "{tiers}: one by each algorithm");
    }
    assert_eq!(origin.seen().len(), 6);
}

#[tokio::test]
async fn an_answer_to_post_that_says_so_answers_gets_by_every_protocol() {
    let origin = Origin::start(|seen| async move {
        let path = seen.uri.path().to_owned();
        let answer = Answer::ok(format!("{} {}", seen.method, seen.nth)).fresh(60);
        match seen.method {
            Method::POST => answer.header("content-location", &path),
            _ => answer,
        }
    })
    .await;
    for (tiers, cluster) in clusters(&origin).await {
        for version in ALL {
            let client = cluster.edge().client(version).await;
            let path = format!("/{tiers}/{version:?}").replace(' ', "-");
            let (_, _, _, posted) = ask(&client, Method::POST, &path, &[]).await;
            let before = origin.seen().len();
            for other in ALL {
                let client = cluster.edge().client(other).await;
                let (_, _, _, got) = ask(&client, Method::GET, &path, &[]).await;
                assert_eq!(got, posted, "{path} {other:?}");
            }
            assert_eq!(origin.seen().len(), before, "{path}");
            // Each POST goes to the origin, and one of a user leaves nothing for others.
            let cookie = [("cookie", "session=1")];
            let (_, _, _, own) = ask(&client, Method::POST, &path, &cookie).await;
            assert_ne!(own, posted);
            let (_, _, _, got) = ask(&client, Method::GET, &path, &[]).await;
            assert!(got.starts_with(b"GET"), "{path}: {got:?}");
        }
    }
}
