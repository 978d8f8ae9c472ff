//! Connecting to an origin to see whether it is there: what `check` does short of asking for anything.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::client::OriginSite;
use super::connect::{DialError, dial};

/// What a probe of one origin found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The origin as configured.
    pub origin: String,
    /// What answered, or why nothing did.
    pub outcome: Result<Reached, ProbeError>,
}

/// An origin that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The address connected to.
    pub address: SocketAddr,
    /// Time of the name lookup.
    pub lookup: Duration,
    /// Time to the TCP connection.
    pub connect: Duration,
    /// Time of the TLS handshake; `None` for `http://`.
    pub tls: Option<Duration>,
    /// The TLS version; `None` for `http://`.
    pub tls_version: Option<String>,
    /// The origin chose HTTP/2.
    pub http2: bool,
}

/// Why an origin cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// No address, or none that accepts a connection.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// Somebody answers, but no TLS session comes about: certificate, name or version.
    #[error("{0}")]
    Tls(String),
    /// Nothing within the connect timeout.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

impl fmt::Display for Probe {
    /// One line, as `check` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Err(error) => write!(f, "{}: {error}", self.origin),
            Ok(reached) => {
                write!(
                    f,
                    "{}: {} in {:?}",
                    self.origin,
                    reached.address,
                    reached.lookup + reached.connect
                )?;
                if let (Some(time), Some(version)) = (reached.tls, &reached.tls_version) {
                    write!(f, ", {version} in {time:?}")?;
                }
                write!(f, ", {}", if reached.http2 { "HTTP/2" } else { "HTTP/1.1" })
            }
        }
    }
}

/// Connects to each origin of `site` in turn, TLS handshake included, and closes again. Sends no request. Takes at
/// most the site's connect timeout for each.
pub async fn probe(site: &OriginSite) -> Vec<Probe> {
    let mut found = Vec::with_capacity(site.endpoints.len());
    for endpoint in &site.endpoints {
        let outcome = match dial(endpoint, site.settings.connect_timeout).await {
            Ok(dialed) => Ok(Reached {
                address: dialed.remote,
                lookup: dialed.lookup,
                connect: dialed.connect,
                tls: dialed.tls,
                tls_version: dialed.stream.tls_version(),
                http2: dialed.h2,
            }),
            Err(DialError::Unreachable(text)) => Err(ProbeError::Unreachable(text)),
            Err(DialError::Tls(text)) => Err(ProbeError::Tls(text)),
            Err(DialError::Timeout(limit)) => Err(ProbeError::Timeout(limit)),
        };
        found.push(Probe {
            origin: endpoint.name.to_string(),
            outcome,
        });
    }
    found
}
