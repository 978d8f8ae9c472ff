//! The clients against servers of each version, on real sockets.

#![expect(
    clippy::unwrap_used,
    reason = "a test's server that cannot start has failed the test"
)]

mod server;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::{Method, Request};
use server::{CUT, Server};
use stoq_loadtest::{Client, ClientError, Payload, Target, Trust, Version};
use tokio::sync::oneshot;

const ALL: [Version; 3] = [Version::Http1, Version::Http2, Version::Http3];

async fn server(version: Version) -> Server {
    match version {
        Version::Http1 => server::over_tcp(b"http/1.1").await,
        Version::Http2 => server::over_tcp(b"h2").await,
        Version::Http3 => server::over_quic(),
    }
}

fn target(server: &Server) -> Target {
    let trust = Trust::Certificate(server.certificate.clone());
    Target::new(&format!("https://localhost:{}", server.address.port()))
        .unwrap()
        .at(server.address)
        .trusting(trust)
}

async fn client(version: Version) -> Client {
    let server = server(version).await;
    Client::connect(&target(&server), version).await.unwrap()
}

#[tokio::test]
async fn many_requests_are_under_way_at_once_and_each_gets_its_own_answer() {
    for version in ALL {
        let client = client(version).await;
        let answers = stream::iter(0..50u64).map(|n| {
            let client = client.clone();
            async move { client.get(&format!("/{}", n * 1000)).await?.whole().await }
        });
        let answers: Vec<_> = answers.buffered(50).collect().await;
        for (n, whole) in answers.into_iter().enumerate() {
            let expected = vec![7; n * 1000];
            let whole = whole.unwrap();
            assert_eq!(
                (whole.length, whole.hash),
                (n as u64 * 1000, blake3::hash(&expected)),
                "{version}"
            );
        }
        client.close().await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_and_never_a_short_body() {
    for version in ALL {
        let client = client(version).await;
        let (arrived, first_piece) = oneshot::channel::<()>();
        let until_then = stream::once(first_piece.map(|_| Ok(Bytes::from_static(b"now"))));
        let request = Request::builder()
            .method(Method::POST)
            .uri("/cut")
            .body(Payload::stream(until_then))
            .unwrap();
        let mut answer = client.send(request).await.unwrap();
        assert_eq!(answer.body.declared(), Some(CUT));
        assert!(answer.body.chunk().await.unwrap().is_some());
        arrived.send(()).unwrap();
        let error = loop {
            match answer.body.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{version}: a cut body ended as if whole"),
                Err(error) => break error,
            }
        };
        match version {
            Version::Http1 => assert!(matches!(error, ClientError::Closed(_)), "{error:?}"),
            Version::Http2 | Version::Http3 => {
                assert!(matches!(error, ClientError::Reset { .. }), "{error:?}")
            }
        }
        assert_eq!(
            answer.body.chunk().await,
            Ok(None),
            "nothing after the error"
        );
        assert_eq!(
            client
                .get("/10")
                .await
                .unwrap()
                .whole()
                .await
                .unwrap()
                .length,
            10,
            "{version}: the next works"
        );
    }
}

#[tokio::test]
async fn an_http3_body_that_ends_well_but_short_of_its_length_is_an_error() {
    let client = client(Version::Http3).await;
    let error = client
        .get("/short")
        .await
        .unwrap()
        .whole()
        .await
        .expect_err("short");
    assert_eq!(
        error,
        ClientError::Length {
            got: 50_000,
            declared: CUT
        }
    );
}

#[tokio::test]
async fn request_bodies_are_streamed_and_come_back() {
    for version in ALL {
        let client = client(version).await;
        let sent = stream::iter((0..100u8).map(|n| Ok(Bytes::from(vec![n; 5000]))));
        let request = Request::builder()
            .method(Method::POST)
            .uri("/echo")
            .body(Payload::stream(sent))
            .unwrap();
        let back = client
            .send(request)
            .await
            .unwrap()
            .bytes(1 << 20)
            .await
            .unwrap();
        let expected: Vec<u8> = (0..100u8).flat_map(|n| vec![n; 5000]).collect();
        assert!(back == expected, "{version}");
    }
}

#[tokio::test]
async fn a_host_field_takes_the_authoritys_place() {
    for version in ALL {
        let client = client(version).await;
        let request = Request::builder()
            .uri("/host")
            .header("host", "other.example")
            .body(Payload::empty())
            .unwrap();
        let body = client
            .send(request)
            .await
            .unwrap()
            .bytes(100)
            .await
            .unwrap();
        assert_eq!(body, "other.example", "{version}");
    }
}

#[tokio::test]
async fn a_certificate_nobody_vouched_for_is_refused() {
    for version in ALL {
        let server = server(version).await;
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let target = target(&server).trusting(Trust::Certificate(other.cert.der().clone()));
        let error = Client::connect(&target, version)
            .await
            .expect_err("another certificate");
        assert!(
            matches!(error, ClientError::Handshake(_)),
            "{version}: {error:?}"
        );
    }
}

#[tokio::test]
async fn an_http3_connection_survives_a_new_local_port() {
    let client = client(Version::Http3).await;
    client.get("/10").await.unwrap().whole().await.unwrap();
    let quic = client.quic().unwrap();
    let before = quic.endpoint.local_addr().unwrap();
    quic.rebind().unwrap();
    assert_ne!(quic.endpoint.local_addr().unwrap(), before);
    assert_eq!(
        client
            .get("/100000")
            .await
            .unwrap()
            .whole()
            .await
            .unwrap()
            .length,
        100_000
    );
}

/// Exit code and standard output of `stoq-bench get URL`, with more arguments.
async fn bench(url: String, more: &[&str]) -> (i32, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stoq-bench"));
    command.args(["get", &url]).args(more);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

#[tokio::test]
async fn stoq_bench_get_exits_with_0_for_a_whole_answer_1_for_none_and_2_for_nonsense() {
    let server = server::over_quic();
    let at = |path: &str| format!("https://localhost:{}{path}", server.address.port());
    let resolve = format!("localhost:{}:127.0.0.1", server.address.port());
    let resolve = ["--insecure", "--resolve", &resolve];
    let (code, text) = bench(at("/100"), &resolve).await;
    assert_eq!(code, 0);
    assert!(
        text.starts_with("HTTP/3 200 OK") && text.contains("100 bytes"),
        "{text}"
    );
    assert!(
        text.contains(&blake3::hash(&[7; 100]).to_string()),
        "{text}"
    );
    let (code, text) = bench(at("/100"), &[&resolve[..], &["--json"]].concat()).await;
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &report["status"], &report["body_bytes"]),
        (0, &200.into(), &100.into())
    );
    for path in ["/cut", "/short"] {
        assert_eq!(bench(at(path), &resolve).await.0, 1, "{path}");
    }
    assert_eq!(
        bench(at("/100"), &resolve[1..]).await.0,
        1,
        "nobody vouched for the certificate"
    );
    assert_eq!(
        bench("http://localhost/".to_owned(), &["--http", "3"])
            .await
            .0,
        2
    );
    assert_eq!(bench("localhost".to_owned(), &[]).await.0, 2);
    assert_eq!(bench(at("/"), &["--range"]).await.0, 2);
}
