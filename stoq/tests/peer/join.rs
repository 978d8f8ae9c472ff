//! Machines without papers get them, once and in time, and from nobody but the desk of their token.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use parking_lot::Mutex;
use stoq::identity::{
    ALPN, AuditEvent, AuditSink, AuditWhat, ClusterRoot, Identity, IssueLog, NodeId, Registrar,
    Role, SERVER_NAME,
};
use stoq::join::{Desk, DeskConfig, JoinConfig, JoinError, Joined, Token, Wish, join};
use stoq::quic::{
    CidKeys, ConnectionError, Endpoint, EndpointConfig, SocketGroup, SocketOptions, TlsClient,
    TransportConfig,
};
use stoq::wire::CloseCode;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::{
    Server, Shifted, client, drain, echo, loopback, node, pool, root, soon, until,
};

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<AuditEvent>>);

impl AuditSink for Heard {
    fn record(&self, event: &AuditEvent) {
        self.0.lock().push(event.clone());
    }
}

/// A desk that is open. Closed when dropped.
struct Open {
    desk: Desk,
    addr: SocketAddr,
    endpoint: Endpoint,
    task: JoinHandle<()>,
    heard: Arc<Heard>,
    clock: Arc<Shifted>,
}

impl Open {
    fn of(root: ClusterRoot, log: &Path) -> Self {
        let (heard, clock) = (Arc::new(Heard::default()), Arc::new(Shifted::default()));
        let config = DeskConfig {
            patience: Duration::from_millis(500),
            clock: clock.clone(),
            audit: heard.clone(),
        };
        let desk = Desk::new(Registrar::open(root, log).unwrap(), config);
        let group = SocketGroup::bind(loopback(), 1, &SocketOptions::default()).unwrap();
        let mut config = EndpointConfig::new(CidKeys::random());
        config.server = Some(desk.server_tls().unwrap());
        let endpoint = Endpoint::new(group.take(0).unwrap(), config).unwrap();
        let (serving, transport) = (desk.clone(), endpoint.clone());
        let task = tokio::spawn(async move { serving.serve(&transport).await });
        Self {
            desk,
            addr: group.local_addr(),
            endpoint,
            task,
            heard,
            clock,
        }
    }

    fn token(&self, name: &str, role: Role) -> Token {
        let minute = Duration::from_secs(60);
        self.desk
            .token(Wish::new(name, &[role]), minute, self.addr)
            .unwrap()
    }

    fn refusals(&self) -> Vec<AuditWhat> {
        let events = self.heard.0.lock();
        let whats = events.iter().map(|event| event.what);
        whats.filter(|what| *what != AuditWhat::Joined).collect()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
        self.endpoint.close(0, b"");
    }
}

async fn ask(token: &Token) -> Result<Joined, JoinError> {
    let endpoint = client();
    soon("join", join(&endpoint, token, &JoinConfig::default())).await
}

fn refused(result: Result<Joined, JoinError>) -> CloseCode {
    match result {
        Err(JoinError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

/// A root that can be taken up again.
fn copy(root: &ClusterRoot) -> ClusterRoot {
    ClusterRoot::from_pem(&root.to_pem_key(), &root.to_pem_cert()).unwrap()
}

#[tokio::test]
async fn machine_with_a_token_becomes_a_node_of_the_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("issued.log");
    let root = root("demo");
    let open = Open::of(copy(&root), &log);
    // As text, the way an operator carries it.
    let token: Token = open
        .token("edge-7", Role::Edge)
        .to_string()
        .parse()
        .unwrap();
    let mut enrolled = open.desk.last_enrolled();
    let Joined {
        file, root: found, ..
    } = ask(&token).await.unwrap();
    assert_eq!(found.der(), root.certificate().der());
    let confirmation = enrolled.wait_for(|last| last.as_ref().is_some_and(|last| last.confirmed));
    let confirmed = soon("confirmation", confirmation).await.unwrap();
    let confirmed = confirmed.clone().unwrap();
    assert_eq!((&*confirmed.node, confirmed.token), ("edge-7", token.id()));

    // It keeps its papers, and talks to a node that was there before.
    let (id, pem) = (folder.path().join("id.pem"), folder.path().join("root.pem"));
    file.save(&id).unwrap();
    std::fs::write(&pem, found.to_pem()).unwrap();
    let edge = Identity::load(&id, &pem, "demo").unwrap();
    assert_eq!((edge.name(), edge.roles()), ("edge-7", &[Role::Edge][..]));
    assert_eq!(edge.node_id(), confirmed.node_id);
    let shield = node(&root, "shield-1", &[Role::Shield]);
    assert_eq!(edge.cluster_secret(), shield.cluster_secret());
    let server = Server::start(&shield, echo());
    let conn = soon("dial", pool(&edge).get(server.addr)).await.unwrap();
    let mut exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
    exchange.send.finish().await.unwrap();
    soon("answer", drain(&mut exchange.recv)).await.unwrap();

    let mut entries = Vec::new();
    let head = IssueLog::verify(&log, root.certificate(), &mut |entry| {
        entries.push(entry.clone());
    });
    assert_eq!(head.unwrap(), open.desk.log_head());
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].via, format!("join {}", token.id()));
    assert_eq!(entries[0].node.parse::<NodeId>().unwrap(), edge.node_id());
    let event = open.heard.0.lock()[0].clone();
    assert_eq!(
        (event.what, event.node_id),
        (AuditWhat::Joined, Some(edge.node_id()))
    );
}

#[tokio::test]
async fn token_is_good_once_and_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let open = Open::of(root("demo"), &folder.path().join("issued.log"));
    let token = open.token("edge-1", Role::Edge);
    ask(&token).await.unwrap();
    assert_eq!(refused(ask(&token).await), CloseCode::TokenUsed);

    let late = open.token("edge-2", Role::Edge);
    open.clock.forward(Duration::from_secs(61));
    assert_eq!(refused(ask(&late).await), CloseCode::TokenExpired);
    until("audit", || open.refusals().len() == 2).await;
    assert_eq!(
        open.refusals(),
        [CloseCode::TokenUsed, CloseCode::TokenExpired].map(AuditWhat::JoinRefused)
    );
    assert_eq!(open.desk.log_head().entries, 1, "one was issued");

    // Long after, the machine need not even ask.
    let clock = Arc::new(Shifted::default());
    clock.forward(Duration::from_secs(3600));
    let config = JoinConfig {
        clock,
        ..JoinConfig::default()
    };
    let result = soon("join", join(&client(), &late, &config)).await;
    assert!(matches!(result, Err(JoinError::Expired(_))), "{result:?}");
}

#[tokio::test]
async fn of_many_who_use_a_token_at_once_one_gets_in() {
    let folder = tempfile::tempdir().unwrap();
    let open = Open::of(root("demo"), &folder.path().join("issued.log"));
    let token = open.token("edge-1", Role::Edge);
    let asks = (0..40).map(|_| ask(&token));
    let results = futures_util::future::join_all(asks).await;
    let (good, bad): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(good.len(), 1);
    for result in bad {
        assert_eq!(refused(result), CloseCode::TokenUsed);
    }
    assert_eq!(open.desk.log_head().entries, 1);
}

#[tokio::test]
async fn token_is_not_shown_to_a_desk_of_another_root() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Open::of(root("demo"), &folder.path().join("ours.log"));
    let theirs = Open::of(root("demo"), &folder.path().join("theirs.log"));
    let wish = Wish::new("edge-1", &[]);
    let minute = Duration::from_secs(60);
    let token = ours.desk.token(wish.clone(), minute, theirs.addr).unwrap();
    let result = ask(&token).await;
    assert!(
        matches!(result, Err(JoinError::Stranger { .. })),
        "{result:?}"
    );

    // Another desk of the same root does not know it.
    let same = root("demo");
    let (one, two) = (
        Open::of(copy(&same), &folder.path().join("one.log")),
        Open::of(same, &folder.path().join("two.log")),
    );
    let token = one.desk.token(wish, minute, two.addr).unwrap();
    assert_eq!(refused(ask(&token).await), CloseCode::TokenUnknown);
}

#[tokio::test]
async fn neither_protocol_takes_the_papers_of_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let root = root("demo");
    let open = Open::of(copy(&root), &folder.path().join("issued.log"));
    let edge = node(&root, "edge-1", &[Role::Edge]);

    // A node that asks a desk for `stoq/1`: no such protocol there.
    let dialled = stoq::peer::PeerConn::dial;
    let (endpoint, config) = (client(), stoq::peer::DialConfig::default());
    let result = soon("dial", dialled(&endpoint, &edge, open.addr, &config)).await;
    assert!(result.is_err());

    // A joiner that asks a node for `stoq-join/1`.
    let server = Server::start(&node(&root, "shield-1", &[Role::Shield]), echo());
    let minute = Duration::from_secs(60);
    let wish = Wish::new("edge-2", &[Role::Edge]);
    let token = open.desk.token(wish, minute, server.addr).unwrap();
    assert!(matches!(ask(&token).await, Err(JoinError::Connect { .. })));

    // A node that speaks `stoq-join/1` and takes any desk, with its papers of a node: two certificates are not a joiner's.
    let mut tls = rustls::ClientConfig::clone(&edge.client_config(ALPN).unwrap());
    tls.alpn_protocols = vec![stoq::join::ALPN.to_vec()];
    tls.dangerous()
        .set_certificate_verifier(Arc::new(crate::cluster::Anyone));
    let tls = TlsClient::new(Arc::new(tls)).unwrap();
    let connecting = endpoint.connect(open.addr, SERVER_NAME, &tls);
    let conn = soon("connect", connecting).await.unwrap();
    let end = soon("end", conn.closed()).await;
    let ConnectionError::TransportClosed { code, .. } = end else {
        panic!("{end:?}")
    };
    let found = CloseCode::of_transport(code);
    assert_eq!(found, Some(CloseCode::MalformedCertificate));
}

/// A client with a key, which takes any desk for the right one.
fn anybody() -> TlsClient {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let params = rcgen::CertificateParams::default();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let private = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialized_der().to_vec().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(crate::cluster::Anyone))
        .with_client_auth_cert(vec![certificate], private)
        .unwrap();
    tls.alpn_protocols = vec![stoq::join::ALPN.to_vec()];
    TlsClient::new(Arc::new(tls)).unwrap()
}

#[tokio::test]
async fn who_takes_an_identity_and_says_nothing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let open = Open::of(root("demo"), &folder.path().join("issued.log"));
    let token = open.token("edge-7", Role::Edge);
    let mut enrolled = open.desk.last_enrolled();
    let endpoint = Endpoint::client(loopback(), TransportConfig::default()).unwrap();
    let thief = endpoint
        .connect(open.addr, "join.stoq", &anybody())
        .await
        .unwrap();
    let (mut send, mut recv) = thief.open_bi().await.unwrap();
    // A token's text holds the root's hash, then what is asked with.
    let text = token.to_string();
    let bytes = text.strip_prefix("stoq-join-1.").unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(bytes).unwrap();
    send.write_all(&[&[1], &bytes[32..72]].concat())
        .await
        .unwrap();
    send.finish().unwrap();
    let answer = soon("answer", recv.read_to_end(1 << 16)).await.unwrap();
    assert!(!answer.is_empty());
    let issued = enrolled.wait_for(Option::is_some);
    let issued = soon("word of it", issued).await.unwrap().clone().unwrap();
    assert_eq!((&*issued.node, issued.confirmed), ("edge-7", false));
    // Whose token it was comes too late, and which identity there is can be told.
    assert_eq!(refused(ask(&token).await), CloseCode::TokenUsed);
    soon("end", thief.closed()).await;
    assert!(!enrolled.borrow().as_ref().unwrap().confirmed);
    let log = folder.path().join("issued.log");
    let text = std::fs::read_to_string(log).unwrap();
    assert!(text.contains(&issued.node_id.to_string()));
}

#[tokio::test]
async fn silent_and_talkative_joiners_are_sent_away() {
    let folder = tempfile::tempdir().unwrap();
    let open = Open::of(root("demo"), &folder.path().join("issued.log"));
    let tls = anybody();
    let endpoint = Endpoint::client(loopback(), TransportConfig::default()).unwrap();
    let code = async |said: &[u8]| {
        let conn = endpoint
            .connect(open.addr, "join.stoq", &tls)
            .await
            .unwrap();
        let (mut send, _recv) = conn.open_bi().await.unwrap();
        let _ = send.write_all(said).await;
        let end = soon("end", conn.closed()).await;
        match end {
            ConnectionError::Closed { code, .. } => CloseCode::of(code),
            other => panic!("{other:?}"),
        }
    };
    let start = Instant::now();
    assert_eq!(code(&[1; 10]).await, Some(CloseCode::JoinMalformed));
    assert!(
        start.elapsed() >= Duration::from_millis(400),
        "had its time"
    );
    assert_eq!(code(&[1; 100]).await, Some(CloseCode::JoinMalformed));
    assert_eq!(open.refusals().len(), 2);
    assert_eq!(open.desk.log_head().entries, 0);
}
