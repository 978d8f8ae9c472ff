//! What clients of each HTTP version see of hits, misses, revalidation, ranges and what must not be stored.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request};
use integration::{Answer, Client, Cluster, Gate, Origin, Payload, Version, until};
use stoq_loadtest::Answer as Got;

const ALL: [Version; 3] = [Version::Http3, Version::Http2, Version::Http1];

async fn send(client: &Client, method: Method, path: &str, fields: &[(&str, &str)]) -> Got {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let sent = client.send(request.body(Payload::empty()).expect("a request"));
    tokio::time::timeout(Duration::from_secs(20), sent)
        .await
        .expect("an answer in time")
        .expect("an answer")
}

async fn get(client: &Client, path: &str, fields: &[(&str, &str)]) -> Got {
    send(client, Method::GET, path, fields).await
}

fn status_word(answer: &Got) -> &str {
    answer
        .header("cache-status")
        .expect("every answer has Cache-Status")
}

#[tokio::test]
async fn a_miss_then_a_hit_whatever_the_version() {
    for version in ALL {
        let origin = Origin::start(|_| async { Answer::ok("hello").fresh(60) }).await;
        let cluster = Cluster::new().origin(&origin).start().await;
        let client = cluster.edge().client(version).await;
        let miss = get(&client, "/a", &[]).await;
        assert!(
            status_word(&miss).contains("fwd=uri-miss"),
            "{version:?}: {}",
            status_word(&miss)
        );
        assert_eq!(miss.bytes(100).await.unwrap(), "hello");
        let hit = get(&client, "/a", &[]).await;
        assert!(
            status_word(&hit).starts_with("edge-1; hit"),
            "{version:?}: {}",
            status_word(&hit)
        );
        assert!(hit.header("age").is_some() && hit.header("date").is_some());
        assert_eq!(hit.bytes(100).await.unwrap(), "hello");
        let head = send(&client, Method::HEAD, "/a", &[]).await;
        assert_eq!(
            (head.status.as_u16(), head.header("content-length")),
            (200, Some("5"))
        );
        assert_eq!(origin.requests("/a"), 1, "{version:?}");
    }
}

#[tokio::test]
async fn what_one_version_stored_is_a_hit_for_the_others_and_hits_are_inline() {
    let origin = Origin::start(|_| async { Answer::ok("hello").fresh(60) }).await;
    let cluster = Cluster::new().origin(&origin).start().await;
    for version in ALL {
        let client = cluster.edge().client(version).await;
        assert_eq!(
            get(&client, "/a", &[]).await.bytes(100).await.unwrap(),
            "hello"
        );
    }
    assert_eq!(origin.requests("/a"), 1);
    until("both hits are accounted for", || {
        cluster.edge().metric("stoq_edge_inline_answers_total", &[]) >= 2.0
    })
    .await;
}

#[tokio::test]
async fn validators_work_in_both_directions() {
    let origin = Origin::start(|seen| async move {
        if seen.header("if-none-match") == "\"v1\"" {
            Answer::status(304)
                .header("etag", "\"v1\"")
                .fresh(60)
                .header("x-new", "yes")
        } else {
            Answer::ok("hello")
                .header("etag", "\"v1\"")
                .header("cache-control", "max-age=0")
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    let client = cluster.edge().client(Version::Http3).await;
    assert_eq!(
        get(&client, "/a", &[]).await.bytes(100).await.unwrap(),
        "hello"
    );
    let revalidated = get(&client, "/a", &[]).await;
    assert_eq!(
        (revalidated.status.as_u16(), revalidated.header("x-new")),
        (200, Some("yes")),
        "the 304's fields are taken over"
    );
    assert_eq!(revalidated.bytes(100).await.unwrap(), "hello");
    for version in ALL {
        let client = cluster.edge().client(version).await;
        let not_modified = get(&client, "/a", &[("if-none-match", "\"v1\"")]).await;
        assert_eq!(
            (not_modified.status.as_u16(), not_modified.header("etag")),
            (304, Some("\"v1\"")),
            "{version:?}"
        );
        assert_eq!(not_modified.bytes(100).await.unwrap(), "");
    }
    assert_eq!(origin.requests("/a"), 2, "one fetch and one revalidation");
}

#[tokio::test]
async fn ranges_come_from_a_complete_object_and_from_a_filling_one() {
    let gate = Gate::default();
    let whole = Bytes::from(
        (0..200_000_u32)
            .flat_map(u32::to_be_bytes)
            .collect::<Vec<_>>(),
    );
    let origin = Origin::start({
        let (gate, whole) = (gate.clone(), whole.clone());
        move |_| {
            let (gate, whole) = (gate.clone(), whole.clone());
            async move {
                let halves = stream::unfold(0, move |half| {
                    let (gate, whole) = (gate.clone(), whole.clone());
                    async move {
                        if half == 1 {
                            gate.passed().await;
                        }
                        (half < 2).then(|| {
                            (
                                Ok(whole.slice(half * 400_000..(half + 1) * 400_000)),
                                half + 1,
                            )
                        })
                    }
                });
                Answer::status(200)
                    .stream(Some(800_000), halves)
                    .header("etag", "\"v\"")
                    .fresh(60)
            }
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    let client = cluster.edge().client(Version::Http3).await;
    let mut leader = get(&client, "/a", &[]).await;
    let mut begun = leader
        .body
        .chunk()
        .await
        .unwrap()
        .expect("first bytes")
        .len();

    let filling = get(&client, "/a", &[("range", "bytes=100-199")]).await;
    assert_eq!(
        (filling.status.as_u16(), filling.header("content-range")),
        (206, Some("bytes 100-199/800000"))
    );
    assert_eq!(filling.bytes(1000).await.unwrap(), whole.slice(100..200));
    gate.open();
    while let Some(piece) = leader.body.chunk().await.unwrap() {
        begun += piece.len();
    }
    assert_eq!(begun, 800_000);

    for version in ALL {
        let client = cluster.edge().client(version).await;
        for (range, want) in [
            ("bytes=0-9", 0..10),
            ("bytes=799990-", 799_990..800_000),
            ("bytes=-5", 799_995..800_000),
        ] {
            let part = get(&client, "/a", &[("range", range)]).await;
            assert_eq!(part.status, 206, "{version:?} {range}");
            assert_eq!(
                part.bytes(1000).await.unwrap(),
                whole.slice(want),
                "{version:?} {range}"
            );
        }
        let beyond = get(&client, "/a", &[("range", "bytes=800000-")]).await;
        assert_eq!(
            (beyond.status.as_u16(), beyond.header("content-range")),
            (416, Some("bytes */800000"))
        );
        let other = get(
            &client,
            "/a",
            &[("range", "bytes=0-9"), ("if-range", "\"other\"")],
        )
        .await;
        assert_eq!(
            (other.status.as_u16(), other.header("content-length")),
            (200, Some("800000"))
        );
    }
    assert_eq!(origin.requests("/a"), 1);
}

#[tokio::test]
async fn what_is_not_for_everybody_is_not_stored() {
    let origin = Origin::start(|seen| async move {
        let answer = Answer::ok(seen.nth.to_string());
        match seen.uri.path() {
            "/private" => answer.header("cache-control", "private, max-age=60"),
            "/no-store" => answer.header("cache-control", "no-store"),
            "/cookie" => answer.fresh(60).header("set-cookie", "id=1"),
            "/nothing" => answer,
            _ => answer.fresh(60),
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    let client = cluster.edge().client(Version::Http2).await;
    for path in ["/private", "/no-store", "/cookie", "/nothing"] {
        for nth in ["0", "1"] {
            assert_eq!(
                get(&client, path, &[]).await.bytes(10).await.unwrap(),
                nth,
                "{path}"
            );
        }
    }
    for nth in ["0", "1"] {
        let answer = get(&client, "/authorized", &[("authorization", "Basic x")]).await;
        assert_eq!(
            answer.bytes(10).await.unwrap(),
            nth,
            "an answer to a request with credentials"
        );
    }
}

#[tokio::test]
async fn variants_are_kept_apart() {
    let origin = Origin::start(|seen| async move {
        Answer::ok(seen.header("accept-language").to_owned())
            .fresh(60)
            .header("vary", "accept-language")
    })
    .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    let client = cluster.edge().client(Version::Http3).await;
    for _ in 0..2 {
        for language in ["de", "en", "fr"] {
            let answer = get(&client, "/a", &[("accept-language", language)]).await;
            assert_eq!(answer.bytes(10).await.unwrap(), language);
        }
    }
    assert_eq!(origin.requests("/a"), 3);
}

#[tokio::test]
async fn uncacheable_requests_do_not_queue_behind_each_other() {
    let gate = Gate::default();
    let origin = Origin::start({
        let gate = gate.clone();
        move |seen| {
            let gate = gate.clone();
            async move {
                if seen.nth > 0 {
                    gate.passed().await;
                }
                Answer::ok("x").header("cache-control", "no-store")
            }
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    let client = cluster.edge().client(Version::Http3).await;
    assert_eq!(get(&client, "/a", &[]).await.bytes(10).await.unwrap(), "x");
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { get(&client, "/a", &[]).await.bytes(10).await.unwrap() })
        })
        .collect();
    until("all twenty are at the origin at once", || {
        origin.requests("/a") == 21
    })
    .await;
    gate.open();
    for one in waiting {
        assert_eq!(one.await.unwrap(), "x");
    }
}

#[tokio::test]
async fn a_directory_is_an_origin_and_nothing_outside_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site");
    std::fs::create_dir_all(site.join("sub")).unwrap();
    std::fs::write(site.join("a.css"), "body {}").unwrap();
    std::fs::write(site.join("sub/index.html"), "<p>sub").unwrap();
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(dir.path().join("secret"), site.join("out")).unwrap();
    let cluster = Cluster::new()
        .origin_at(site.to_str().unwrap())
        .start()
        .await;
    let client = cluster.edge().client(Version::Http3).await;

    let file = get(&client, "/a.css", &[]).await;
    let etag = file.header("etag").expect("an entity tag").to_owned();
    assert!(
        file.header("content-type").unwrap().starts_with("text/css")
            && file.header("last-modified").is_some()
    );
    assert_eq!(file.bytes(100).await.unwrap(), "body {}");
    assert_eq!(
        get(&client, "/a.css", &[("if-none-match", &etag)])
            .await
            .status,
        304
    );
    assert_eq!(
        get(&client, "/sub/", &[]).await.bytes(100).await.unwrap(),
        "<p>sub"
    );
    let redirect = get(&client, "/sub", &[]).await;
    assert_eq!(
        (redirect.status.as_u16(), redirect.header("location")),
        (301, Some("/sub/"))
    );
    for path in [
        "/../secret",
        "/%2e%2e/secret",
        "/sub/..%2f..%2fsecret",
        "/out",
        "/none",
    ] {
        let answer = get(&client, path, &[]).await;
        assert_eq!(answer.status, 404, "{path}");
    }
}
