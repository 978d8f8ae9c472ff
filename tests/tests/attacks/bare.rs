//! Clients that write their own bytes: what HTTP libraries refuse to send is what attackers send.
//!
//! Each asks one thing on a connection of its own and reads what comes until the answer or the connection ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use integration::{EdgeNode, Version};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use stoq::h3::{frame, qpack};
use stoq::quic::{Endpoint, TlsClient, TransportConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longest wait for an answer or for the end of a connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Got {
    /// The statuses of all heads, interim ones first; 0 for one that is neither 200 nor 400 over HTTP/2, whose other
    /// codes this client does not decode. Empty when the stream or the connection ended without one.
    pub(crate) statuses: Vec<u16>,
    /// Over HTTP/1.1 everything, else the bytes of DATA frames.
    pub(crate) bytes: Vec<u8>,
}

impl Got {
    pub(crate) fn is_ok(&self) -> bool {
        self.statuses.last() == Some(&200)
    }

    pub(crate) fn has(&self, text: &str) -> bool {
        self.bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    }

    /// What follows the heads.
    pub(crate) fn body(&self) -> &[u8] {
        let mut rest = &self.bytes[..];
        let interim = self.statuses.iter().filter(|status| **status < 200).count();
        for _ in 0..=interim {
            let end = rest.windows(4).position(|four| four == b"\r\n\r\n");
            if let (Some(end), true) = (end, rest.starts_with(b"HTTP/1.")) {
                rest = &rest[end + 4..];
            }
        }
        rest
    }
}

/// A GET of `path` with `fields`, as they are, from host `localhost`.
pub(crate) async fn get(
    edge: &EdgeNode,
    version: Version,
    path: &str,
    fields: &[(&str, &str)],
) -> Got {
    with_body(edge, version, path, fields, None).await
}

/// The same with a body whose length is not declared (over HTTP/1.1: chunked).
pub(crate) async fn with_body(
    edge: &EdgeNode,
    version: Version,
    path: &str,
    fields: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Got {
    if version == Version::Http1 {
        let mut request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n").into_bytes();
        for (name, value) in fields {
            request.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        match body {
            Some(body) => {
                request.extend(
                    format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len()).into_bytes(),
                );
                request.extend(body);
                request.extend(b"\r\n0\r\n\r\n");
            }
            None => request.extend(b"\r\n"),
        }
        return http1(edge.http(), &request).await;
    }
    let mut lines = vec![
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
    ];
    lines.extend(fields);
    lines_of(edge, version, &lines, body).await
}

/// A request of exactly these lines, pseudo-fields included, over HTTP/2 or HTTP/3.
pub(crate) async fn lines_of(
    edge: &EdgeNode,
    version: Version,
    lines: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Got {
    let asked = async {
        match version {
            Version::Http3 => http3(edge, lines, body).await,
            Version::Http2 | Version::Http1 => http2(edge, lines, body).await,
        }
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| panic!("{version:?}: neither an answer nor an end: {lines:?}"))
}

/// Writes `request` and reads to the end of the connection. A reset after an answer is an end too.
pub(crate) async fn http1(addr: SocketAddr, request: &[u8]) -> Got {
    let asked = async {
        let mut stream = TcpStream::connect(addr).await.expect("the edge listens");
        // Refused early, the rest of the request may meet a closed connection.
        let _sent = stream.write_all(request).await;
        let mut bytes = Vec::new();
        let _ended: io::Result<usize> = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8_lossy(&bytes);
        let statuses = text
            .match_indices("HTTP/1.1 ")
            .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok())
            .collect();
        Got { statuses, bytes }
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| {
            panic!(
                "the connection stays open: {:?}",
                String::from_utf8_lossy(request)
            )
        })
}

fn tls(edge: &EdgeNode, alpn: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(edge.ca()).expect("the CA is PEM"))
        .expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

async fn http3(edge: &EdgeNode, lines: &[(&str, &str)], body: Option<&[u8]>) -> Got {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = Endpoint::client(any, TransportConfig::default()).expect("an endpoint");
    let tls = TlsClient::new(tls(edge, b"h3")).expect("TLS for QUIC");
    let connection = endpoint
        .connect(edge.https(), "localhost", &tls)
        .await
        .expect("a connection");
    let mut control = connection.open_uni().await.expect("a control stream");
    control.write_all(&[0, 4, 0]).await.expect("settings");
    let section = qpack::section(lines.iter().map(|(name, value)| (*name, value.as_bytes())));
    let mut request = Vec::new();
    frame::put_head(&mut request, frame::HEADERS, section.len() as u64);
    request.extend(section);
    if let Some(body) = body {
        frame::put_head(&mut request, frame::DATA, body.len() as u64);
        request.extend(body);
    }
    let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
    let _sent = send.write_all(&request).await;
    let _finished = send.finish();
    let mut got = Got::default();
    // A reset stream or a closed connection is an answer here.
    let Ok(bytes) = recv.read_to_end(1 << 20).await else {
        return got;
    };
    let mut rest = &bytes[..];
    while let Some((kind, len, used)) = frame::head(rest) {
        let end = used + usize::try_from(len).expect("a short frame");
        let payload = &rest[used..end];
        if kind == frame::HEADERS {
            got.statuses.push(status(payload));
        } else if kind == frame::DATA {
            got.bytes.extend(payload);
        }
        rest = &rest[end..];
    }
    got
}

fn status(section: &[u8]) -> u16 {
    let mut section = qpack::Section::new(section).expect("a field section");
    let mut scratch = Vec::new();
    let line = section.next_line().expect("a line").expect("a status");
    let value = line.value.bytes(&mut scratch).expect("a value");
    std::str::from_utf8(value)
        .expect("digits")
        .parse()
        .expect("a status")
}

/// A frame of HTTP/2.
fn h2_frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("a short frame");
    let mut out = vec![0];
    out.extend(len.to_be_bytes());
    out.extend([kind, flags, 0, 0, 0, stream]);
    out.extend(payload);
    out
}

async fn http2(edge: &EdgeNode, lines: &[(&str, &str)], body: Option<&[u8]>) -> Got {
    let stream = TcpStream::connect(edge.https())
        .await
        .expect("the edge listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = TlsConnector::from(tls(edge, b"h2"));
    let mut stream = connector.connect(name, stream).await.expect("a handshake");
    let mut block = Vec::new();
    for (name, value) in lines {
        // Literal, not indexed, with a new name, nothing compressed (RFC 7541 section 6.2.2).
        block.push(0);
        for text in [name, value] {
            let len = text.len();
            if len < 127 {
                block.push(u8::try_from(len).expect("below 127"));
            } else {
                let mut rest = len - 127;
                block.push(127);
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128 + 128).expect("a byte"));
                    rest /= 128;
                }
                block.push(u8::try_from(rest).expect("a byte"));
            }
            block.extend(text.as_bytes());
        }
    }
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    request.extend(h2_frame(4, 0, 0, &[]));
    request.extend(h2_frame(1, if body.is_some() { 4 } else { 5 }, 1, &block));
    if let Some(body) = body {
        request.extend(h2_frame(0, 1, 1, body));
    }
    let _sent = stream.write_all(&request).await;
    let _flushed = stream.flush().await;
    let mut got = Got::default();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return got;
        }
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; len];
        if stream.read_exact(&mut payload).await.is_err() {
            return got;
        }
        let (kind, flags, stream_id) = (head[3], head[4], head[8]);
        match (kind, stream_id) {
            (0, 1) => got.bytes.extend(&payload),
            (1, 1) => {
                // The static table's lines for a status, after updates of the table's size (RFC 7541 appendix A).
                let first = payload.iter().find(|byte| **byte & 0xe0 != 0x20);
                got.statuses.push(match first {
                    Some(0x88) => 200,
                    Some(0x8c) => 400,
                    _ => 0,
                });
            }
            (3, 1) | (7, _) => return got,
            _ => {}
        }
        if stream_id == 1 && kind < 2 && flags & 1 != 0 {
            return got;
        }
    }
}
