//! Certificates and TLS configurations: the same for every contender but for nodes, which bring their own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use stoq::early;
use stoq::identity::{ClusterRoot, Identity, Role, Validity};

use crate::work::{Tickets, Work};

/// The name servers are asked for.
pub(crate) const NAME: &str = "localhost";

/// Keys and certificates of all runs.
pub(crate) struct Papers {
    server: Signed,
    client: Signed,
    nodes: [Identity; 2],
}

struct Signed {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Signed {
    fn new() -> Self {
        let issued = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der());
        Self {
            certificate: issued.cert.der().clone(),
            key: PrivateKeyDer::Pkcs8(key),
        }
    }

    fn as_root(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }
}

/// As nodes have it: AES-128 first.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
    ];
    Arc::new(provider)
}

/// What both ends of one run show and trust.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    /// The node that answers, and the one that asks.
    pub(crate) nodes: [Identity; 2],
    sessions: Arc<Sessions>,
    /// The same of the node that answers.
    pub(crate) tickets: Arc<early::Tickets>,
}

impl Tls {
    /// How many connections were resumed, so that a row says "resumed" only of what was.
    pub(crate) fn resumed(&self) -> usize {
        let of_node = self.tickets.counters().tickets_used.get();
        self.sessions.taken.load(Ordering::Relaxed) + usize::try_from(of_node).unwrap()
    }
}

impl Papers {
    pub(crate) fn new() -> Self {
        let valid = |length| Validity::starting(UnixTime::now(), length);
        let root = ClusterRoot::generate("bench", valid(ClusterRoot::LIFETIME)).unwrap();
        let node = |name: &str, role| {
            let file = root
                .issue(name, &[role], valid(ClusterRoot::IDENTITY_LIFETIME))
                .unwrap();
            Identity::new(file, root.certificate().clone()).unwrap()
        };
        Self {
            server: Signed::new(),
            client: Signed::new(),
            nodes: [node("shield-1", Role::Shield), node("edge-1", Role::Edge)],
        }
    }

    /// Configurations for one run, without any ticket yet.
    pub(crate) fn tls(&self, work: Work) -> Tls {
        let sessions = Arc::new(Sessions {
            cache: ServerSessionMemoryCache::new(10_000),
            taken: AtomicUsize::new(0),
        });
        let server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap();
        let server = if work.is_mutual() {
            let roots = Arc::new(self.client.as_root());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            server.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            server.with_no_client_auth()
        };
        let mut server = server
            .with_single_cert(
                vec![self.server.certificate.clone()],
                self.server.key.clone_key(),
            )
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(self.server.as_root());
        let mut client = if work.is_mutual() {
            let chain = vec![self.client.certificate.clone()];
            client
                .with_client_auth_cert(chain, self.client.key.clone_key())
                .unwrap()
        } else {
            client.with_no_client_auth()
        };
        server.alpn_protocols = vec![b"bench".to_vec()];
        client.alpn_protocols = vec![b"bench".to_vec()];
        server.session_storage = sessions.clone();
        if work.tickets() == Tickets::None {
            server.send_tls13_tickets = 0;
            client.resumption = Resumption::disabled();
        }
        if work.tickets() == Tickets::Early {
            server.max_early_data_size = u32::MAX;
            client.enable_early_data = true;
        }
        Tls {
            server: Arc::new(server),
            client: Arc::new(client),
            nodes: self.nodes.clone(),
            sessions,
            tickets: early::Tickets::new(&early::TicketConfig::default()),
        }
    }
}

/// A server's sessions, with a count of those that were resumed.
pub(crate) struct Sessions {
    cache: Arc<ServerSessionMemoryCache>,
    taken: AtomicUsize,
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.cache.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.cache.get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let taken = self.cache.take(key)?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        Some(taken)
    }

    fn can_cache(&self) -> bool {
        self.cache.can_cache()
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}
