//! What is refused, and what travels on: hosts, loops, limits, fields of the connection and of the client.

use http::{Method, Request};
use integration::{Answer, Client, Cluster, Origin, Payload, Version, body, until};
use stoq_loadtest::Answer as Got;

const ALL: [Version; 3] = [Version::Http3, Version::Http2, Version::Http1];

async fn send(
    client: &Client,
    method: Method,
    path: &str,
    fields: &[(&str, &str)],
    payload: Payload,
) -> Got {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    client
        .send(request.body(payload).expect("a request"))
        .await
        .expect("an answer")
}

async fn get(client: &Client, fields: &[(&str, &str)]) -> Got {
    send(client, Method::GET, "/a", fields, Payload::empty()).await
}

#[tokio::test]
async fn each_refusal_has_its_status_and_says_so_in_cache_status() {
    let origin = Origin::start(|_| async { Answer::ok("x").fresh(60) }).await;
    let cluster = Cluster::new()
        .origin(&origin)
        .hosts("[\"localhost\"]")
        .tables("[limits]\nbody_bytes = \"1KiB\"")
        .start()
        .await;
    let big = "x".repeat(80_000);
    for version in ALL {
        let client = cluster.edge().client(version).await;
        let unknown = get(&client, &[("host", "elsewhere.test")]).await;
        let looped = get(&client, &[("cdn-loop", "other, test-cdn")]).await;
        let large = send(
            &client,
            Method::POST,
            "/a",
            &[],
            Payload::bytes(vec![0; 2000]),
        )
        .await;
        for (what, answer, status) in [
            ("host", unknown, 421),
            ("loop", looped, 508),
            ("body", large, 413),
        ] {
            assert_eq!(answer.status, status, "{version:?} {what}");
            assert!(
                answer.header("cache-status").unwrap().starts_with("edge-1"),
                "{version:?} {what}"
            );
        }
        let trace = send(&client, Method::TRACE, "/a", &[], Payload::empty()).await;
        assert_eq!(trace.status, 405, "{version:?}");
        let client = cluster.edge().client(version).await;
        let request = Request::get("/a")
            .header("x-big", &big)
            .body(Payload::empty())
            .unwrap();
        // A library may refuse such a head itself, by closing the stream or the connection.
        if let Ok(answer) = client.send(request).await {
            assert_eq!(answer.status, 431, "{version:?}");
        }
    }
    assert_eq!(origin.seen().len(), 0, "nothing of it reached the origin");
}

#[tokio::test]
async fn fields_of_the_connection_end_here_in_both_directions() {
    let origin = Origin::start(|_| async {
        let answer = Answer::ok("x")
            .header("x-kept", "1")
            .header("x-nominated", "1")
            .header("connection", "x-nominated");
        answer.header("keep-alive", "timeout=5")
    })
    .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    for version in ALL {
        let client = cluster.edge().client(version).await;
        let fields: &[_] = match version {
            Version::Http1 => &[("connection", "x-mine"), ("x-mine", "1"), ("x-end", "1")],
            Version::Http2 | Version::Http3 => &[("x-end", "1")],
        };
        let answer = get(&client, fields).await;
        assert_eq!(answer.header("x-kept"), Some("1"), "{version:?}");
        for gone in ["x-nominated", "keep-alive", "transfer-encoding"] {
            assert_eq!(answer.header(gone), None, "{version:?} {gone}");
        }
        let seen = origin.seen().pop().expect("a request");
        assert_eq!(
            (seen.header("x-end"), seen.header("x-mine")),
            ("1", ""),
            "{version:?}"
        );
        assert!(
            seen.header("via").ends_with("edge-1") && seen.header("cdn-loop").contains("test-cdn"),
            "{version:?}"
        );
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_speaks_for_its_client() {
    let claims: &[(&str, &str)] = &[
        ("x-forwarded-for", "203.0.113.9"),
        ("forwarded", "for=203.0.113.9"),
    ];
    for (trusted, want) in [
        ("", "127.0.0.1"),
        (
            "trusted_proxies = [\"127.0.0.0/8\"]",
            "203.0.113.9, 127.0.0.1",
        ),
    ] {
        let origin = Origin::start(|_| async { Answer::ok("x") }).await;
        let cluster = Cluster::new()
            .origin(&origin)
            .tables(&format!("[limits]\n{trusted}"))
            .start()
            .await;
        let client = cluster.edge().client(Version::Http3).await;
        assert_eq!(get(&client, claims).await.status, 200);
        let seen = origin.seen().pop().expect("a request");
        assert_eq!(seen.header("x-forwarded-for"), want);
        assert_eq!(
            seen.header("forwarded").contains("203.0.113.9"),
            !trusted.is_empty(),
            "{}",
            seen.header("forwarded")
        );
        assert_eq!(seen.header("x-forwarded-proto"), "https");
    }
}

#[tokio::test]
async fn a_long_upload_streams_to_the_origin_and_back() {
    let origin =
        Origin::start(|seen| async move { Answer::ok(blake3::hash(&seen.body).to_string()) }).await;
    let cluster = Cluster::new().origin(&origin).shield().start().await;
    let upload = body::random(body::seed(), 20 << 20);
    for version in ALL {
        let client = cluster.edge().client(version).await;
        let answer = send(
            &client,
            Method::POST,
            "/upload",
            &[],
            Payload::bytes(upload.clone()),
        )
        .await;
        assert_eq!(
            answer.bytes(100).await.unwrap(),
            blake3::hash(&upload).to_string(),
            "{version:?}"
        );
    }
    assert_eq!(origin.requests("/upload"), 3);
}

#[tokio::test]
async fn http3_is_announced_once_it_answers_and_never_over_http3() {
    let origin = Origin::start(|_| async { Answer::ok("x").fresh(60) }).await;
    let cluster = Cluster::new().origin(&origin).start().await;
    until("the edge has probed itself", || {
        cluster
            .edge()
            .metric("stoq_listen_h3_probes_answered_total", &[])
            >= 1.0
    })
    .await;
    for version in [Version::Http2, Version::Http1] {
        let client = cluster.edge().client(version).await;
        let said = get(&client, &[])
            .await
            .header("alt-svc")
            .unwrap_or_default()
            .to_owned();
        assert!(
            said.starts_with(&format!("h3=\":{}\"", cluster.edge().https().port())),
            "{version:?}: {said}"
        );
    }
    let client = cluster.edge().client(Version::Http3).await;
    assert_eq!(get(&client, &[]).await.header("alt-svc"), None);
}
