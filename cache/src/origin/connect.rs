//! Opening a connection to one origin: name lookup, TCP to the first address that answers, TLS with ALPN.
//! Each step's time is kept for `check`. The whole of it is under one timeout, and dropping it closes everything.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::endpoint::Endpoint;

/// RFC 8305 section 5, "Connection Attempt Delay": the head start of an address before the next is tried beside it.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses of one name that are tried; a name with more is a list meant for many clients, not for one.
const ADDRESSES_MAX: usize = 8;

/// Why no connection came about. None of these put a byte of the request on the wire.
#[derive(Debug)]
pub(super) enum DialError {
    /// No address, or none that answers.
    Unreachable(String),
    /// An answer, but no TLS session with somebody trusted.
    Tls(String),
    /// Nothing within the connect timeout.
    Timeout(Duration),
}

/// A connection and how long its parts took.
pub(super) struct Dialed {
    pub(super) stream: OriginStream,
    /// The origin chose HTTP/2 by ALPN.
    pub(super) h2: bool,
    pub(super) remote: SocketAddr,
    pub(super) lookup: Duration,
    pub(super) connect: Duration,
    /// `None` for `http://`.
    pub(super) tls: Option<Duration>,
}

/// Connects to `endpoint` within `limit`.
pub(super) async fn dial(endpoint: &Endpoint, limit: Duration) -> Result<Dialed, DialError> {
    match tokio::time::timeout(limit, dial_unbounded(endpoint)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout(limit)),
    }
}

async fn dial_unbounded(endpoint: &Endpoint) -> Result<Dialed, DialError> {
    let started = Instant::now();
    let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(|error| {
            DialError::Unreachable(format!("name lookup of {}: {error}", endpoint.host))
        })?;
    let addresses = alternate(found);
    let looked_up = Instant::now();
    let (tcp, remote) = race(addresses).await.map_err(DialError::Unreachable)?;
    // A request head and its first body bytes are separate writes; Nagle would hold the second back.
    tcp.set_nodelay(true)
        .map_err(|error| DialError::Unreachable(error.to_string()))?;
    let connected = Instant::now();
    let (transport, h2, tls) = match &endpoint.tls {
        None => (Transport::Plain(tcp), false, None),
        Some(tls) => {
            let connector = TlsConnector::from(Arc::clone(&tls.config));
            let stream = connector
                .connect(tls.name.clone(), tcp)
                .await
                .map_err(|error| DialError::Tls(format!("TLS with {remote}: {error}")))?;
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            (
                Transport::Tls(Box::new(stream)),
                h2,
                Some(connected.elapsed()),
            )
        }
    };
    Ok(Dialed {
        stream: OriginStream {
            transport,
            read_bytes: Arc::default(),
        },
        h2,
        remote,
        lookup: looked_up - started,
        connect: connected - looked_up,
        tls,
    })
}

/// The addresses with the families taking turns, the resolver's first choice first (RFC 8305 section 4).
fn alternate(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut first = Vec::new();
    let mut second = Vec::new();
    for address in found {
        match first.first() {
            Some(SocketAddr::V4(_)) if address.is_ipv6() => second.push(address),
            Some(SocketAddr::V6(_)) if address.is_ipv4() => second.push(address),
            Some(_) | None => first.push(address),
        }
    }
    let mut second = second.into_iter();
    let mut addresses = Vec::new();
    for address in first {
        addresses.push(address);
        addresses.extend(second.next());
    }
    addresses.extend(second);
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

/// The first of `addresses` to answer; the next is tried when one fails or is slow.
async fn race(addresses: Vec<SocketAddr>) -> Result<(TcpStream, SocketAddr), String> {
    let mut rest = addresses.into_iter();
    let mut open = FuturesUnordered::new();
    let mut reason = "the name has no address".to_owned();
    let attempt = |address| async move { (address, TcpStream::connect(address).await) };
    loop {
        if let Some(address) = rest.next() {
            open.push(attempt(address));
        }
        let more = rest.len() > 0;
        tokio::select! {
            // Dropping the losers closes their sockets.
            answer = open.next() => match answer {
                Some((address, Ok(stream))) => return Ok((stream, address)),
                Some((address, Err(error))) => reason = format!("{address}: {error}"),
                None => return Err(reason),
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if more => {}
        }
    }
}

/// The bytes of one connection, counted as they arrive: whether a connection died before or after the first byte
/// of an answer decides if its request may be sent again.
pub(super) struct OriginStream {
    transport: Transport,
    read_bytes: Arc<AtomicU64>,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl OriginStream {
    /// Bytes read so far, TLS's own not among them.
    pub(super) fn read_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read_bytes)
    }

    /// The TLS version agreed on, for `check`.
    pub(super) fn tls_version(&self) -> Option<String> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => stream
                .get_ref()
                .1
                .protocol_version()
                .map(|version| format!("{version:?}")),
        }
    }
}

impl AsyncRead for OriginStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        let read = buf.filled().len().saturating_sub(before);
        if read > 0 {
            this.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for OriginStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_the_resolvers_first_choice_stays_first() {
        let list = ["[::1]:1", "[::2]:1", "1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1"];
        let sorted = alternate(list.iter().map(|text| text.parse().unwrap()));
        let expected = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "3.3.3.3:1"];
        assert_eq!(sorted, expected.map(|text| text.parse().unwrap()));
    }

    #[tokio::test]
    async fn a_second_address_is_used_when_the_first_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            taken.local_addr().unwrap()
        };
        let (_stream, address) = race(vec![closed, open]).await.unwrap();
        assert_eq!(address, open);
    }
}
