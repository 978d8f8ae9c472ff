//! Bodies in both directions: never short without a sign, never faster than they are taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Method, Version};
use stoq_edge::service::End;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{ALL, Client, Upload};
use crate::rig::{Rig, until, within};
use crate::scripted::{HIT, PIECE};

#[tokio::test]
async fn a_body_cut_short_never_looks_whole() {
    let rig = Rig::start();
    for version in ALL {
        for path in ["/broken", "/broken-unsized", "/short"] {
            rig.service.done.lock().clear();
            let mut client = Client::connect(&rig, version).await.unwrap();
            let result = match within(client.get(path)).await {
                Ok(answer) => within(answer.body()).await,
                Err(error) => Err(error),
            };
            assert!(
                result.is_err(),
                "{version:?} {path} gave {} bytes",
                result.unwrap().len()
            );
            until("the account is closed", || {
                !rig.service.done_with(path).is_empty()
            })
            .await;
            assert_eq!(
                rig.service.done_with(path)[0].sent.end,
                End::BodyFailed,
                "{version:?} {path}"
            );
            if version != Version::HTTP_11 {
                let answer = within(client.get("/hit")).await.unwrap();
                assert_eq!(answer.body().await.unwrap(), HIT, "the connection goes on");
            }
        }
    }
}

#[tokio::test]
async fn a_cut_http3_body_is_reset_with_internal_error() {
    let rig = Rig::start();
    let mut client = Client::connect(&rig, Version::HTTP_3).await.unwrap();
    // The reset may overtake the head.
    let error = match within(client.get("/broken")).await {
        Ok(answer) => answer.body().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.to_string().contains("H3_INTERNAL_ERROR"), "{error}");
}

/// Without a length an HTTP/1.0 body ends with its connection: only a reset tells that it is cut.
#[tokio::test]
async fn a_cut_http10_body_ends_in_a_reset() {
    let rig = Rig::start();
    let mut stream = TcpStream::connect(rig.plain).await.unwrap();
    stream
        .write_all(b"GET /broken-unsized HTTP/1.0\r\nhost: a.test\r\n\r\n")
        .await
        .unwrap();
    let mut everything = Vec::new();
    let end = within(stream.read_to_end(&mut everything)).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

fn upload(pieces: usize, sent: &Arc<AtomicU64>) -> Upload {
    let sent = sent.clone();
    stream::iter(0..pieces)
        .map(move |_| {
            sent.fetch_add(PIECE as u64, Ordering::SeqCst);
            Ok(Bytes::from(vec![b'u'; PIECE]))
        })
        .boxed()
}

#[tokio::test]
async fn a_large_upload_waits_for_its_reader_and_arrives_whole() {
    const PIECES: usize = 4096;
    const TOTAL: u64 = (PIECES * PIECE) as u64;
    for version in ALL {
        let rig = Rig::start();
        let mut client = Client::connect(&rig, version).await.unwrap();
        let sent = Arc::new(AtomicU64::new(0));
        let body = upload(PIECES, &sent);
        let length = [("content-length", TOTAL.to_string())];
        let request = tokio::spawn(async move {
            let answer = client
                .send(Method::POST, "/upload", &length, Some(body))
                .await?;
            answer.body().await
        });
        // As much as windows and socket buffers hold, and then no more.
        let mut before = u64::MAX;
        while before != sent.load(Ordering::SeqCst) || before == 0 {
            before = sent.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(
            before < TOTAL / 4,
            "{version:?}: {before} bytes were taken with nobody reading"
        );
        rig.service.open_gate();
        let body = within(request).await.unwrap().unwrap();
        assert_eq!(
            String::from_utf8(body).unwrap(),
            TOTAL.to_string(),
            "{version:?}"
        );
        until("the account is closed", || {
            !rig.service.done_with("/upload").is_empty()
        })
        .await;
        assert_eq!(
            rig.service.done_with("/upload")[0].sent.request_body_bytes,
            TOTAL,
            "{version:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_arrives_though_the_upload_was_not_read() {
    let rig = Rig::start();
    for version in ALL {
        for pieces in [1, 4, 256] {
            let mut client = Client::connect(&rig, version).await.unwrap();
            let body = upload(pieces, &Arc::default());
            let answer = within(client.send(Method::POST, "/ignore", &[], Some(body))).await;
            let answer =
                answer.unwrap_or_else(|error| panic!("{version:?}, {pieces} pieces: {error:#}"));
            assert_eq!(
                within(answer.body()).await.unwrap(),
                b"ignored",
                "{version:?}, {pieces} pieces"
            );
        }
    }
}

#[tokio::test]
async fn an_http3_upload_of_another_length_than_declared_is_an_error() {
    let rig = Rig::start();
    rig.service.open_gate();
    for (declared, pieces) in [(PIECE + 1, 1), (PIECE - 1, 1), (1, 0)] {
        let mut client = Client::connect(&rig, Version::HTTP_3).await.unwrap();
        let body = upload(pieces, &Arc::default());
        let length = [("content-length", declared.to_string())];
        let answer = within(client.send(Method::POST, "/upload", &length, Some(body))).await;
        let refused = match &answer {
            Ok(answer) => answer.status() == 400,
            Err(error) => error.to_string().contains("H3_MESSAGE_ERROR"),
        };
        assert!(
            refused,
            "declared {declared}, sent {pieces} pieces: {:?}",
            answer.map(|answer| answer.status())
        );
    }
}

#[tokio::test]
async fn an_http3_stream_that_ends_inside_a_frame_closes_its_connection() {
    let rig = Rig::start();
    rig.service.open_gate();
    let Client::H3(mut requests, connection) =
        Client::connect(&rig, Version::HTTP_3).await.unwrap()
    else {
        unreachable!()
    };
    // A whole request first, so that its head can be sent again byte by byte.
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    // HEADERS: GET, https, /, localhost by the static table, :authority literal.
    let block = [0x00, 0x00, 0xd1, 0xd7, 0xc1, 0x50, 0x01, b'a'];
    let mut wire = vec![0x01, u8::try_from(block.len()).unwrap()];
    wire.extend(block);
    // DATA of ten bytes, of which four come.
    wire.extend([0x00, 10, 1, 2, 3, 4]);
    send.write_all(&wire).await.unwrap();
    send.finish().unwrap();
    let closed = within(connection.closed()).await;
    assert!(
        matches!(
            closed,
            stoq::quic::ConnectionError::Closed { code: 0x106, .. }
        ),
        "{closed:?}"
    );
    let request = http::Request::get("https://localhost/hit")
        .body(())
        .unwrap();
    assert!(requests.send_request(request).await.is_err());
}
