//! Heads and hits: the same answer by every protocol, and what it costs.

use std::sync::atomic::Ordering;

use http::{Method, Version};
use stoq_edge::service::End;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{ALL, Client, tls};
use crate::rig::{Rig, until, within};
use crate::scripted::HIT;

#[tokio::test]
async fn every_protocol_gives_the_same_answer() {
    let rig = Rig::start();
    for version in ALL {
        let mut client = Client::connect(&rig, version).await.unwrap();
        let answer = within(client.get("/hit")).await.unwrap();
        assert_eq!(answer.status(), 200);
        let headers = answer.headers();
        assert_eq!(headers["content-length"], "1024", "{version:?}");
        assert_eq!(headers["etag"], "\"1\"");
        assert!(headers.contains_key("date"), "{version:?}");
        for hop in ["connection", "keep-alive", "transfer-encoding"] {
            assert!(!headers.contains_key(hop), "{version:?} {hop}");
        }
        assert_eq!(answer.body().await.unwrap(), HIT);
        for (path, method, status, length) in [
            ("/head", Method::HEAD, 200, Some("1024")),
            ("/204", Method::GET, 204, None),
            ("/304", Method::GET, 304, None),
            ("/hit", Method::GET, 200, Some("1024")),
        ] {
            let answer = within(client.send(method, path, &[], None)).await.unwrap();
            assert_eq!(answer.status(), status, "{version:?} {path}");
            let declared = answer
                .headers()
                .get("content-length")
                .map(|value| value.to_str().unwrap());
            assert_eq!(declared, length, "{version:?} {path}");
            let expected = if path == "/hit" { HIT } else { b"" };
            assert_eq!(answer.body().await.unwrap(), expected, "{version:?} {path}");
        }
    }
}

#[tokio::test]
async fn hits_are_answered_without_a_task_of_their_own() {
    let rig = Rig::start();
    for version in ALL {
        rig.service.done.lock().clear();
        let mut client = Client::connect(&rig, version).await.unwrap();
        for _ in 0..50 {
            let answer = within(client.get("/hit")).await.unwrap();
            assert_eq!(answer.body().await.unwrap(), HIT);
        }
        until("all accounts are closed", || {
            rig.service.done.lock().len() == 50
        })
        .await;
        for done in rig.service.done.lock().iter() {
            assert!(done.sent.inline && done.answered, "{version:?} {done:?}");
            assert_eq!(
                (done.sent.end, done.sent.body_bytes),
                (End::Complete, 1024),
                "{version:?}"
            );
        }
    }
    assert_eq!(rig.service.serving.load(Ordering::SeqCst), 0);
}

/// Larger than any window: what does not fit at once is written from a task, and none of it is lost on the way there.
#[tokio::test]
async fn a_large_hit_arrives_whole_many_times_at_once() {
    let rig = Rig::start();
    for version in ALL {
        let mut client = Client::connect(&rig, version).await.unwrap();
        let mut downloads = Vec::new();
        for _ in 0..if version == Version::HTTP_11 { 1 } else { 8 } {
            downloads.push(within(client.get("/large-hit")).await.unwrap());
        }
        for download in downloads {
            let body = within(download.body()).await.unwrap();
            assert!(
                body.len() == 1 << 20 && body.iter().all(|byte| *byte == 7),
                "{version:?}"
            );
        }
    }
    until("all accounts are closed", || {
        rig.service.done_with("/large-hit").len() == 17
    })
    .await;
    for done in rig.service.done_with("/large-hit") {
        assert_eq!(
            (done.sent.end, done.sent.body_bytes),
            (End::Complete, 1 << 20)
        );
    }
}

#[tokio::test]
async fn a_stream_without_a_head_does_not_hold_up_the_others() {
    let rig = Rig::start();
    let mut client = Client::connect(&rig, Version::HTTP_3).await.unwrap();
    let Client::H3(_, connection) = &client else {
        unreachable!()
    };
    let mut silent = Vec::new();
    for _ in 0..20 {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        // The first byte of a HEADERS frame, and nothing more.
        send.write_all(&[1]).await.unwrap();
        silent.push((send, recv));
    }
    for _ in 0..20 {
        let answer = within(client.get("/hit")).await.unwrap();
        assert_eq!(answer.body().await.unwrap(), HIT);
    }
    assert!(rig.service.done.lock().iter().all(|done| done.sent.inline));
}

#[tokio::test]
async fn http1_in_the_clear_keeps_its_connection() {
    let rig = Rig::start();
    let mut stream = TcpStream::connect(rig.plain).await.unwrap();
    for _ in 0..3 {
        stream
            .write_all(b"GET /hit HTTP/1.1\r\nhost: a.test\r\n\r\n")
            .await
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within(stream.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            !head.contains("alt-svc"),
            "nothing is announced in the clear: {head}"
        );
        let mut body = vec![0; HIT.len()];
        within(stream.read_exact(&mut body)).await.unwrap();
        assert_eq!(body, HIT);
    }
}

#[tokio::test]
async fn early_hints_reach_an_http3_client() {
    let rig = Rig::start();
    let Client::H3(mut requests, _connection) =
        Client::connect(&rig, Version::HTTP_3).await.unwrap()
    else {
        unreachable!()
    };
    let request = http::Request::get("https://localhost/early")
        .body(())
        .unwrap();
    let mut stream = requests.send_request(request).await.unwrap();
    stream.finish().await.unwrap();
    let first = within(stream.recv_response()).await.unwrap();
    assert_eq!(first.status(), 103);
    assert_eq!(first.headers()["link"], "</a.css>; rel=preload");
    assert_eq!(within(stream.recv_response()).await.unwrap().status(), 200);
}

/// Over TLS and in the clear, between other answers of the same connection, and never to HTTP/1.0.
#[tokio::test]
async fn early_hints_reach_an_http1_client() {
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
    let rig = Rig::start();
    for secure in [false, true] {
        let stream = TcpStream::connect(if secure { rig.https } else { rig.plain }).await;
        let stream = stream.unwrap();
        let mut stream: Box<dyn Duplex> = if secure {
            let connector = tokio_rustls::TlsConnector::from(tls(&rig, b"http/1.1"));
            let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
            Box::new(within(connector.connect(name, stream)).await.unwrap())
        } else {
            Box::new(stream)
        };
        // All at once: each answer begins where the one before ends.
        let mut requests = String::new();
        for path in ["/hit", "/early", "/early-at-once", "/hit", "/early"] {
            requests += &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        }
        requests += "GET /early HTTP/1.0\r\nhost: localhost\r\n\r\n";
        stream.write_all(requests.as_bytes()).await.unwrap();
        let mut read = String::new();
        within(stream.read_to_string(&mut read)).await.unwrap();
        let heads: Vec<&str> = read
            .split_inclusive("\r\n\r\n")
            .filter_map(|head| head.find("HTTP/1.").map(|at| &head[at..]))
            .collect();
        let statuses: Vec<&str> = heads.iter().map(|head| &head[9..12]).collect();
        assert_eq!(
            statuses,
            [
                "200", "103", "200", "103", "103", "200", "200", "103", "200", "200"
            ],
            "{read}"
        );
        assert_eq!(read.matches(HINTS).count(), 4);
        assert_eq!(read.matches("late").count(), 4);
        assert_eq!(
            read.as_bytes()
                .windows(HIT.len())
                .filter(|window| *window == HIT)
                .count(),
            2
        );
    }
}

trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Duplex for T {}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    for version in ALL {
        let rig = Rig::start();
        let mut client = Client::connect(&rig, version).await.unwrap();
        let request = tokio::spawn(async move {
            let _ = client.get("/never").await;
            drop(client);
        });
        until("the request is being served", || {
            rig.service.serving.load(Ordering::SeqCst) == 1
        })
        .await;
        request.abort();
        until("the request was dropped", || {
            rig.service.dropped.load(Ordering::SeqCst)
        })
        .await;
        until("its account is closed", || {
            !rig.service.done_with("/never").is_empty()
        })
        .await;
        let done = rig.service.done_with("/never");
        assert!(!done[0].answered && done.len() == 1, "{version:?}");
        assert_eq!(
            (done[0].sent.end, done[0].sent.status),
            (End::ClientLeft, None),
            "{version:?}"
        );
    }
}

#[tokio::test]
async fn a_stopped_http3_stream_drops_its_request_and_leaves_the_connection() {
    let rig = Rig::start();
    let mut client = Client::connect(&rig, Version::HTTP_3).await.unwrap();
    let Client::H3(requests, _) = &mut client else {
        unreachable!()
    };
    let request = http::Request::get("https://localhost/never")
        .body(())
        .unwrap();
    let mut stream = requests.send_request(request).await.unwrap();
    stream.finish().await.unwrap();
    until("the request is being served", || {
        rig.service.serving.load(Ordering::SeqCst) == 1
    })
    .await;
    stream.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
    until("the request was dropped", || {
        rig.service.dropped.load(Ordering::SeqCst)
    })
    .await;
    let answer = within(client.get("/hit")).await.unwrap();
    assert_eq!(answer.body().await.unwrap(), HIT);
}
