//! HTTP/3 by the `h3` crate over this crate's newtypes: both sides, with either body type.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

mod pair;

use std::future::poll_fn;

use bytes::{Buf, Bytes};
use h3::{client, error::StreamError, server};
use http::{Request, Response};
use pair::Pair;
use stoq::{
    h3::{BidiStream, Body, Connection, OpenStreams, Payload},
    quic::TransportConfig,
};

type ServerStream<B> = server::RequestStream<BidiStream<B>, B>;
type Requests = client::SendRequest<OpenStreams, Bytes>;

/// Serves every request of the connection with `answer`, one after the other.
async fn serve<B, F>(connection: stoq::quic::Connection, mut answer: F)
where
    B: Body + Send + 'static,
    F: AsyncFnMut(Request<()>, ServerStream<B>),
{
    let mut connection = server::Connection::<_, B>::new(Connection::new(connection))
        .await
        .unwrap();
    while let Ok(Some(resolver)) = connection.accept().await {
        let (request, stream) = resolver.resolve_request().await.unwrap();
        answer(request, stream).await;
    }
}

/// A client with its driver running beside `work`.
async fn with_client<T>(
    connection: stoq::quic::Connection,
    work: impl AsyncFnOnce(Requests) -> T,
) -> T {
    let (mut driver, requests) = client::new(Connection::new(connection)).await.unwrap();
    let driver = tokio::spawn(async move { poll_fn(|cx| driver.poll_close(cx)).await });
    let result = work(requests).await;
    driver.await.unwrap();
    result
}

async fn get(requests: &mut Requests, path: &str) -> Result<Vec<u8>, StreamError> {
    let request = Request::get(format!("https://localhost{path}"))
        .body(())
        .unwrap();
    let mut stream = requests.send_request(request).await?;
    stream.finish().await?;
    stream.recv_response().await?;
    let mut body = Vec::new();
    while let Some(mut chunk) = stream.recv_data().await? {
        while chunk.has_remaining() {
            body.extend_from_slice(chunk.chunk());
            let taken = chunk.chunk().len();
            chunk.advance(taken);
        }
    }
    Ok(body)
}

/// Bytes whose position shows in them, so that a lost or repeated piece is noticed.
fn pattern(len: usize) -> Bytes {
    (0..len)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect::<Vec<_>>()
        .into()
}

async fn bodies_arrive_whole<B: Body + From<Bytes> + Send + 'static>() {
    let pair = Pair::with(TransportConfig::default()).await;
    let server = serve::<B, _>(pair.server.clone(), async |request, mut stream| {
        stream.send_response(Response::new(())).await.unwrap();
        let len: usize = request
            .uri()
            .path()
            .trim_start_matches('/')
            .parse()
            .unwrap();
        let mut body = pattern(len);
        // Two pieces, so that a frame follows a frame; none of them empty, since h3 takes an empty DATA frame
        // for the end of the body.
        let first = body.split_to(len / 3);
        for piece in [first, body].into_iter().filter(|piece| !piece.is_empty()) {
            stream.send_data(piece.into()).await.unwrap();
        }
        stream.finish().await.unwrap();
    });
    let client = with_client(pair.client.clone(), async |mut requests| {
        for len in [0, 1, 1024, 4090, 4096, 20_000, 3_000_000] {
            let body = get(&mut requests, &format!("/{len}")).await.unwrap();
            assert!(body == pattern(len), "{len} bytes");
        }
    });
    tokio::join!(server, client);
}

#[tokio::test]
async fn copied_bodies_arrive_whole() {
    bodies_arrive_whole::<Bytes>().await;
}

#[tokio::test]
async fn handed_over_bodies_arrive_whole() {
    bodies_arrive_whole::<Payload>().await;
}

#[tokio::test]
async fn response_dropped_unfinished_is_an_error_at_the_client() {
    let pair = Pair::with(TransportConfig::default()).await;
    let server = serve::<Bytes, _>(pair.server.clone(), async |_, mut stream| {
        stream.send_response(Response::new(())).await.unwrap();
        stream.send_data(pattern(1000)).await.unwrap();
    });
    let client = with_client(pair.client.clone(), async |mut requests| {
        let error = get(&mut requests, "/").await.unwrap_err();
        assert!(
            format!("{error:?}").contains("H3_INTERNAL_ERROR"),
            "{error:?}"
        );
    });
    tokio::join!(server, client);
}

#[tokio::test]
async fn request_body_arrives_and_an_unread_one_is_stopped_without_error() {
    let pair = Pair::with(TransportConfig::default()).await;
    let server = serve::<Bytes, _>(pair.server.clone(), async |request, mut stream| {
        let mut received = 0;
        if request.uri().path() == "/read" {
            while let Some(chunk) = stream.recv_data().await.unwrap() {
                received += chunk.remaining();
            }
        }
        stream.send_response(Response::new(())).await.unwrap();
        stream.send_data(received.to_string().into()).await.unwrap();
        stream.finish().await.unwrap();
    });
    let client = with_client(pair.client.clone(), async |mut requests| {
        for (path, expected) in [("/read", "200000"), ("/ignored", "0")] {
            let request = Request::post(format!("https://localhost{path}"))
                .body(())
                .unwrap();
            let mut stream = requests.send_request(request).await.unwrap();
            stream.send_data(pattern(200_000)).await.unwrap();
            // The server may have stopped us by now; its answer is there all the same.
            let _ = stream.finish().await;
            assert!(stream.recv_response().await.unwrap().status().is_success());
            let mut body = stream.recv_data().await.unwrap().unwrap();
            assert_eq!(body.copy_to_bytes(body.remaining()), expected);
        }
    });
    tokio::join!(server, client);
}
