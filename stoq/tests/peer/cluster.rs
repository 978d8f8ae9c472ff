//! A cluster for tests: a root made on the fly, nodes with any papers, handlers from closures.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use stoq::identity::{ClusterRoot, Identity, Role, Validity};
use stoq::peer::{Handler, IncomingRequest, Part, PeerInfo, PeerServer, RecvHalf, ServeConfig};
use stoq::pool::{Pool, PoolConfig};
use stoq::quic::{CidKeys, Endpoint, EndpointConfig, SocketGroup, SocketOptions, TransportConfig};
use tokio::task::JoinHandle;

/// Nothing in these tests takes this long; only a failure waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// Waits for a condition that another task brings about.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

pub(crate) fn year() -> Validity {
    Validity::starting(UnixTime::now(), ClusterRoot::IDENTITY_LIFETIME)
}

pub(crate) fn root(name: &str) -> ClusterRoot {
    ClusterRoot::generate(
        name,
        Validity::starting(UnixTime::now(), ClusterRoot::LIFETIME),
    )
    .unwrap()
}

pub(crate) fn node(root: &ClusterRoot, name: &str, roles: &[Role]) -> Identity {
    Identity::new(
        root.issue(name, roles, year()).unwrap(),
        root.certificate().clone(),
    )
    .unwrap()
}

/// A clock that tests set, in seconds from now.
#[derive(Debug, Default)]
pub(crate) struct Shifted(AtomicU64);

impl Shifted {
    pub(crate) fn forward(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}

impl TimeProvider for Shifted {
    fn current_time(&self) -> Option<UnixTime> {
        let now = UnixTime::now().as_secs() + self.0.load(Ordering::Relaxed);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now)))
    }
}

pub(crate) struct Act<F>(pub(crate) F);

impl<F, R> Handler for Act<F>
where
    F: Fn(IncomingRequest) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    fn handle<'a>(&'a self, _peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        Box::pin((self.0)(request))
    }
}

/// Says back what it hears.
pub(crate) fn echo() -> Arc<dyn Handler> {
    Arc::new(Act(|request: IncomingRequest| async move {
        let IncomingRequest {
            control,
            mut body,
            mut reply,
            ..
        } = request;
        if reply.head(control).await.is_err() {
            return;
        }
        while let Ok(part) = body.next().await {
            let sent = match part {
                Some(Part::Data(bytes)) => reply.data(bytes).await,
                Some(Part::Frame { kind, payload }) => reply.frame(kind, payload).await,
                Some(Part::Head(head)) => reply.head(head).await,
                None => {
                    let _ = reply.finish().await;
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }))
}

/// A node that serves. Stops when dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) peers: Arc<PeerServer>,
    pub(crate) endpoint: Endpoint,
    pub(crate) task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(identity: &Identity, handler: Arc<dyn Handler>) -> Self {
        Self::with(
            identity,
            handler,
            ServeConfig::default(),
            TransportConfig::default(),
            loopback(),
        )
    }

    pub(crate) fn with(
        identity: &Identity,
        handler: Arc<dyn Handler>,
        config: ServeConfig,
        transport: TransportConfig,
        addr: SocketAddr,
    ) -> Self {
        let mut endpoint = EndpointConfig::new(CidKeys::random());
        endpoint.server = Some(identity.server_tls().unwrap());
        endpoint.transport = transport;
        Self::on(endpoint, identity, handler, config, addr)
    }

    pub(crate) fn on(
        endpoint: EndpointConfig,
        identity: &Identity,
        handler: Arc<dyn Handler>,
        config: ServeConfig,
        addr: SocketAddr,
    ) -> Self {
        let group = SocketGroup::bind(addr, 1, &SocketOptions::default()).unwrap();
        let endpoint = Endpoint::new(group.take(0).unwrap(), endpoint).unwrap();
        let peers = Arc::new(PeerServer::new(
            endpoint.clone(),
            identity.clone(),
            handler,
            config,
        ));
        let serving = peers.clone();
        let task = tokio::spawn(async move { serving.serve().await });
        Self {
            addr: group.local_addr(),
            peers,
            endpoint,
            task,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        self.endpoint.close(0, b"");
    }
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn client() -> Endpoint {
    Endpoint::client(loopback(), TransportConfig::default()).unwrap()
}

pub(crate) fn pool(identity: &Identity) -> Pool {
    pool_with(
        identity,
        PoolConfig {
            seed: 1,
            ..PoolConfig::default()
        },
    )
}

pub(crate) fn pool_with(identity: &Identity, config: PoolConfig) -> Pool {
    Pool::new(client(), identity.clone(), config)
}

/// All body bytes, their number and BLAKE3; heads and messages are passed over.
pub(crate) async fn drain(
    recv: &mut RecvHalf,
) -> Result<(u64, blake3::Hash), stoq::peer::ExchangeError> {
    let (mut hasher, mut total) = (blake3::Hasher::new(), 0);
    while let Some(part) = recv.next().await? {
        if let Part::Data(bytes) = part {
            total += bytes.len() as u64;
            hasher.update(&bytes);
        }
    }
    Ok((total, hasher.finalize()))
}

/// Some bytes that are not all alike.
pub(crate) fn pattern(len: usize) -> Bytes {
    (0..=250u8).cycle().take(len).collect::<Vec<_>>().into()
}

pub(crate) fn counted(
    visit: impl Fn(&mut dyn FnMut(&'static str, &'static str, u64)),
    wanted: &str,
) -> u64 {
    let mut found = None;
    visit(&mut |name, _, value| {
        if name == wanted {
            found = Some(value);
        }
    });
    found.unwrap_or_else(|| panic!("no counter {wanted}"))
}

/// Takes any certificate.
#[derive(Debug)]
pub(crate) struct Anyone;

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls_pki_types::CertificateDer<'_>,
        _intermediates: &[rustls_pki_types::CertificateDer<'_>],
        _server_name: &rustls_pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &rustls_pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &rustls_pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ED25519]
    }
}
