//! One request, timed in its parts, its body hashed and perhaps written to a file.

use std::io::Write;
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, StatusCode};
use serde::Serialize;

use crate::client::{Client, ClientError, Payload, Target, Version};

/// What one request brought.
#[derive(Debug, Clone)]
pub struct Got {
    /// The version spoken.
    pub version: Version,
    /// The address connected to.
    pub address: std::net::SocketAddr,
    /// The status.
    pub status: StatusCode,
    /// The fields.
    pub headers: HeaderMap,
    /// Bytes of the body, all of them.
    pub length: u64,
    /// BLAKE3 of the body.
    pub hash: blake3::Hash,
    /// How long the parts took.
    pub times: Times,
}

/// How long the parts of one request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The name lookup.
    pub dns: Duration,
    /// To the TCP connection; zero for HTTP/3.
    pub connect: Duration,
    /// The TLS or QUIC handshake.
    pub tls: Duration,
    /// From sending the request to the head of the answer.
    pub first_byte: Duration,
    /// Lookup, connect and handshake, and from sending the request to the last byte of the body. What this side spends
    /// on itself in between (reading certificate authorities, seeding) is no part of it.
    pub total: Duration,
}

/// Why there is no [`Got`].
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// No whole answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The body could not be written where it was to go.
    #[error("writing the body: {0}")]
    Write(#[source] std::io::Error),
}

/// Connects, sends `request`, and reads the answer to its end, writing the body to `output`. No bound on time: wrap
/// it in one. Holds no more of the body than one piece.
///
/// # Errors
/// No answer, not the whole of it, or `output` fails.
pub async fn get(
    target: &Target,
    version: Version,
    request: Request<Payload>,
    output: &mut dyn Write,
) -> Result<Got, GetError> {
    let client = Client::connect(target, version).await?;
    let sent = Instant::now();
    let mut answer = client.send(request).await?;
    let first_byte = sent.elapsed();
    let mut hasher = blake3::Hasher::new();
    while let Some(bytes) = answer.body.chunk().await? {
        hasher.update(&bytes);
        output.write_all(&bytes).map_err(GetError::Write)?;
    }
    let whole = sent.elapsed();
    output.flush().map_err(GetError::Write)?;
    let connected = client.times();
    let got = Got {
        version: client.version(),
        address: client.address(),
        status: answer.status,
        headers: answer.headers,
        length: answer.body.received(),
        hash: hasher.finalize(),
        times: Times {
            dns: connected.dns,
            connect: connected.connect,
            tls: connected.tls,
            first_byte,
            total: connected.dns + connected.connect + connected.tls + whole,
        },
    };
    client.close().await;
    Ok(got)
}

/// [`Got`] as JSON has it. Times in milliseconds.
#[derive(Debug, Serialize)]
pub struct Report {
    protocol: String,
    address: String,
    status: u16,
    headers: Vec<(String, String)>,
    body_bytes: u64,
    blake3: String,
    dns_ms: f64,
    connect_ms: f64,
    tls_ms: f64,
    first_byte_ms: f64,
    total_ms: f64,
}

impl From<&Got> for Report {
    fn from(got: &Got) -> Self {
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let headers = got
            .headers
            .iter()
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect();
        Self {
            protocol: got.version.to_string(),
            address: got.address.to_string(),
            status: got.status.as_u16(),
            headers,
            body_bytes: got.length,
            blake3: got.hash.to_hex().to_string(),
            dns_ms: ms(got.times.dns),
            connect_ms: ms(got.times.connect),
            tls_ms: ms(got.times.tls),
            first_byte_ms: ms(got.times.first_byte),
            total_ms: ms(got.times.total),
        }
    }
}
