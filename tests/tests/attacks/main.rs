//! A corpus of attacks on a shared cache, through the whole edge: path confusion, unkeyed fields, poisoned errors, requests that
//! mean two things. The claim of each: no byte made for one client reaches another, and what is stored stays right.

mod bare;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bare::{get, http1, lines_of, with_body};
use http::{Method, Request};
use integration::{Answer, Cluster, Origin, Payload, Running, Seen, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const ALL: [Version; 3] = [Version::Http3, Version::Http2, Version::Http1];

/// Answers with every field of the request, as an origin does that builds links or error pages from them.
async fn mirror() -> Origin {
    Origin::start(|seen: Seen| async move {
        let fields: Vec<_> = seen
            .headers
            .iter()
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        Answer::ok(format!("{} {} {body}", seen.uri, fields.join("|"))).fresh(60)
    })
    .await
}

async fn behind_nothing_and_a_shield(origin: &Origin) -> [Running; 2] {
    [
        Cluster::new().origin(origin).start().await,
        Cluster::new().origin(origin).shield().start().await,
    ]
}

#[tokio::test]
async fn what_a_client_says_in_an_unkeyed_field_is_served_to_nobody() {
    let origin = mirror().await;
    let names = [
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-scheme",
        "x-forwarded-server",
        "x-forwarded-ssl",
        "x-forwarded-uri",
        "x-forwarded-path",
        "x-forwarded",
        "x-forwarded-for",
        "forwarded",
        "x-host",
        "x-original-host",
        "x-original-url",
        "x-original-uri",
        "x-rewrite-url",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-real-ip",
        "x-client-ip",
        "true-client-ip",
        "front-end-https",
        "x-url-scheme",
        "proxy-authorization",
    ];
    for (place, cluster) in behind_nothing_and_a_shield(&origin)
        .await
        .iter()
        .enumerate()
    {
        for version in ALL {
            for name in names {
                let path = format!("/{place}/{version:?}/{name}");
                let poison = get(cluster.edge(), version, &path, &[(name, "evil.test")]).await;
                assert!(poison.is_ok(), "{path}: {poison:?}");
                let victim = get(cluster.edge(), version, &path, &[]).await;
                assert!(
                    victim.is_ok() && !victim.has("evil.test"),
                    "{path}: {victim:?}"
                );
                assert_eq!(
                    origin.requests(&path),
                    1,
                    "{path}: it was stored, so a poisoned one would be seen"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_error_that_one_clients_field_caused_is_not_served_to_others() {
    let origin = Origin::start(|seen: Seen| async move {
        let status = seen.header("x-break").parse().unwrap_or(200);
        Answer::status(status).body(status.to_string()).fresh(60)
    })
    .await;
    for (place, cluster) in behind_nothing_and_a_shield(&origin)
        .await
        .iter()
        .enumerate()
    {
        for version in ALL {
            for status in ["400", "408", "413", "421", "429", "431"] {
                let path = format!("/{place}/{version:?}/{status}");
                let broken = get(cluster.edge(), version, &path, &[("x-break", status)]).await;
                assert_eq!(broken.body(), status.as_bytes(), "{path}");
                let victim = get(cluster.edge(), version, &path, &[]).await;
                assert!(victim.is_ok(), "{path}: {victim:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_path_that_only_looks_static_gives_no_account_to_strangers() {
    // It routes by the beginning of the path, says nothing of caching, and greets whoever the cookie names.
    let origin = Origin::start(|seen: Seen| async move {
        let cookie = seen.header("cookie").to_owned();
        Answer::ok(format!("account of [{cookie}]")).header("content-type", "text/html")
    })
    .await;
    let cluster = Cluster::new()
        .origin(&origin)
        .site("default_ttl = \"60s\"")
        .start()
        .await;
    for version in ALL {
        let tails = [
            "/x.css",
            ";x.css",
            "%2Fx.css",
            "%2fx.css",
            "%3Fx.css",
            "%23x.css",
            "%00x.css",
            "%0Ax.css",
            "%3Bx.css",
            "%252Fx.css",
            "%252e%252e%252fx.css",
            "/./x.css",
            "/%2e/x.css",
            "/../account/x.css",
            "/%2e%2e/account/x.css",
            "/..%2Fx.css",
            "/%2e%2e%2Fx.css",
            "//x.css",
            "?x.css",
            "/x.css?",
            "%5Cx.css",
            "/..%5Cx.css",
            "%20x.css",
            "%.css",
            "%zz.css",
        ];
        for (nth, tail) in tails.iter().enumerate() {
            // A path of its own, for what strangers stored of the others to be no excuse.
            let own_base = format!("account-{version:?}-{nth}");
            let path = format!("/{own_base}{}", tail.replace("account", &own_base));
            let own = get(cluster.edge(), version, &path, &[("cookie", "alice")]).await;
            let stranger = get(cluster.edge(), version, &path, &[]).await;
            assert!(
                own.has("[alice]") || !own.is_ok(),
                "{version:?} {path}: {own:?}"
            );
            assert!(!stranger.has("alice"), "{version:?} {path}: {stranger:?}");
        }
    }
}

#[tokio::test]
async fn what_is_one_users_is_stored_by_no_field_of_the_origins() {
    let origin = Origin::start(|seen: Seen| async move {
        let who = format!("{}{}", seen.header("cookie"), seen.header("authorization"));
        let answer = Answer::ok(format!("for [{who}]"));
        match seen.uri.path().rsplit('/').next() {
            Some("set-cookie") => answer.fresh(60).header("set-cookie", "id=alice"),
            Some("private") => answer.header("cache-control", "private, max-age=60"),
            Some("no-store") => answer.header("cache-control", "no-store"),
            _ => answer.fresh(60),
        }
    })
    .await;
    for (place, cluster) in behind_nothing_and_a_shield(&origin)
        .await
        .iter()
        .enumerate()
    {
        for version in ALL {
            for (what, field) in [
                ("set-cookie", "cookie"),
                ("private", "cookie"),
                ("no-store", "cookie"),
                ("plain", "authorization"),
            ] {
                let path = format!("/{place}/{version:?}/{what}");
                let own = get(cluster.edge(), version, &path, &[(field, "alice")]).await;
                assert!(own.has("[alice]"), "{path}: {own:?}");
                let stranger = get(cluster.edge(), version, &path, &[]).await;
                assert!(
                    stranger.is_ok() && !stranger.has("[alice]"),
                    "{path}: {stranger:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn each_spelling_of_a_path_gets_what_the_origin_says_of_it() {
    let origin =
        Origin::start(|seen: Seen| async move { Answer::ok(format!("<{}>", seen.uri)).fresh(60) })
            .await;
    let cluster = Cluster::new().origin(&origin).start().await;
    for (asked, means) in [
        ("/a/b", "/a/b"),
        ("/a%2Fb", "/a%2Fb"),
        ("/a%2fb", "/a%2Fb"),
        ("/a/../b", "/b"),
        ("/a/%2e%2E/c", "/c"),
        ("/a%3Fb", "/a%3Fb"),
        ("/a?b", "/a?b"),
        ("/a%23b", "/a%23b"),
        ("/a;b", "/a;b"),
        ("/a%3Bb", "/a%3Bb"),
        ("/a%00b", "/a%00b"),
        ("/a%252Fb", "/a%252Fb"),
        ("/a%5Cb", "/a%5Cb"),
        ("/%61", "/a"),
        ("/a//b", "/a//b"),
        ("/A/b", "/A/b"),
        ("/a%zzb", "/a%zzb"),
    ] {
        for version in ALL {
            let got = get(cluster.edge(), version, asked, &[]).await;
            assert!(
                got.has(&format!("<{means}>")),
                "{version:?} {asked}: {got:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_body_of_a_get_shapes_no_answer_for_others() {
    let origin = mirror().await;
    for (place, cluster) in behind_nothing_and_a_shield(&origin)
        .await
        .iter()
        .enumerate()
    {
        for version in ALL {
            let path = format!("/{place}/{version:?}/undeclared");
            with_body(cluster.edge(), version, &path, &[], Some(b"evil-body")).await;
            let victim = get(cluster.edge(), version, &path, &[]).await;
            assert!(
                victim.is_ok() && !victim.has("evil-body"),
                "{path}: {victim:?}"
            );

            let path = format!("/{place}/{version:?}/declared");
            let client = cluster.edge().client(version).await;
            let request = Request::get(&path)
                .body(Payload::bytes("evil-body"))
                .unwrap();
            client
                .send(request)
                .await
                .unwrap()
                .bytes(1 << 16)
                .await
                .unwrap();
            let victim = get(cluster.edge(), version, &path, &[]).await;
            assert!(
                victim.is_ok() && !victim.has("evil-body"),
                "{path}: {victim:?}"
            );
        }
    }
}

#[tokio::test]
async fn no_http1_request_means_two_things() {
    let origin = mirror().await;
    let cluster = Cluster::new().origin(&origin).start().await;
    let inner = "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nx-smuggled: 1\r\n\r\n";
    let len = inner.len();
    let chunked = format!("{len:x}\r\n{inner}\r\n0\r\n\r\n");
    for (what, head, body) in [
        (
            "length and chunked",
            "content-length: 4\r\ntransfer-encoding: chunked\r\n".to_owned(),
            chunked.clone(),
        ),
        (
            "chunked and length",
            format!("transfer-encoding: chunked\r\ncontent-length: {len}\r\n"),
            chunked.clone(),
        ),
        (
            "two lengths",
            format!("content-length: {len}\r\ncontent-length: 0\r\n"),
            inner.to_owned(),
        ),
        (
            "a list of lengths",
            format!("content-length: 0, {len}\r\n"),
            inner.to_owned(),
        ),
        (
            "a signed length",
            format!("content-length: +{len}\r\n"),
            inner.to_owned(),
        ),
        (
            "a negative length",
            "content-length: -1\r\n".to_owned(),
            inner.to_owned(),
        ),
        (
            "a length with space before the colon",
            format!("content-length : {len}\r\n"),
            inner.to_owned(),
        ),
        (
            "chunked is not last",
            "transfer-encoding: chunked, identity\r\n".to_owned(),
            chunked.clone(),
        ),
        (
            "unknown coding",
            "transfer-encoding: xchunked\r\n".to_owned(),
            chunked.clone(),
        ),
        (
            "chunked with a vertical tab",
            "transfer-encoding: \u{b}chunked\r\n".to_owned(),
            chunked.clone(),
        ),
        (
            "space before the colon",
            "transfer-encoding : chunked\r\n".to_owned(),
            chunked.clone(),
        ),
        (
            "a folded coding",
            "transfer-encoding:\r\n chunked\r\n".to_owned(),
            chunked.clone(),
        ),
        (
            "a folded field",
            format!("x-a: b\r\n content-length: {len}\r\n"),
            String::new(),
        ),
        (
            "chunk extensions",
            "transfer-encoding: chunked\r\n".to_owned(),
            format!("{len:x};a=\"b\"\r\n{inner}\r\n0;x\r\n\r\n"),
        ),
        (
            "a chunk size that overflows",
            "transfer-encoding: chunked\r\n".to_owned(),
            format!("{len:x}0000000000000000\r\n{inner}\r\n0\r\n\r\n"),
        ),
        (
            "a chunk size with a prefix",
            "transfer-encoding: chunked\r\n".to_owned(),
            format!("0x{len:x}\r\n{inner}\r\n0\r\n\r\n"),
        ),
        (
            "a bare LF after the chunk size",
            "transfer-encoding: chunked\r\n".to_owned(),
            format!("{len:x}\n{inner}\r\n0\r\n\r\n"),
        ),
        (
            "a trailer that is a field",
            "transfer-encoding: chunked\r\n".to_owned(),
            "0\r\nx-smuggled: 1\r\n\r\n".to_owned(),
        ),
        (
            "two hosts",
            "host: smuggled.test\r\n".to_owned(),
            String::new(),
        ),
        (
            "a bare CR",
            "x-a: b\rx-smuggled: 1\r\n".to_owned(),
            String::new(),
        ),
        ("a NUL", "x-a: b\0\r\nx-b: 1\r\n".to_owned(), String::new()),
    ] {
        for method in ["GET", "POST"] {
            let path = format!("/{method}/{}", what.replace(' ', "-"));
            let last = "GET /last HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            let request =
                format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n{body}{last}");
            let got = http1(cluster.edge().http(), request.as_bytes()).await;
            assert_untouched(&origin, &format!("{method} {what}: {got:?}"));
        }
    }
    let clean = get(cluster.edge(), Version::Http1, "/smuggled", &[]).await;
    assert!(clean.is_ok() && !clean.has("x-smuggled"), "{clean:?}");
}

/// No request was made of another's inside, and none of its fields arrived.
fn assert_untouched(origin: &Origin, what: &str) {
    for seen in origin.seen() {
        let smuggled = seen.uri.path().contains("smuggled")
            || seen.headers.contains_key("x-smuggled")
            || seen.header("host").contains("smuggled");
        assert!(!smuggled, "{what}: {seen:?}");
    }
}

#[tokio::test]
async fn no_field_of_http2_or_http3_becomes_a_line_of_http1() {
    let origin = mirror().await;
    for cluster in &behind_nothing_and_a_shield(&origin).await {
        for version in [Version::Http2, Version::Http3] {
            let before = origin.seen().len();
            for (name, value) in [
                ("x-a", "b\r\nx-smuggled: 1"),
                ("x-a", "b\nx-smuggled: 1"),
                ("x-a", "b\rx-smuggled: 1"),
                ("x-a", "b\0"),
                ("x-a\r\nx-smuggled", "1"),
                ("x-a: b\r\nx-smuggled", "1"),
                ("x-a ", "b"),
                ("X-Upper", "b"),
                ("", "b"),
                ("transfer-encoding", "chunked"),
                ("connection", "x-a"),
                ("keep-alive", "5"),
                ("upgrade", "h2c"),
                ("proxy-connection", "close"),
                ("te", "gzip"),
                ("host", "smuggled.test"),
                ("content-length", "5"),
                ("content-length", "0, 5"),
                ("content-length", "+0"),
                (":path", "/smuggled"),
                (":unknown", "1"),
                (":authority", "smuggled.test"),
                (":status", "200"),
            ] {
                // A known gap: the HTTP/3 library lets the last of repeated pseudo-fields count, which RFC 9114 section 4.3 calls
                // malformed. The request has one meaning all the same: key and origin see that last one alone.
                if version == Version::Http3 && [":path", ":authority", ":status"].contains(&name) {
                    continue;
                }
                let got = get(cluster.edge(), version, "/a", &[(name, value)]).await;
                assert!(!got.is_ok(), "{version:?} {name:?}: {value:?}: {got:?}");
            }
            for (place, value) in [
                (0, "GET /smuggled HTTP/1.1\r\nx-a: "),
                (1, "https\r\nx-smuggled: 1"),
                (2, "localhost\r\nx-smuggled: 1"),
                (2, "user@localhost"),
                (2, ""),
                (2, "localhost, smuggled.test"),
                (3, "/ HTTP/1.1\r\nx-smuggled: 1"),
                (3, "/a b"),
                (3, ""),
                (3, "smuggled"),
            ] {
                let mut lines = [
                    (":method", "GET"),
                    (":scheme", "https"),
                    (":authority", "localhost"),
                    (":path", "/a"),
                ];
                lines[place].1 = value;
                let got = lines_of(cluster.edge(), version, &lines, None).await;
                assert!(!got.is_ok(), "{version:?} {:?}: {got:?}", lines[place]);
            }
            assert_eq!(
                origin.seen().len(),
                before,
                "{version:?}: nothing of it reached the origin"
            );
        }
    }
}

#[tokio::test]
async fn a_host_of_another_site_than_the_name_in_tls_is_misdirected() {
    let (own, other) = (mirror().await, mirror().await);
    let table = format!(
        "[[site]]\nname = \"other\"\nhosts = [\"other.test\"]\norigins = [\"{}\"]",
        other.url()
    );
    let cluster = Cluster::new()
        .origin(&own)
        .hosts("[\"localhost\", \"www.localhost\"]")
        .tables(&table)
        .start()
        .await;
    for version in ALL {
        let client = cluster.edge().client(version).await;
        for (host, status) in [
            ("localhost", 200),
            ("www.localhost", 200),
            ("other.test", 421),
        ] {
            let request = Request::get("/a")
                .header("host", host)
                .body(Payload::empty())
                .unwrap();
            assert_eq!(
                client.send(request).await.unwrap().status,
                status,
                "{version:?} {host}"
            );
        }
    }
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn the_absolute_form_decides_and_host_does_not() {
    let origin = mirror().await;
    let cluster = Cluster::new().origin(&origin).start().await;
    let request = b"GET http://one.test/a HTTP/1.1\r\nhost: two.test\r\nconnection: close\r\n\r\n";
    let got = http1(cluster.edge().http(), request).await;
    assert!(
        got.is_ok() && got.has("host=one.test") && !got.has("two.test"),
        "{got:?}"
    );
    let request = b"GET /a HTTP/1.1\r\nhost: two.test\r\nconnection: close\r\n\r\n";
    let got = http1(cluster.edge().http(), request).await;
    assert!(
        got.is_ok() && got.has("host=two.test") && !got.has("one.test"),
        "{got:?}"
    );
}

#[tokio::test]
async fn too_early_is_passed_on_and_kept_from_others() {
    let origin = Origin::start(|seen: Seen| async move {
        if seen.header("early-data") == "1" {
            Answer::status(425).fresh(60)
        } else {
            Answer::ok("x").fresh(60)
        }
    })
    .await;
    for (place, cluster) in behind_nothing_and_a_shield(&origin)
        .await
        .iter()
        .enumerate()
    {
        for version in ALL {
            let path = format!("/{place}/{version:?}");
            let client = cluster.edge().client(version).await;
            let early = Request::get(&path)
                .header("early-data", "1")
                .body(Payload::empty())
                .unwrap();
            assert_eq!(client.send(early).await.unwrap().status, 425, "{path}");
            assert_eq!(client.get(&path).await.unwrap().status, 200, "{path}");
            let early = Request::post(&path)
                .header("early-data", "1")
                .body(Payload::empty())
                .unwrap();
            assert_eq!(client.send(early).await.unwrap().status, 425, "{path}");
            assert_eq!(origin.requests(&path), 3, "{path}: nothing was sent again");
        }
    }
}

#[tokio::test]
async fn odd_statuses_and_unknown_methods_pass_unchanged() {
    let origin = Origin::start(|seen: Seen| async move {
        let status = seen
            .uri
            .path()
            .rsplit('/')
            .next()
            .and_then(|status| status.parse().ok());
        Answer::status(status.unwrap_or(500)).body(seen.method.to_string())
    })
    .await;
    for cluster in &behind_nothing_and_a_shield(&origin).await {
        for version in ALL {
            let client = cluster.edge().client(version).await;
            for status in [201, 299, 402, 499, 599, 999] {
                for method in ["GET", "POST", "PROPFIND", "X-ODD"] {
                    let method = Method::from_bytes(method.as_bytes()).unwrap();
                    let request = Request::builder().method(&method).uri(format!("/{status}"));
                    let answer = client
                        .send(request.body(Payload::empty()).unwrap())
                        .await
                        .unwrap();
                    assert_eq!(answer.status, status, "{version:?} {method}");
                    assert!(answer.header("date").is_some(), "{version:?} {method}");
                    assert_eq!(
                        answer.bytes(100).await.unwrap(),
                        method.as_str(),
                        "{version:?} {status}"
                    );
                }
            }
        }
    }
}

/// An HTTP/1.1 origin that answers each connection's first request with these bytes, and how many it answered.
async fn raw_origin(answer: &'static str) -> (String, Arc<AtomicUsize>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let answered = Arc::new(AtomicUsize::new(0));
    let mut task = JoinSet::new();
    task.spawn({
        let answered = Arc::clone(&answered);
        async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read_buf(&mut request).await {
                        Ok(1..) => {}
                        Ok(0) | Err(_) => break,
                    }
                }
                answered.fetch_add(1, Ordering::Relaxed);
                // A client that has left is no business of the origin's.
                let _sent = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    (url, answered, task)
}

#[tokio::test]
async fn interim_responses_reach_who_leads_a_fetch_and_are_never_stored() {
    let (url, answered, _task) = raw_origin(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncache-control: max-age=60\r\nconnection: close\r\n\r\nok",
    )
    .await;
    let cluster = Cluster::new().origin_at(url).start().await;
    for version in ALL {
        let path = format!("/{version:?}");
        let first = get(cluster.edge(), version, &path, &[]).await;
        let want: &[u16] = match version {
            Version::Http3 | Version::Http1 => &[102, 103, 200],
            // hyper's server leaves them no way.
            Version::Http2 => &[200],
        };
        assert_eq!(first.statuses, want, "{version:?}");
        assert_eq!(first.body(), b"ok", "{version:?}");
        let stored = get(cluster.edge(), version, &path, &[]).await;
        assert_eq!(stored.statuses, [200], "{version:?}");
    }
    assert_eq!(
        answered.load(Ordering::Relaxed),
        3,
        "one fetch for each path"
    );
}

#[tokio::test]
async fn an_origin_without_end_of_interim_responses_is_handed_on_in_part() {
    let flood = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n".repeat(200);
    let answer =
        format!("{flood}HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    let (url, _answered, _task) = raw_origin(Box::leak(answer.into_boxed_str())).await;
    let cluster = Cluster::new().origin_at(url).start().await;
    let got = get(cluster.edge(), Version::Http3, "/", &[]).await;
    assert!(
        got.is_ok() && (2..=9).contains(&got.statuses.len()),
        "{:?}",
        got.statuses
    );
}
