//! Requests to upstreams, and origins on loopback that do exactly what a script says.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::StreamExt;
use http::{Method, uri::Scheme};
use stoq_cache::key::CacheKey;
use stoq_cache::upstream::{BodyError, FetchBody, FetchRequest, FetchResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request for `path` at `www.example`, with `headers`.
pub(crate) fn request(
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
) -> FetchRequest {
    let mut fields = http::HeaderMap::new();
    for (name, value) in headers {
        fields.append(*name, value.parse().unwrap());
    }
    FetchRequest {
        method,
        scheme: Scheme::HTTP,
        authority: "www.example".to_owned(),
        path_and_query: path.parse().unwrap(),
        headers: fields,
        body: None,
        site: Arc::from("www.example"),
        key: CacheKey::of("www.example", "http", "www.example", path),
        held: None,
    }
}

pub(crate) fn get(path: &str) -> FetchRequest {
    request(Method::GET, path, &[])
}

/// The body to its end, or what broke it.
pub(crate) async fn body(response: FetchResponse) -> Result<Vec<u8>, BodyError> {
    let mut whole = Vec::new();
    match response.body {
        FetchBody::Empty => {}
        FetchBody::Stream(mut stream) => {
            while let Some(piece) = stream.next().await {
                whole.extend_from_slice(&piece?);
            }
            assert!(stream.next().await.is_none(), "nothing after the end");
        }
        FetchBody::Chunked(_) => panic!("origins have no chunks"),
    }
    Ok(whole)
}

/// A listener whose n-th connection is handled by `script(n, stream)`.
#[allow(dead_code, reason = "the tests of directories need no listener")]
pub(crate) async fn scripted<S, F>(script: S) -> SocketAddr
where
    S: Fn(usize, TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for n in 0.. {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            tokio::spawn(script(n, stream));
        }
    });
    address
}

/// Reads one request head; `None` if the connection ended instead.
#[allow(dead_code, reason = "the tests of directories need no listener")]
pub(crate) async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(text).unwrap())
}

/// Reads a request head and writes `answer`, whatever was asked.
#[allow(dead_code, reason = "the tests of directories need no listener")]
pub(crate) async fn answer(stream: &mut TcpStream, answer: impl AsRef<[u8]>) -> Option<String> {
    let asked = head(stream).await?;
    stream.write_all(answer.as_ref()).await.ok()?;
    Some(asked)
}
