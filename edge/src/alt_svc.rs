//! `Alt-Svc`: HTTP/3 is announced over HTTP/2 and HTTP/1.1 only while this edge's own HTTP/3 listener answers.
//!
//! An announcement for a port that does not answer is the worst of HTTP/3's outages: clients believe it for as long as
//! it says. So each address is probed from outside, by a client of our own that resolves nothing and trusts nothing but
//! a secret of this process; what the probes find decides between silence, `h3=":PORT"` and `clear`.
//!
//! [`Verdict`] is the state machine, without clock or socket; [`probe_forever`] drives it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use stoq::quic::{Endpoint, TlsClient, TransportConfig};

use crate::listen::Common;
use crate::service::RequestHead;
use crate::tls::crypto_provider;

/// How long clients remember the announcement, in seconds. An hour: what cannot be taken back (a machine that is gone
/// says no `clear`) ends by itself.
pub const MAX_AGE: u32 = 3600;
/// How often an address is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between probes that are answered. Default 10 s.
    pub interval: Duration,
    /// After one that was not; doubled each time, up to `interval`. Default 1 s.
    pub retry: Duration,
    /// For a whole probe. Default 3 s.
    pub timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            retry: Duration::from_secs(1),
            timeout: Duration::from_secs(3),
        }
    }
}

/// Failures in a row before an announcement is taken back: one may be a lost packet.
const FAILURES: u32 = 2;

const ASK: HeaderName = HeaderName::from_static("stoq-probe");

/// What is said of HTTP/3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announcement {
    /// Nothing is known yet.
    Nothing,
    /// The listener answers.
    Http3,
    /// It does not: what was said before no longer holds.
    Clear,
}

/// Decides from one probe's outcome after the other.
#[derive(Debug)]
pub struct Verdict {
    pace: Pace,
    answered_once: bool,
    failures: u32,
}

impl Verdict {
    /// Nothing is known yet.
    pub const fn new(pace: Pace) -> Self {
        Self {
            pace,
            answered_once: false,
            failures: 0,
        }
    }

    /// Takes a probe's outcome; what to say from now on, and how long until the next probe.
    pub fn after(&mut self, answered: bool) -> (Announcement, Duration) {
        if answered {
            self.answered_once = true;
            self.failures = 0;
            return (Announcement::Http3, self.pace.interval);
        }
        self.failures = self.failures.saturating_add(1);
        let announcement = if self.failures >= FAILURES {
            // Also when we never announced: a process before this one may have.
            Announcement::Clear
        } else if self.answered_once {
            Announcement::Http3
        } else {
            Announcement::Nothing
        };
        let wait = self.pace.retry * 2_u32.saturating_pow(self.failures.min(8) - 1);
        (announcement, wait.min(self.pace.interval))
    }
}

/// What one address says of HTTP/3 now; shared by its probe and its TCP listeners.
#[derive(Debug)]
pub struct AltSvc {
    announcement: AtomicU8,
    http3: HeaderValue,
}

impl AltSvc {
    /// Says nothing yet of HTTP/3 on `port`.
    pub fn new(port: u16) -> Arc<Self> {
        // The form of RFC 7838 3, with the host left out: it is the one the client is talking to.
        let text = Bytes::from(format!("h3=\":{port}\"; ma={MAX_AGE}"));
        let http3 =
            HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static("clear"));
        Arc::new(Self {
            announcement: AtomicU8::new(0),
            http3,
        })
    }

    /// Says this from now on.
    pub fn say(&self, announcement: Announcement) {
        let code = match announcement {
            Announcement::Nothing => 0,
            Announcement::Http3 => 1,
            Announcement::Clear => 2,
        };
        self.announcement.store(code, Ordering::Relaxed);
    }

    /// The field's value for a response, if there is one to send.
    pub fn value(&self) -> Option<HeaderValue> {
        match self.announcement.load(Ordering::Relaxed) {
            1 => Some(self.http3.clone()),
            2 => Some(HeaderValue::from_static("clear")),
            _ => None,
        }
    }
}

/// By what the edge knows its own probes, and a probe its own edge: two secrets of this process.
#[derive(Debug, Clone)]
pub struct ProbeToken {
    ask: HeaderValue,
    answer: HeaderValue,
}

impl ProbeToken {
    /// Fresh secrets.
    pub fn random() -> Self {
        Self {
            ask: secret(),
            answer: secret(),
        }
    }

    /// Whether this request is a probe of ours.
    pub(crate) fn is_in(&self, head: &RequestHead) -> bool {
        head.headers
            .get(&ASK)
            .is_some_and(|value| *value == self.ask)
    }

    /// The field that proves an answer to be ours.
    pub(crate) fn proof(&self) -> (HeaderName, HeaderValue) {
        (ASK, self.answer.clone())
    }
}

fn secret() -> HeaderValue {
    let mut bytes = [0_u8; 16];
    // Without randomness nothing else here would work either; a guessed probe learns only that we are here.
    let _ = crypto_provider().secure_random.fill(&mut bytes);
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("-"))
}

/// Probes `addr` until the drain begins, and lets `alt_svc` say what comes of it. From then on nothing is said.
///
/// # Errors
/// No socket for the probes, or a TLS configuration the library refuses.
pub async fn probe_forever(
    alt_svc: Arc<AltSvc>,
    addr: SocketAddr,
    common: &Common,
    pace: Pace,
) -> Result<(), ProbeError> {
    let Common { metrics, drain, .. } = common;
    let prober = Prober::new(addr, common.probe_token().as_ref().clone(), pace.timeout)?;
    let mut verdict = Verdict::new(pace);
    loop {
        let answered = tokio::select! {
            () = drain.begun() => break,
            outcome = tokio::time::timeout(pace.timeout, prober.probe()) => match outcome {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::warn!(%addr, %error, "our own HTTP/3 listener does not answer");
                    false
                }
                Err(_) => {
                    tracing::warn!(%addr, "our own HTTP/3 listener does not answer in time");
                    false
                }
            },
        };
        if answered {
            metrics.probes_answered.inc()
        } else {
            metrics.probes_failed.inc()
        };
        let (announcement, wait) = verdict.after(answered);
        alt_svc.say(announcement);
        tokio::select! {
            () = drain.begun() => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    alt_svc.say(Announcement::Nothing);
    Ok(())
}

/// Why a probe failed, or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No socket to probe from.
    #[error("no socket for probes: {0}")]
    Socket(#[from] std::io::Error),
    /// The TLS library refused the probe's configuration; a bug of ours.
    #[error("TLS configuration of probes: {0}")]
    Tls(String),
    /// No connection.
    #[error("no connection: {0}")]
    Connect(#[from] stoq::quic::ConnectError),
    /// HTTP/3 failed on it.
    #[error("HTTP/3: {0}")]
    Http3(String),
    /// Somebody else answered.
    #[error("the answer {status} is not this edge's own")]
    Foreign {
        /// Its status.
        status: StatusCode,
    },
}

struct Prober {
    endpoint: Endpoint,
    tls: TlsClient,
    target: SocketAddr,
    token: ProbeToken,
}

impl Prober {
    fn new(addr: SocketAddr, token: ProbeToken, timeout: Duration) -> Result<Self, ProbeError> {
        let (from, ip): (SocketAddr, IpAddr) = match addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => {
                (([0, 0, 0, 0], 0).into(), Ipv4Addr::LOCALHOST.into())
            }
            IpAddr::V6(ip) if ip.is_unspecified() => (
                (Ipv6Addr::UNSPECIFIED, 0).into(),
                Ipv6Addr::LOCALHOST.into(),
            ),
            IpAddr::V4(ip) => (([0, 0, 0, 0], 0).into(), ip.into()),
            IpAddr::V6(ip) => ((Ipv6Addr::UNSPECIFIED, 0).into(), ip.into()),
        };
        let transport = TransportConfig {
            idle_timeout: timeout,
            ..TransportConfig::default()
        };
        let endpoint = Endpoint::client(from, transport)?;
        let mut config = ClientConfig::builder_with_provider(crypto_provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| ProbeError::Tls(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ProvenByToken))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h3".to_vec()];
        let tls =
            TlsClient::new(Arc::new(config)).map_err(|error| ProbeError::Tls(error.to_string()))?;
        Ok(Self {
            endpoint,
            tls,
            target: SocketAddr::new(ip, addr.port()),
            token,
        })
    }

    async fn probe(&self) -> Result<(), ProbeError> {
        let http3 = |error: &dyn std::fmt::Display| ProbeError::Http3(error.to_string());
        let connection = self
            .endpoint
            .connect(self.target, "localhost", &self.tls)
            .await?;
        let adapted = stoq::h3::Connection::new(connection.clone());
        let (mut driver, mut requests) = h3::client::builder()
            .send_grease(false)
            .build::<_, _, Bytes>(adapted)
            .await
            .map_err(|error| http3(&error))?;
        let mut request = Request::new(());
        *request.uri_mut() = http::Uri::from_static("https://localhost/");
        request.headers_mut().insert(ASK, self.token.ask.clone());
        let exchange = async {
            let mut stream = requests
                .send_request(request)
                .await
                .map_err(|error| http3(&error))?;
            stream.finish().await.map_err(|error| http3(&error))?;
            stream.recv_response().await.map_err(|error| http3(&error))
        };
        let response = tokio::select! {
            response = exchange => response?,
            closed = std::future::poll_fn(|cx| driver.poll_close(cx)) => return Err(http3(&closed)),
        };
        connection.close(h3::error::Code::H3_NO_ERROR.value(), b"");
        match response.headers().get(&ASK) {
            Some(answer) if *answer == self.token.answer => Ok(()),
            _ => Err(ProbeError::Foreign {
                status: response.status(),
            }),
        }
    }
}

/// Takes any certificate: it is the answer's secret that shows whose listener this is, and which certificate it shows
/// for `localhost` is no matter of the probe's.
#[derive(Debug)]
struct ProvenByToken;

impl ServerCertVerifier for ProvenByToken {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &crypto_provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &crypto_provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(outcomes: &[bool]) -> Vec<Announcement> {
        let mut verdict = Verdict::new(Pace::default());
        outcomes
            .iter()
            .map(|answered| verdict.after(*answered).0)
            .collect()
    }

    #[test]
    fn http3_is_announced_after_an_answer_and_cleared_after_two_silences() {
        use Announcement::{Clear, Http3, Nothing};
        assert_eq!(said(&[true, true]), [Http3, Http3]);
        assert_eq!(said(&[true, false, true]), [Http3, Http3, Http3]);
        assert_eq!(
            said(&[true, false, false, false, true]),
            [Http3, Http3, Clear, Clear, Http3]
        );
        assert_eq!(
            said(&[false, false]),
            [Nothing, Clear],
            "an earlier process may have announced it"
        );
    }

    #[test]
    fn the_wait_is_bounded_both_ways() {
        let mut verdict = Verdict::new(Pace::default());
        let Pace {
            interval, retry, ..
        } = Pace::default();
        assert_eq!(verdict.after(true).1, interval);
        let waits: Vec<_> = (0..100).map(|_| verdict.after(false).1).collect();
        assert_eq!(waits[0], retry);
        assert!(waits.iter().all(|wait| (retry..=interval).contains(wait)));
    }

    #[test]
    fn the_field_says_what_holds() {
        let alt_svc = AltSvc::new(8443);
        assert_eq!(alt_svc.value(), None);
        alt_svc.say(Announcement::Http3);
        assert_eq!(alt_svc.value().unwrap(), "h3=\":8443\"; ma=3600");
        alt_svc.say(Announcement::Clear);
        assert_eq!(alt_svc.value().unwrap(), "clear");
    }
}
