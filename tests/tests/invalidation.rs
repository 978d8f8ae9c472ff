//! Unsafe requests through whole clusters: what they leave of what is stored, at the edge and at the shield behind it.

use http::{Method, Request};
use integration::{Answer, Client, Cluster, Gate, Origin, Payload, Running, Seen, Version, until};

const ALL: [Version; 3] = [Version::Http3, Version::Http2, Version::Http1];

async fn send(client: &Client, method: &str, path: &str, fields: &[(&str, &str)]) -> Got {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let payload = match method {
        Method::GET | Method::HEAD => Payload::empty(),
        _ => Payload::bytes("change"),
    };
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(payload).expect("a request");
    let answer = client.send(request).await.expect("an answer");
    let field = |name| answer.header(name).unwrap_or_default().to_owned();
    Got {
        status: answer.status.as_u16(),
        cache_status: field("cache-status"),
        mark: field("x-mark"),
        age: field("age"),
        body: answer.bytes(1 << 20).await.expect("a whole body"),
    }
}

/// An answer, read to its end.
#[derive(Debug)]
struct Got {
    status: u16,
    cache_status: String,
    mark: String,
    age: String,
    body: bytes::Bytes,
}

impl Got {
    /// Whether the last cache to write, which is the edge, had it.
    fn is_hit(&self) -> bool {
        self.cache_status
            .rsplit(", ")
            .next()
            .is_some_and(|member| member.starts_with("edge-1; hit"))
    }
}

/// One cluster without a shield and one with.
async fn clusters(origin: &Origin) -> [(&'static str, Running); 2] {
    let cluster = || Cluster::new().origin(origin);
    [
        ("edge", cluster().start().await),
        ("edge and shield", cluster().shield().start().await),
    ]
}

/// Text that says how often this path was asked for with GET, fresh for a minute, and what a request's `x-answer` asks for besides.
fn counting(seen: &Seen) -> Answer {
    let mut answer = match (seen.header("x-status"), &seen.method) {
        ("", &Method::GET) => Answer::ok(format!("{} {}", seen.uri, seen.nth)).fresh(60),
        ("", _) => Answer::ok("done"),
        (status, _) => Answer::status(status.parse().expect("a status")),
    };
    for line in seen.headers.get_all("x-answer") {
        let (name, value) = line
            .to_str()
            .expect("text")
            .split_once(": ")
            .expect("a field");
        answer = answer.header(name, value);
    }
    answer
}

async fn origin() -> Origin {
    Origin::start(|seen| async move { counting(&seen) }).await
}

/// Whether what is stored under `path` still answers, at the edge or behind it: the origin is not asked. It is stored afterwards.
async fn holds(client: &Client, origin: &Origin, path: &str, fields: &[(&str, &str)]) -> bool {
    let before = origin.seen().len();
    assert_eq!(send(client, "GET", path, fields).await.status, 200);
    let held = origin.seen().len() == before;
    let again = send(client, "GET", path, fields).await;
    assert!(again.is_hit(), "{path}: {again:?}");
    held
}

#[tokio::test]
async fn an_unsafe_request_that_succeeds_invalidates_both_tiers_and_one_that_fails_neither() {
    let origin = origin().await;
    for (tiers, cluster) in clusters(&origin).await {
        for version in ALL {
            let client = cluster.edge().client(version).await;
            let what = format!("{tiers}, {version:?}");
            holds(&client, &origin, "/a", &[]).await;
            holds(&client, &origin, "/b", &[]).await;
            for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
                for status in ["404", "500"] {
                    let got = send(&client, method, "/a", &[("x-status", status)]).await;
                    assert_eq!(got.status.to_string(), status, "{what} {method}");
                    assert!(
                        holds(&client, &origin, "/a", &[]).await,
                        "{what} {method} {status}"
                    );
                }
                let got = send(&client, method, "/a", &[]).await;
                assert_eq!(got.body, "done", "{what} {method}");
                assert!(
                    got.cache_status
                        .ends_with("edge-1; fwd=method; fwd-status=200; detail=invalidated"),
                    "{what} {method}: {}",
                    got.cache_status
                );
                assert!(!holds(&client, &origin, "/a", &[]).await, "{what} {method}");
            }
            assert!(
                holds(&client, &origin, "/b", &[]).await,
                "{what}: another URL"
            );
        }
        let count = |name| cluster.edge().metric(name, &[]);
        assert_eq!(count("stoq_cache_invalidated_targets_total"), 15.0);
        assert_eq!(count("stoq_cache_invalidated_responses_total"), 15.0);
        if let Some(shield) = cluster.shields.first() {
            assert_eq!(
                shield.metric("stoq_cache_invalidated_responses_total", &[]),
                15.0
            );
        }
    }
}

#[tokio::test]
async fn what_location_and_content_location_name_falls_too_in_the_same_origin_alone() {
    let origin = origin().await;
    for (tiers, cluster) in clusters(&origin).await {
        for version in ALL {
            let client = cluster.edge().client(version).await;
            for (field, falls) in [
                ("location: /named", true),
                ("content-location: named", true),
                ("location: https://localhost/./named", true),
                ("location: http://localhost/named", false),
                ("location: https://localhost:1/named", false),
                ("content-location: //elsewhere.test/named", false),
            ] {
                holds(&client, &origin, "/named", &[]).await;
                send(&client, "POST", "/form", &[("x-answer", field)]).await;
                assert_eq!(
                    holds(&client, &origin, "/named", &[]).await,
                    !falls,
                    "{tiers}, {version:?}, {field}"
                );
            }
        }
    }
}

#[tokio::test]
async fn every_variant_falls_with_its_url() {
    let origin = origin().await;
    for (tiers, cluster) in clusters(&origin).await {
        for version in ALL {
            let client = cluster.edge().client(version).await;
            let kinds = ["de", "en", "fr"].map(|kind| {
                [
                    ("x-answer", "vary: accept-language"),
                    ("accept-language", kind),
                ]
            });
            for kind in &kinds {
                holds(&client, &origin, "/v", kind).await;
            }
            send(&client, "PUT", "/v", &[]).await;
            for kind in &kinds {
                assert!(
                    !holds(&client, &origin, "/v", kind).await,
                    "{tiers}, {version:?}, {kind:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_group_falls_whole_in_both_tiers() {
    let origin = origin().await;
    let member = [("x-answer", "cache-groups: \"scripts\", \"all\"")];
    let other = [("x-answer", "cache-groups: \"styles\"")];
    for (tiers, cluster) in clusters(&origin).await {
        for version in ALL {
            let client = cluster.edge().client(version).await;
            let what = format!("{tiers}, {version:?}");
            for path in ["/1.js", "/2.js"] {
                holds(&client, &origin, path, &member).await;
            }
            holds(&client, &origin, "/3.css", &other).await;
            for (method, status) in [("GET", ""), ("OPTIONS", ""), ("POST", "403")] {
                let fields = [
                    ("x-answer", "cache-group-invalidation: \"scripts\""),
                    ("x-status", status),
                ];
                send(&client, method, "/deploy", &fields).await;
                assert!(
                    holds(&client, &origin, "/1.js", &member).await,
                    "{what} {method}"
                );
            }
            let fields = [(
                "x-answer",
                "cache-group-invalidation: \"nobody\", \"scripts\"",
            )];
            send(&client, "POST", "/deploy", &fields).await;
            for path in ["/1.js", "/2.js"] {
                assert!(
                    !holds(&client, &origin, path, &member).await,
                    "{what} {path}"
                );
            }
            assert!(holds(&client, &origin, "/3.css", &other).await, "{what}");
        }
        assert_eq!(
            cluster
                .edge()
                .metric("stoq_cache_invalidated_groups_total", &[]),
            6.0
        );
    }
}

#[tokio::test]
async fn a_fetch_that_began_before_an_unsafe_request_is_not_fresh_after_it() {
    for shielded in [false, true] {
        for version in ALL {
            let gate = Gate::default();
            let origin = Origin::start({
                let gate = gate.clone();
                move |seen| {
                    let gate = gate.clone();
                    async move {
                        if seen.method == Method::GET && seen.nth == 0 {
                            gate.passed().await;
                            return Answer::ok("old").fresh(60);
                        }
                        Answer::ok("new").fresh(60)
                    }
                }
            })
            .await;
            let cluster = Cluster::new().origin(&origin);
            let cluster = if shielded { cluster.shield() } else { cluster };
            let cluster = cluster.start().await;
            let what = format!("{version:?}, shield: {shielded}");
            let (early, late) = (
                cluster.edge().client(version).await,
                cluster.edge().client(version).await,
            );
            let asked = tokio::spawn(async move { send(&early, "GET", "/a", &[]).await });
            until("the first request is at the origin", || {
                origin.requests("/a") == 1
            })
            .await;
            send(&late, "POST", "/a", &[]).await;
            let after = send(&late, "GET", "/a", &[]).await;
            assert_eq!(after.body, "new", "{what}: it did not wait for the old one");
            gate.open();
            assert_eq!(asked.await.expect("no panic").body, "old", "{what}");
            let outdated = || {
                cluster
                    .edge()
                    .metric("stoq_cache_fetches_outdated_total", &[])
            };
            until("the old one has been turned away", || outdated() >= 1.0).await;
            if let Some(shield) = cluster.shields.first() {
                let outdated = || shield.metric("stoq_cache_fetches_outdated_total", &[]);
                until("at the shield too", || outdated() >= 1.0).await;
            }
            let hit = send(&late, "GET", "/a", &[]).await;
            assert_eq!(hit.body, "new", "{what}");
            assert!(hit.is_hit(), "{what}: {}", hit.cache_status);
            assert_eq!(origin.requests("/a"), 3, "{what}");
        }
    }
}

/// Stored only to be validated at first; what comes then, 304 or an answer to HEAD, makes it fresh.
async fn validated_later() -> Origin {
    Origin::start(|seen| async move {
        let answer = match (seen.method.clone(), seen.header("if-none-match")) {
            (Method::GET, "\"v\"") => Answer::status(304),
            _ => Answer::ok("hello"),
        };
        let (mark, control) = match seen.nth {
            0 => ("old", "max-age=0"),
            _ => ("new", "max-age=60"),
        };
        answer
            .header("etag", "\"v\"")
            .header("x-mark", mark)
            .header("cache-control", control)
    })
    .await
}

#[tokio::test]
async fn an_answer_to_head_freshens_what_both_tiers_hold() {
    let origin = validated_later().await;
    for (tiers, cluster) in clusters(&origin).await {
        for version in ALL {
            let client = cluster.edge().client(version).await;
            let path = format!("/{version:?}/{}", tiers.replace(' ', "-"));
            let what = format!("{tiers}, {version:?}");
            assert_eq!(send(&client, "GET", &path, &[]).await.mark, "old", "{what}");
            let sealed = || cluster.edge().metric("stoq_cache_fills_open", &[]);
            until("the fill has ended", || sealed() == 0.0).await;
            let head = send(&client, "HEAD", &path, &[]).await;
            assert_eq!((head.mark.as_str(), head.body.len()), ("new", 0), "{what}");
            let last = origin.seen().pop().expect("a request");
            assert_eq!(last.method, Method::HEAD, "{what}: a HEAD stays one");
            let hit = send(&client, "GET", &path, &[]).await;
            assert!(hit.is_hit(), "{what}: {}", hit.cache_status);
            assert_eq!(
                (hit.mark.as_str(), &hit.body[..]),
                ("new", &b"hello"[..]),
                "{what}"
            );
            assert_eq!(origin.requests(&path), 2, "{what}");
        }
        if let Some(shield) = cluster.shields.first() {
            assert_eq!(shield.metric("stoq_cache_head_updated_total", &[]), 3.0);
        }
        assert_eq!(
            cluster.edge().metric("stoq_cache_head_updated_total", &[]),
            3.0
        );
    }
}

#[tokio::test]
async fn a_304_freshens_what_both_tiers_hold() {
    let origin = validated_later().await;
    let cluster = Cluster::new()
        .origin(&origin)
        .shield()
        .edges(2)
        .start()
        .await;
    for version in ALL {
        let path = format!("/{version:?}");
        let clients = [
            cluster.edges[0].client(version).await,
            cluster.edges[1].client(version).await,
        ];
        assert_eq!(send(&clients[0], "GET", &path, &[]).await.mark, "old");
        let second = send(&clients[0], "GET", &path, &[]).await;
        assert_eq!(
            (second.mark.as_str(), &second.body[..]),
            ("new", &b"hello"[..])
        );
        let third = send(&clients[0], "GET", &path, &[]).await;
        assert!(third.is_hit(), "{version:?}: {}", third.cache_status);
        assert_eq!(
            (third.mark.as_str(), &third.body[..]),
            ("new", &b"hello"[..])
        );
        let elsewhere = send(&clients[1], "GET", &path, &[]).await;
        assert_eq!(
            (elsewhere.mark.as_str(), &elsewhere.body[..]),
            ("new", &b"hello"[..])
        );
        assert!(
            elsewhere.cache_status.contains("shield-1; hit"),
            "{}",
            elsewhere.cache_status
        );
        assert!(
            third.age.parse::<u64>().is_ok(),
            "{version:?}: {}",
            third.age
        );
        assert_eq!(
            origin.requests(&path),
            2,
            "{version:?}: the shield holds it fresh"
        );
    }
}
