//! One origin server of a site as the configuration names it, resolved once and shared by all workers:
//! where it is, what `Host` and SNI it is addressed by, whom its certificate must come from, how many requests
//! it may have open at a time, and whether it failed to answer a moment ago.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Uri;
use http::header::HeaderValue;
use http::uri::{Authority, Scheme};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// One origin as the operator wrote it.
#[derive(Debug, Clone)]
pub struct OriginSpec {
    /// `http://host[:port]` or `https://host[:port]`: no path, no user name. Default ports 80 and 443.
    pub url: String,
    /// The `Host` (HTTP/2: `:authority`) sent to the origin. `None`: the one the client asked for is passed on.
    pub host: Option<String>,
    /// The TLS server name sent and verified. `None`: the URL's host. Meaningless for `http://`.
    pub sni: Option<String>,
    /// Who may vouch for the origin's certificate. Meaningless for `http://`.
    pub roots: Roots,
}

impl OriginSpec {
    /// An origin at `url` with the client's `Host` passed on and certificates checked against the system's roots.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            host: None,
            sni: None,
            roots: Roots::System,
        }
    }
}

/// The certificate authorities an `https://` origin is checked against. There is no way to switch the check off.
#[derive(Debug, Clone)]
pub enum Roots {
    /// The system's store, read once per process: a change there needs a restart.
    System,
    /// The certificates in a PEM file, and no others.
    File(PathBuf),
    /// The certificates in this PEM text, and no others.
    Pem(Vec<u8>),
}

/// Time and size limits of one site's traffic to its origins.
#[derive(Debug, Clone)]
pub struct OriginSettings {
    /// Name lookup, TCP and TLS handshake together, for one origin. Default 3 s.
    pub connect_timeout: Duration,
    /// From the request being sent (its body included, time spent waiting for the client's bytes excluded) to the
    /// response head. Default 30 s.
    pub head_timeout: Duration,
    /// The longest silence inside a body that somebody is waiting for. Default 30 s.
    pub between_bytes_timeout: Duration,
    /// How long an unused connection is kept. Default 4 s: many servers close after 5, and a pool that holds on
    /// for longer than its origin sees failures that are nobody's fault.
    pub idle: Duration,
    /// Unused connections kept per worker and origin. Default 32; the next one is closed.
    pub idle_max: usize,
    /// Requests open to one origin at a time, over all workers, from before the connect to the last body byte. An
    /// HTTP/1.1 request is a connection, so connections are at most this plus `idle_max` per worker. Default 1,024.
    pub requests_max: usize,
    /// How long a request waits for one of these places. Default 2 s, then `TooMany`.
    pub wait: Duration,
    /// Requests waiting so at a time, over all workers; the next is `TooMany` at once. Default 4,096.
    pub waiting_max: usize,
    /// Streams of one HTTP/2 connection; the next request opens another. Default 100, what servers usually allow.
    pub streams_max: usize,
    /// Largest response head. Default 64 KiB; a larger one is a protocol error.
    pub header_bytes_max: usize,
    /// How long an origin that could not be reached is asked only after the others. Default 2 s.
    pub hold_down: Duration,
}

impl Default for OriginSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            head_timeout: Duration::from_secs(30),
            between_bytes_timeout: Duration::from_secs(30),
            idle: Duration::from_secs(4),
            idle_max: 32,
            requests_max: 1024,
            wait: Duration::from_secs(2),
            waiting_max: 4096,
            streams_max: 100,
            header_bytes_max: 64 * 1024,
            hold_down: Duration::from_secs(2),
        }
    }
}

/// Why an [`OriginSpec`] cannot be used. All of it is the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum OriginConfigError {
    /// A site has no origin at all.
    #[error("a site needs at least one origin")]
    Empty,
    /// Not a URL of the two schemes, or with parts that mean nothing here.
    #[error("origin `{url}`: {reason}")]
    Url {
        /// As written.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `host` is not an authority.
    #[error("origin `{url}`: host `{host}` is not a host name with an optional port")]
    Host {
        /// As written.
        url: String,
        /// As written.
        host: String,
    },
    /// `sni` is neither a DNS name nor an IP address.
    #[error("origin `{url}`: server name `{sni}` is neither a DNS name nor an IP address")]
    Sni {
        /// As written.
        url: String,
        /// As written, or taken from the URL.
        sni: String,
    },
    /// The certificate authorities could not be read, or there are none in the file.
    #[error("origin `{url}`: certificate authorities: {reason}")]
    Roots {
        /// As written.
        url: String,
        /// What the file, the parser or the system said.
        reason: String,
    },
}

/// One resolved origin. Shared by all workers of the process.
pub(super) struct Endpoint {
    /// The URL without a trailing slash; what errors and logs call it.
    pub(super) name: Arc<str>,
    pub(super) scheme: Scheme,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// `None`: the client's.
    host_override: Option<(Authority, HeaderValue)>,
    pub(super) tls: Option<EndpointTls>,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    failed_until: Mutex<Option<Instant>>,
}

pub(super) struct EndpointTls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("name", &self.name)
            .field("free", &self.places.available_permits())
            .finish()
    }
}

/// At the bound, and either nobody left in time or too many wait already.
#[derive(Debug)]
pub(super) struct Full;

impl Endpoint {
    pub(super) fn resolve(
        spec: &OriginSpec,
        settings: &OriginSettings,
    ) -> Result<Self, OriginConfigError> {
        let bad = |reason: &str| OriginConfigError::Url {
            url: spec.url.clone(),
            reason: reason.to_owned(),
        };
        let uri: Uri = spec
            .url
            .parse()
            .map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
        let scheme = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => scheme.clone(),
            Some(scheme) => {
                return Err(bad(&format!(
                    "scheme `{scheme}` is neither `http` nor `https`"
                )));
            }
            None => return Err(bad("no scheme: write `http://…` or `https://…`")),
        };
        let authority = uri.authority().ok_or_else(|| bad("no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("a user name in an origin's URL is not supported"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad(
                "an origin has no path: the client's path is asked for as it is",
            ));
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        if host.is_empty() {
            return Err(bad("no host"));
        }
        let secure = scheme == Scheme::HTTPS;
        let port = match authority.port() {
            None if secure => 443,
            None => 80,
            Some(port) if port.as_u16() == 0 => return Err(bad("port 0 cannot be connected to")),
            Some(port) => port.as_u16(),
        };
        let host_override = match &spec.host {
            None => None,
            Some(host) => Some(authority_of(host).ok_or_else(|| OriginConfigError::Host {
                url: spec.url.clone(),
                host: host.clone(),
            })?),
        };
        let tls = if secure {
            Some(EndpointTls::resolve(spec, &host)?)
        } else {
            None
        };
        Ok(Self {
            name: Arc::from(spec.url.trim_end_matches('/')),
            scheme,
            host,
            port,
            host_override,
            tls,
            places: Arc::new(Semaphore::new(
                settings.requests_max.min(Semaphore::MAX_PERMITS),
            )),
            waiting: AtomicUsize::new(0),
            failed_until: Mutex::new(None),
        })
    }

    /// What this origin is addressed by when the client asked for `authority`. `None`: that is no valid authority.
    pub(super) fn host_for(&self, authority: &str) -> Option<(Authority, HeaderValue)> {
        self.host_override
            .clone()
            .or_else(|| authority_of(authority))
    }

    /// Takes one of the origin's places; waits for it at most `settings.wait`. Cancel safe: a waiter that is
    /// dropped leaves the queue.
    pub(super) async fn admit(
        &self,
        settings: &OriginSettings,
    ) -> Result<OwnedSemaphorePermit, Full> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(permit);
        }
        let _waiting = Waiting::enter(&self.waiting, settings.waiting_max).ok_or(Full)?;
        match tokio::time::timeout(settings.wait, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed, so the inner error does not arise; it would mean the same.
            Ok(Err(_)) | Err(_) => Err(Full),
        }
    }

    /// Whether a connect failed so short a time ago that others are asked first.
    pub(super) fn held_down(&self, now: Instant) -> bool {
        self.failed_until.lock().is_some_and(|until| now < until)
    }

    pub(super) fn connect_failed(&self, until: Instant) {
        *self.failed_until.lock() = Some(until);
    }

    pub(super) fn connect_succeeded(&self) {
        *self.failed_until.lock() = None;
    }
}

impl EndpointTls {
    fn resolve(spec: &OriginSpec, host: &str) -> Result<Self, OriginConfigError> {
        let bad = |reason: String| OriginConfigError::Roots {
            url: spec.url.clone(),
            reason,
        };
        let roots = match &spec.roots {
            Roots::System => system_roots().map_err(bad)?,
            Roots::File(path) => {
                let pem = std::fs::read(path)
                    .map_err(|error| bad(format!("{}: {error}", path.display())))?;
                parse_roots(&pem).map_err(|reason| bad(format!("{}: {reason}", path.display())))?
            }
            Roots::Pem(pem) => parse_roots(pem).map_err(bad)?,
        };
        let wanted = spec.sni.as_deref().unwrap_or(host);
        let name = ServerName::try_from(wanted.to_owned()).map_err(|_| OriginConfigError::Sni {
            url: spec.url.clone(),
            sni: wanted.to_owned(),
        })?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }
}

/// A place among those who wait, given back on drop.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, max: usize) -> Option<Self> {
        let entered = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            (n < max).then_some(n + 1)
        });
        entered.is_ok().then(|| Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn authority_of(text: &str) -> Option<(Authority, HeaderValue)> {
    let authority: Authority = text.parse().ok()?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return None;
    }
    let value = HeaderValue::from_str(text).ok()?;
    Some((authority, value))
}

fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static SYSTEM: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    SYSTEM
        .get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut store = RootCertStore::empty();
            // Single odd certificates in a system's store are common and no reason to refuse the others.
            let (added, _) = store.add_parsable_certificates(found.certs);
            if added == 0 {
                let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
                return Err(format!(
                    "the system's store has none that can be used ({})",
                    reasons.join("; ")
                ));
            }
            Ok(Arc::new(store))
        })
        .clone()
}

fn parse_roots(pem: &[u8]) -> Result<Arc<RootCertStore>, String> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        store.add(certificate).map_err(|error| error.to_string())?;
    }
    if store.is_empty() {
        return Err("no certificate in it".to_owned());
    }
    Ok(Arc::new(store))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        Endpoint::resolve(&OriginSpec::new(url), &OriginSettings::default())
            .expect_err(url)
            .to_string()
    }

    #[test]
    fn urls_that_mean_nothing_as_an_origin_are_refused_with_the_reason() {
        assert!(
            refusal("127.0.0.1:80").contains("no scheme"),
            "{}",
            refusal("127.0.0.1:80")
        );
        assert!(refusal("ftp://a").contains("neither"));
        assert!(refusal("http://a/base").contains("no path"));
        assert!(refusal("http://a?q").contains("no path"));
        assert!(refusal("http://me@a").contains("user name"));
        assert!(refusal("http://a:0").contains("port 0"));
    }

    #[test]
    fn ports_default_by_scheme_and_brackets_are_taken_off() {
        let settings = OriginSettings::default();
        let plain = Endpoint::resolve(&OriginSpec::new("http://[::1]"), &settings).unwrap();
        assert_eq!((plain.host.as_str(), plain.port), ("::1", 80));
        let plain =
            Endpoint::resolve(&OriginSpec::new("http://a.example:8000/"), &settings).unwrap();
        assert_eq!((&*plain.name, plain.port), ("http://a.example:8000", 8000));
    }

    #[test]
    fn an_empty_file_of_authorities_is_refused() {
        let spec = OriginSpec {
            roots: Roots::Pem(b"nothing".to_vec()),
            ..OriginSpec::new("https://a")
        };
        let error = Endpoint::resolve(&spec, &OriginSettings::default()).expect_err("no roots");
        assert!(error.to_string().contains("no certificate"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_bound_a_request_waits_its_time_and_no_more_than_the_allowed_number_wait() {
        let settings = OriginSettings {
            requests_max: 1,
            waiting_max: 1,
            ..OriginSettings::default()
        };
        let endpoint = Endpoint::resolve(&OriginSpec::new("http://a"), &settings).unwrap();
        let held = endpoint.admit(&settings).await.unwrap();
        let started = Instant::now();
        let (first, second) = tokio::join!(endpoint.admit(&settings), endpoint.admit(&settings));
        assert!(first.is_err() && second.is_err());
        assert_eq!(started.elapsed(), settings.wait);
        drop(held);
        assert!(endpoint.admit(&settings).await.is_ok());
        assert_eq!(endpoint.waiting.load(Ordering::Relaxed), 0);
    }
}
