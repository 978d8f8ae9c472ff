//! The origin client against origins that truncate, reset, stall, close and count, on real sockets.

#![expect(
    clippy::unwrap_used,
    reason = "a test's origin that cannot start has failed the test"
)]

mod origin_support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, StatusCode};
use origin_support::{answer, body, get, head, request, scripted};
use stoq_cache::origin::{
    OriginClient, OriginSettings, OriginSite, OriginSpec, ProbeError, Roots, probe,
};
use stoq_cache::upstream::{BodyError, FetchBody, Upstream, UpstreamError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const SHORT: Duration = Duration::from_millis(200);

fn site(origins: &[SocketAddr], settings: OriginSettings) -> Arc<OriginSite> {
    let origins: Vec<_> = origins
        .iter()
        .map(|address| OriginSpec::new(format!("http://{address}")))
        .collect();
    OriginSite::new(&origins, settings).unwrap()
}

fn client(origin: SocketAddr) -> OriginClient {
    OriginClient::new(site(&[origin], OriginSettings::default()))
}

async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// An origin that sends `bytes` to each request and closes, perhaps with a reset.
async fn once(bytes: &'static str, reset: bool) -> SocketAddr {
    scripted(move |_, mut stream| async move {
        answer(&mut stream, bytes).await;
        if reset {
            stream.set_zero_linger().unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn bodies_that_do_not_end_as_declared_are_errors_whatever_the_framing() {
    for (what, bytes, reset) in [
        (
            "content-length",
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
            false,
        ),
        (
            "content-length, reset",
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
            true,
        ),
        (
            "chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello",
            false,
        ),
        (
            "between chunks",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            false,
        ),
        (
            "last chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            false,
        ),
        (
            "chunk size",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
            false,
        ),
    ] {
        let origin = once(bytes, reset).await;
        let client = client(origin);
        let outcome = match client.fetch(get("/")).await {
            Ok(response) => body(response).await.err().map(|error| error.to_string()),
            // A reset may overtake the head.
            Err(error) if reset => Some(error.to_string()),
            Err(error) => panic!("{what}: {error}"),
        };
        assert!(outcome.is_some(), "{what}: ended as if whole");
        assert!(
            outcome.unwrap().contains(&origin.to_string()),
            "{what}: names the origin"
        );
    }
}

#[tokio::test]
async fn a_body_without_length_ends_with_its_connection() {
    let client = client(once("HTTP/1.1 200 OK\r\n\r\nhello", false).await);
    assert_eq!(
        body(client.fetch(get("/")).await.unwrap()).await.unwrap(),
        b"hello"
    );
}

#[tokio::test]
async fn answers_that_are_none_are_protocol_errors() {
    let long: &'static str =
        Box::leak(format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(70_000)).into());
    for bytes in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 200 O",
        long,
    ] {
        let error = client(once(bytes, false).await)
            .fetch(get("/"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, UpstreamError::Protocol(_)),
            "{:.20}: {error:?}",
            bytes
        );
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_and_a_body_that_stalls_are_timeouts() {
    let settings = OriginSettings {
        head_timeout: SHORT,
        between_bytes_timeout: SHORT,
        ..OriginSettings::default()
    };
    let silent =
        scripted(|_, mut stream| async move { while head(&mut stream).await.is_some() {} }).await;
    let client = OriginClient::new(site(&[silent], settings.clone()));
    let error = client.fetch(get("/")).await.unwrap_err();
    assert!(
        matches!(&error, UpstreamError::Timeout(text) if text.contains(&silent.to_string())),
        "{error:?}"
    );

    let stalls = scripted(|_, mut stream| async move {
        answer(
            &mut stream,
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        )
        .await;
        head(&mut stream).await;
    });
    let client = OriginClient::new(site(&[stalls.await], settings));
    let error = body(client.fetch(get("/")).await.unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, BodyError::Timeout(_)), "{error:?}");
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other_and_is_closed_when_unused() {
    let (ended, mut end) = mpsc::channel(4);
    let origin = scripted(move |n, mut stream| {
        let ended = ended.clone();
        async move {
            let mut served = 0;
            while answer(&mut stream, OK).await.is_some() {
                served += 1;
            }
            ended.send((n, served)).await.unwrap();
        }
    })
    .await;
    let site = site(
        &[origin],
        OriginSettings {
            idle: SHORT,
            ..OriginSettings::default()
        },
    );
    let client = OriginClient::new(Arc::clone(&site));
    for _ in 0..5 {
        assert_eq!(
            body(client.fetch(get("/")).await.unwrap()).await.unwrap(),
            b"hello"
        );
    }
    assert_eq!(
        end.recv().await,
        Some((0, 5)),
        "the origin saw one connection, and then its end"
    );
    assert_eq!(
        (
            site.metrics().connections.get(),
            site.metrics().reused.get()
        ),
        (1, 4)
    );
}

/// Serves one request per connection and closes on the second without a byte of an answer (or with the first byte).
async fn dies_on_reuse(first_byte: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let origin = scripted(move |_, mut stream| {
        let count = Arc::clone(&count);
        async move {
            answer(&mut stream, OK).await;
            count.fetch_add(1, Ordering::SeqCst);
            if head(&mut stream).await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
                if first_byte {
                    stream.write_all(b"H").await.unwrap();
                }
            }
        }
    })
    .await;
    (origin, seen)
}

#[tokio::test]
async fn a_safe_request_is_sent_again_when_its_reused_connection_dies_before_a_byte() {
    let (origin, seen) = dies_on_reuse(false).await;
    let site = site(&[origin], OriginSettings::default());
    let client = OriginClient::new(Arc::clone(&site));
    for _ in 0..2 {
        assert_eq!(
            body(client.fetch(get("/")).await.unwrap()).await.unwrap(),
            b"hello"
        );
    }
    assert_eq!(
        (seen.load(Ordering::SeqCst), site.metrics().resent.get()),
        (3, 1)
    );
}

#[tokio::test]
async fn what_may_have_been_acted_on_is_never_sent_again() {
    for (first_byte, method) in [
        (false, Method::POST),
        (false, Method::DELETE),
        (true, Method::GET),
    ] {
        let (origin, seen) = dies_on_reuse(first_byte).await;
        let client = client(origin);
        body(client.fetch(get("/")).await.unwrap()).await.unwrap();
        let error = client
            .fetch(request(method.clone(), "/", &[]))
            .await
            .unwrap_err();
        match first_byte {
            false => assert!(
                matches!(error, UpstreamError::Unreachable(_)),
                "{method}: {error:?}"
            ),
            true => assert!(
                matches!(error, UpstreamError::Protocol(_)),
                "{method}: {error:?}"
            ),
        }
        assert_eq!(seen.load(Ordering::SeqCst), 2, "{method}");
    }
}

#[tokio::test]
async fn the_next_origin_answers_for_one_that_cannot_be_reached_and_the_dead_one_is_asked_last_for_a_while()
 {
    let dead = closed_port().await;
    let alive = once(OK, false).await;
    let both = site(&[dead, alive], OriginSettings::default());
    let client = OriginClient::new(Arc::clone(&both));
    for _ in 0..3 {
        assert_eq!(
            body(client.fetch(get("/")).await.unwrap()).await.unwrap(),
            b"hello"
        );
    }
    assert_eq!(both.metrics().connect_failures.get(), 1);
    let error = OriginClient::new(site(&[dead], OriginSettings::default()))
        .fetch(get("/"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, UpstreamError::Unreachable(text) if text.contains(&dead.to_string())),
        "{error:?}"
    );
}

#[tokio::test]
async fn open_requests_to_an_origin_are_bounded_over_all_workers_until_their_bodies_end() {
    let origin =
        scripted(|_, mut stream| async move { while answer(&mut stream, OK).await.is_some() {} })
            .await;
    let site = site(
        &[origin],
        OriginSettings {
            requests_max: 1,
            wait: SHORT,
            ..OriginSettings::default()
        },
    );
    let (one, two) = (
        OriginClient::new(Arc::clone(&site)),
        OriginClient::new(Arc::clone(&site)),
    );
    let held = one.fetch(get("/")).await.unwrap();
    assert_eq!(
        two.fetch(get("/")).await.unwrap_err(),
        UpstreamError::TooMany { limit: 1 }
    );
    drop(held);
    let next = two.fetch(get("/")).await.unwrap();
    let waits = one.fetch(get("/"));
    let (first, second) = tokio::join!(body(next), waits);
    assert_eq!(first.unwrap(), b"hello");
    assert!(
        second.is_ok(),
        "the place was free as soon as the body had ended"
    );
    assert_eq!(site.metrics().refused_at_bound.get(), 1);
}

#[tokio::test]
async fn an_origin_is_not_read_faster_than_its_reader_reads() {
    let (blocked, mut block) = mpsc::channel(1);
    let origin = scripted(move |_, mut stream| {
        let blocked = blocked.clone();
        async move {
            answer(
                &mut stream,
                "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
            )
            .await;
            let mut sent = 0;
            // Nothing taken for this long on loopback: the buffers are full.
            while let Ok(Ok(n)) = tokio::time::timeout(SHORT * 5, stream.write(&[7; 65536])).await {
                sent += n;
            }
            blocked.send(sent).await.unwrap();
        }
    })
    .await;
    let client = client(origin);
    let response = client.fetch(get("/")).await.unwrap();
    let sent = block.recv().await.unwrap();
    // The kernel's socket buffers on loopback, up to 6 MiB and 4 MiB, and ours of 256 KiB.
    assert!(
        sent < 16 << 20,
        "{sent} bytes taken for a reader that read none"
    );
    drop(response);
}

#[tokio::test]
async fn request_bodies_stream_out_while_the_answer_streams_in() {
    let origin = scripted(|_, mut stream| async move {
        answer(
            &mut stream,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        )
        .await;
        let mut buffer = [0; 64];
        loop {
            let n = stream.read(&mut buffer).await.unwrap();
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            // What came is chunked already, its last chunk too.
            stream.write_all(text.as_bytes()).await.unwrap();
            if n == 0 || text.ends_with("0\r\n\r\n") {
                return;
            }
        }
    })
    .await;
    let client = client(origin);
    let (send, receive) = mpsc::channel::<Result<Bytes, BodyError>>(1);
    let receive = stream::unfold(receive, |mut receive| async move {
        Some((receive.recv().await?, receive))
    });
    let mut upload = request(Method::POST, "/", &[]);
    upload.body = Some(receive.boxed());
    let response = client.fetch(upload).await.unwrap();
    let FetchBody::Stream(mut echo) = response.body else {
        panic!("a body")
    };
    for word in ["one", "two"] {
        send.send(Ok(Bytes::from_static(word.as_bytes())))
            .await
            .unwrap();
        assert_eq!(
            echo.next().await.unwrap().unwrap(),
            word,
            "before the next was sent"
        );
    }
    drop(send);
    assert!(echo.next().await.is_none());
}

#[tokio::test]
async fn a_client_that_breaks_off_is_not_the_origins_fault() {
    let origin =
        scripted(|_, mut stream| async move { while head(&mut stream).await.is_some() {} }).await;
    let client = client(origin);
    let mut upload = request(Method::POST, "/", &[("content-length", "10")]);
    let gone = BodyError::Client("gone".to_owned());
    upload.body = Some(stream::iter([Ok(Bytes::from_static(b"x")), Err(gone.clone())]).boxed());
    assert_eq!(
        client.fetch(upload).await.unwrap_err(),
        UpstreamError::RequestBody(gone)
    );
}

#[tokio::test]
async fn fields_of_the_connection_stay_on_it_in_both_directions() {
    let (asked, mut asks) = mpsc::channel(4);
    let origin = scripted(move |_, mut stream| {
        let asked = asked.clone();
        async move {
            let reply = "HTTP/1.1 200 OK\r\nConnection: x-secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n\
                Content-Length: 3\r\nTransfer-Encoding: chunked\r\nX-Kept: 1\r\nCache-Status: a; hit\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
            asked.send(answer(&mut stream, reply).await.unwrap()).await.unwrap();
        }
    })
    .await;
    let client = client(origin);
    let fields = [
        ("connection", "x-mine"),
        ("x-mine", "1"),
        ("transfer-encoding", "chunked"),
        ("x-kept", "2"),
    ];
    let response = client
        .fetch(request(Method::GET, "/a?b=c", &fields))
        .await
        .unwrap();
    for gone in [
        "connection",
        "x-secret",
        "keep-alive",
        "transfer-encoding",
        "content-length",
    ] {
        assert!(!response.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(response.headers["x-kept"], "1");
    assert_eq!(response.upstream_cache_status.as_deref(), Some("a; hit"));
    assert_eq!(body(response).await.unwrap(), b"hello");
    let asked = asks.recv().await.unwrap().to_ascii_lowercase();
    assert!(
        asked.starts_with("get /a?b=c http/1.1\r\n") && asked.contains("host: www.example\r\n"),
        "{asked}"
    );
    assert!(
        asked.contains("x-kept: 2") && !asked.contains("x-mine") && !asked.contains("transfer"),
        "{asked}"
    );
}

#[tokio::test]
async fn answers_without_a_body_have_none_and_keep_their_connection() {
    let replies = [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    ];
    let origin = scripted(move |_, mut stream| async move {
        for reply in replies {
            answer(&mut stream, reply).await;
        }
    })
    .await;
    let site = site(&[origin], OriginSettings::default());
    let client = OriginClient::new(Arc::clone(&site));
    for (method, status) in [(Method::GET, 204), (Method::GET, 304), (Method::HEAD, 200)] {
        let response = client.fetch(request(method, "/", &[])).await.unwrap();
        assert_eq!(response.status, StatusCode::from_u16(status).unwrap());
        assert!(matches!(response.body, FetchBody::Empty), "{status}");
        assert_eq!(
            response.headers.contains_key("content-length"),
            status != 204
        );
    }
    assert_eq!(site.metrics().connections.get(), 1);
}

mod tls {
    //! `https://` origins: a certificate made for the test, HTTP/2 by ALPN.

    use rustls::pki_types::PrivateKeyDer;
    use tokio::sync::Notify;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn acceptor(alpn: &[u8]) -> (TlsAcceptor, String) {
        let made = rcgen::generate_simple_self_signed(["origin.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        (TlsAcceptor::from(Arc::new(config)), made.cert.pem())
    }

    fn spec(address: SocketAddr, pem: &str) -> OriginSpec {
        OriginSpec {
            url: format!("https://{address}"),
            host: Some("backend.example".to_owned()),
            sni: Some("origin.example".to_owned()),
            roots: Roots::Pem(pem.as_bytes().to_vec()),
        }
    }

    /// An HTTP/2 origin: `/cut/CODE` sends half a body and resets the stream with that code, anything else is
    /// answered with the authority asked for.
    async fn http2() -> (SocketAddr, String, Arc<AtomicUsize>, Arc<Notify>) {
        let (acceptor, pem) = acceptor(b"h2");
        let arrived = Arc::new(Notify::new());
        let signal = Arc::clone(&arrived);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let origin = scripted(move |_, stream| {
            let (acceptor, arrived) = (acceptor.clone(), Arc::clone(&arrived));
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let Ok(mut connection) = h2::server::handshake(stream).await else {
                    return;
                };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let mut send = respond
                        .send_response(http::Response::new(()), false)
                        .unwrap();
                    match request.uri().path().strip_prefix("/cut/") {
                        Some(code) => {
                            let code: u32 = code.parse().unwrap();
                            send.send_data(Bytes::from_static(b"half"), false).unwrap();
                            // A reset discards what is still queued: after the client has the first half.
                            let arrived = Arc::clone(&arrived);
                            tokio::spawn(async move {
                                arrived.notified().await;
                                send.send_reset(code.into());
                            });
                        }
                        None => {
                            let authority = request.uri().authority().unwrap().to_string();
                            send.send_data(Bytes::from(authority), true).unwrap();
                        }
                    }
                }
            }
        })
        .await;
        (origin, pem, connections, signal)
    }

    #[tokio::test]
    async fn an_http2_origin_is_asked_on_one_connection_by_the_name_it_was_given() {
        let (origin, pem, connections, _) = http2().await;
        let site = OriginSite::new(&[spec(origin, &pem)], OriginSettings::default()).unwrap();
        let client = OriginClient::new(site);
        let answers = stream::iter(0..20).map(|_| async {
            let response = client.fetch(get("/")).await.unwrap();
            body(response).await.unwrap()
        });
        let answers: Vec<_> = answers.buffer_unordered(20).collect().await;
        assert!(answers.iter().all(|answer| answer == b"backend.example") && answers.len() == 20);
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_stream_reset_before_its_end_is_an_error_with_any_code() {
        let (origin, pem, _, arrived) = http2().await;
        let site = OriginSite::new(&[spec(origin, &pem)], OriginSettings::default()).unwrap();
        let client = OriginClient::new(site);
        // NO_ERROR, INTERNAL_ERROR, CANCEL
        for code in [0, 2, 8] {
            let response = client.fetch(get(&format!("/cut/{code}"))).await.unwrap();
            let FetchBody::Stream(mut stream) = response.body else {
                panic!("a body")
            };
            assert_eq!(stream.next().await.unwrap().unwrap(), "half");
            arrived.notify_one();
            let error = stream
                .next()
                .await
                .expect("a cut body does not end")
                .unwrap_err();
            assert!(matches!(error, BodyError::Upstream(_)), "{code}: {error:?}");
        }
        assert_eq!(
            body(client.fetch(get("/")).await.unwrap()).await.unwrap(),
            b"backend.example"
        );
    }

    #[tokio::test]
    async fn close_waits_for_connections_and_keeps_none() {
        let (origin, pem, ..) = http2().await;
        let site = OriginSite::new(&[spec(origin, &pem)], OriginSettings::default()).unwrap();
        let client = OriginClient::new(site);
        body(client.fetch(get("/")).await.unwrap()).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), client.close())
            .await
            .expect("nothing under way");
    }

    #[tokio::test]
    async fn a_tls_body_without_length_that_ends_without_a_close_notify_is_an_error() {
        let (acceptor, pem) = acceptor(b"http/1.1");
        let origin = scripted(move |_, stream| {
            let acceptor = acceptor.clone();
            async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut asked = [0; 1024];
                assert!(stream.read(&mut asked).await.unwrap() > 0);
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\n\r\nhello")
                    .await
                    .unwrap();
                stream.flush().await.unwrap();
                // Dropped here: TCP ends, TLS does not.
            }
        })
        .await;
        let site = OriginSite::new(&[spec(origin, &pem)], OriginSettings::default()).unwrap();
        let response = OriginClient::new(site).fetch(get("/")).await.unwrap();
        assert!(matches!(body(response).await, Err(BodyError::Upstream(_))));
    }

    #[tokio::test]
    async fn an_untrusted_certificate_or_name_is_unreachable_and_probe_says_why() {
        let (origin, pem, ..) = http2().await;
        let (_, other) = acceptor(b"h2");
        let wrong_name = OriginSpec {
            sni: Some("other.example".to_owned()),
            ..spec(origin, &pem)
        };
        let origins = [
            spec(origin, &pem),
            spec(origin, &other),
            wrong_name,
            spec(closed_port().await, &pem),
        ];
        let site = OriginSite::new(&origins, OriginSettings::default()).unwrap();
        let [good, untrusted, misnamed, closed] = probe(&site).await.try_into().unwrap();
        let good = good.outcome.unwrap();
        assert!(good.http2 && good.tls.is_some() && good.address == origin);
        assert!(
            matches!(untrusted.outcome, Err(ProbeError::Tls(_))),
            "{untrusted}"
        );
        assert!(
            matches!(misnamed.outcome, Err(ProbeError::Tls(_))),
            "{misnamed}"
        );
        assert!(
            matches!(closed.outcome, Err(ProbeError::Unreachable(_))),
            "{closed}"
        );
        let client =
            OriginClient::new(OriginSite::new(&origins[1..2], OriginSettings::default()).unwrap());
        assert!(matches!(
            client.fetch(get("/")).await,
            Err(UpstreamError::Unreachable(_))
        ));
    }
}
