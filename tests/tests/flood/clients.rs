//! HTTP/3 clients that choose their own address: those that stay and download at a pace, and those that come once.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::{Buf as _, Bytes};
use h3::client::{RequestStream, SendRequest};
use http::Request;
use stoq::h3::{OpenStreams, RecvStream, SendStream};
use stoq::quic::{Connection, Endpoint, TlsClient, TransportConfig};
use tokio::task::JoinHandle;

use crate::edge::{Edge, LARGE, SMALL, SMALL_BYTES};

/// Where the edge is, and how it is believed.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) tls: TlsClient,
    pub(crate) large: Bytes,
}

impl Server {
    pub(crate) fn of(edge: &Edge) -> Self {
        Self {
            addr: edge.addr,
            tls: edge.tls.clone(),
            large: edge.large.clone(),
        }
    }
}

/// A connection with HTTP/3 on it.
pub(crate) struct Client {
    requests: SendRequest<OpenStreams, Bytes>,
    pub(crate) endpoint: Endpoint,
    pub(crate) connection: Connection,
    driver: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    pub(crate) async fn connect(server: &Server, from: IpAddr) -> anyhow::Result<Self> {
        let endpoint = Endpoint::client((from, 0).into(), TransportConfig::default())?;
        let connection = endpoint
            .connect(server.addr, "localhost", &server.tls)
            .await?;
        let (mut driver, requests) = h3::client::builder()
            .send_grease(false)
            .build::<_, _, Bytes>(stoq::h3::Connection::new(connection.clone()))
            .await?;
        let driver = tokio::spawn(async move {
            driver.wait_idle().await;
        });
        Ok(Self {
            requests,
            endpoint,
            connection,
            driver,
        })
    }

    /// Asks for `path`, and waits for the head of a good answer.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<Body> {
        let request = Request::get(format!("https://localhost{path}")).body(())?;
        let (mut send, mut receive) = self.requests.send_request(request).await?.split();
        send.finish().await?;
        let response = receive.recv_response().await?;
        ensure!(response.status() == 200, "{}", response.status());
        Ok(Body {
            receive,
            _send: send,
        })
    }
}

/// The body of an answer. Dropped before its end it is cancelled.
pub(crate) struct Body {
    receive: RequestStream<RecvStream, Bytes>,
    _send: RequestStream<SendStream<Bytes>, Bytes>,
}

impl Body {
    /// Its next bytes; none at its end.
    pub(crate) async fn piece(&mut self) -> anyhow::Result<Option<Bytes>> {
        let data = self.receive.recv_data().await?;
        Ok(data.map(|mut data| data.copy_to_bytes(data.remaining())))
    }
}

/// Comes once: handshake, and a small object, within `limit`. How long it took; none where it did not get in.
pub(crate) async fn visit(server: &Server, from: IpAddr, limit: Duration) -> Option<Duration> {
    let begun = Instant::now();
    let visit = async {
        let mut client = Client::connect(server, from).await?;
        let mut body = client.get(SMALL).await?;
        let mut got = Vec::new();
        while let Some(piece) = body.piece().await? {
            got.extend_from_slice(&piece);
        }
        ensure!(
            got == server.large[..SMALL_BYTES],
            "other bytes than the origin's"
        );
        let took = begun.elapsed();
        client.connection.close(0x100, b"");
        anyhow::Ok(took)
    };
    match tokio::time::timeout(limit, visit).await {
        Ok(Ok(took)) => Some(took),
        Ok(Err(error)) => {
            // Bytes that are wrong are no lateness.
            assert!(!error.to_string().contains("other bytes"), "{error:#}");
            None
        }
        Err(_) => None,
    }
}

/// A client is not held back for less than this.
const GRAIN: Duration = Duration::from_millis(2);

/// A client that stays.
#[derive(Debug, Default)]
pub(crate) struct Download {
    /// Bytes so far, each compared with the origin's.
    pub(crate) bytes: AtomicU64,
    pub(crate) stop: AtomicBool,
}

/// Downloads the same object again and again on one connection, at `rate` bytes a second, until it is told to stop.
///
/// # Errors
/// The connection broke, or a byte was not the origin's.
pub(crate) async fn stay(
    server: Server,
    from: IpAddr,
    rate: u64,
    download: Arc<Download>,
) -> anyhow::Result<()> {
    let mut client = Client::connect(&server, from).await.context("at first")?;
    let begun = Instant::now();
    let mut received: u64 = 0;
    while !download.stop.load(Ordering::Relaxed) {
        let (mut at, mut body) = (0, client.get(LARGE).await?);
        while let Some(piece) = body.piece().await? {
            let expected = server.large.get(at..at + piece.len());
            ensure!(
                expected == Some(&piece),
                "other bytes than the origin's at {at}"
            );
            at += piece.len();
            let bytes = u64::try_from(piece.len())?;
            received += bytes;
            download.bytes.fetch_add(bytes, Ordering::Relaxed);
            if download.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            // What was late is not caught up with beyond a tenth of a second.
            let due = Duration::from_micros(received * 1_000_000 / rate);
            let now = begun.elapsed();
            if now > due + Duration::from_millis(100) {
                received = u64::try_from(now.as_micros())? * rate / 1_000_000;
            }
            // A timer of a millisecond's grain makes even no time at all wait for the next one: whoever slept after each packet would never be at his pace.
            if let Some(ahead) = due.checked_sub(now).filter(|ahead| *ahead >= GRAIN) {
                tokio::time::sleep(ahead).await;
            }
        }
        ensure!(at == server.large.len(), "a short body: {at}");
    }
    Ok(())
}
