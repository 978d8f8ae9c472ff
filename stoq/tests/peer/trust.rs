//! Who is let go when trust in it ends, and what the audit says of everybody who was refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::server::ServerSessionMemoryCache;
use rustls_pki_types::UnixTime;
use stoq::hello::RoleRule;
use stoq::identity::{
    ALPN, AuditEvent, AuditFile, AuditLimits, AuditSink, AuditWhat, ClusterRoot, Identity, Refusal,
    Revocations, Role, SERVER_NAME, Trust, Validity,
};
use stoq::peer::{
    DialConfig, ExchangeError, IncomingRequest, KindRules, PeerConn, PeerError, ServeConfig,
};
use stoq::pool::PoolError;
use stoq::quic::{
    ConnectError, Connection, ConnectionError, Endpoint, TlsClient, TlsServer, TransportConfig,
};
use stoq::wire::{CloseCode, StreamCode};

use crate::cluster::{
    Act, PATIENCE, Server, Shifted, client, counted, drain, echo, loopback, node, pool, root, soon,
    until, year,
};

/// An audit that can be read.
#[derive(Debug, Default)]
struct Heard(Mutex<Vec<AuditEvent>>);

impl AuditSink for Heard {
    fn record(&self, event: &AuditEvent) {
        self.0.lock().push(event.clone());
    }
}

impl Heard {
    async fn first(&self) -> AuditEvent {
        until("audit", || !self.0.lock().is_empty()).await;
        self.0.lock()[0].clone()
    }
}

/// A node whose audit and revocation list are at hand.
fn watched(root: &ClusterRoot, name: &str, role: Role) -> (Identity, Revocations, Arc<Heard>) {
    let (revocations, heard) = (Revocations::default(), Arc::new(Heard::default()));
    let mut trust = Trust::default();
    trust.revocations = revocations.clone();
    trust.audit = heard.clone();
    let file = root.issue(name, &[role], year()).unwrap();
    let identity = Identity::with_trust(file, root.certificate().clone(), trust).unwrap();
    (identity, revocations, heard)
}

async fn dial(identity: &Identity, server: &Server) -> Result<PeerConn, PeerError> {
    let (endpoint, config) = (client(), DialConfig::default());
    let dialled = PeerConn::dial(&endpoint, identity, server.addr, &config);
    soon("dial", dialled).await
}

fn code_of(error: &ConnectionError) -> Option<CloseCode> {
    match error {
        ConnectionError::Closed { code, .. } => CloseCode::of(*code),
        ConnectionError::TransportClosed { code, .. } => CloseCode::of_transport(*code),
        _ => None,
    }
}

#[tokio::test]
async fn revoked_node_gets_no_connection_from_either_side() {
    let root = root("demo");
    let (shield, list, heard) = watched(&root, "shield-1", Role::Shield);
    let server = Server::start(&shield, echo());
    let edge = node(&root, "edge-1", &[Role::Edge]);
    let other = node(&root, "edge-2", &[Role::Edge]);
    list.replace([edge.node_id()]).unwrap();
    // Its handshake is over before the server has judged its certificate; the alert comes as the end of the connection.
    match dial(&edge, &server).await {
        Err(PeerError::RefusedByPeer { code, .. }) => assert_eq!(code, CloseCode::Revoked),
        result => panic!("{result:?}"),
    }
    let event = heard.first().await;
    assert_eq!(event.what, AuditWhat::Handshake(CloseCode::Revoked));
    assert_eq!(
        (event.node_id, event.name.as_deref()),
        (Some(edge.node_id()), Some("edge-1"))
    );
    assert_eq!(
        counted(|each| shield.refusals().visit(each), "refused_revoked"),
        1
    );
    assert!(dial(&other, &server).await.is_ok(), "nobody else is meant");

    let (asker, list, heard) = watched(&root, "edge-3", Role::Edge);
    list.replace([shield.node_id()]).unwrap();
    let result = dial(&asker, &server).await;
    assert!(
        matches!(
            &result,
            Err(PeerError::Refused {
                refusal: Refusal::Revoked { name, .. },
                ..
            }) if name == "shield-1"
        ),
        "{result:?}"
    );
    let event = heard.first().await;
    assert_eq!(event.addr, Some(server.addr));
    assert_eq!(event.node_id, Some(shield.node_id()));
}

#[tokio::test]
async fn living_connections_of_a_node_end_when_it_is_revoked() {
    let root = root("demo");
    let (shield, list, heard) = watched(&root, "shield-1", Role::Shield);
    let server = Server::start(&shield, echo());
    let (gone, stays) = (
        node(&root, "edge-1", &[Role::Edge]),
        node(&root, "edge-2", &[Role::Edge]),
    );
    let (conn, other) = (
        dial(&gone, &server).await.unwrap(),
        dial(&stays, &server).await.unwrap(),
    );
    // One exchange under way on each, one connection idle.
    let mut under_way = conn.exchange(1, Bytes::new(), None).await.unwrap();
    let idle = dial(&gone, &server).await.unwrap();
    let mut undisturbed = other.exchange(1, Bytes::new(), None).await.unwrap();
    until("requests", || {
        server.peers.counters().requests_started.get() == 2
    })
    .await;

    list.replace([gone.node_id()]).unwrap();
    for conn in [&conn, &idle] {
        let end = soon("end", conn.closed()).await;
        assert_eq!(code_of(&end), Some(CloseCode::Revoked), "{end:?}");
    }
    let broken = async {
        while under_way.recv.next().await?.is_some() {}
        Ok(())
    };
    let broken: Result<(), ExchangeError> = soon("end of the exchange", broken).await;
    assert!(matches!(broken, Err(ExchangeError::Connection(_))));
    assert!(conn.exchange(1, Bytes::new(), None).await.is_err());
    assert_eq!(server.peers.counters().closed_revoked.get(), 2);
    until("handler", || {
        server.peers.counters().requests_cancelled.get() == 1
    })
    .await;
    let events = heard.0.lock().clone();
    assert_eq!(events.len(), 2, "{events:?}");
    for event in events {
        assert_eq!(event.what, AuditWhat::Connection(CloseCode::Revoked));
        assert_eq!(event.node_id, Some(gone.node_id()));
        assert!(event.addr.is_some());
    }

    undisturbed
        .send
        .data(Bytes::from_static(b"abc"))
        .await
        .unwrap();
    undisturbed.send.finish().await.unwrap();
    let echoed = soon("answer", drain(&mut undisturbed.recv)).await.unwrap();
    assert_eq!(echoed.0, 3);
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_let_go_in_a_drain_as_well() {
    let root = root("demo");
    let (shield, list, _heard) = watched(&root, "shield-1", Role::Shield);
    let server = Server::start(
        &shield,
        Arc::new(Act(|request: IncomingRequest| async move {
            let mut reply = request.reply;
            let block = Bytes::from(vec![0; 1 << 20]);
            while reply.data(block.clone()).await.is_ok() {}
        })),
    );
    let edge = node(&root, "edge-1", &[Role::Edge]);
    const WINDOW: u32 = 256 * 1024;
    let small = TransportConfig {
        stream_window: WINDOW,
        connection_window: WINDOW,
        ..TransportConfig::default()
    };
    let endpoint = Endpoint::client(loopback(), small).unwrap();
    let config = DialConfig::default();
    let dialled = PeerConn::dial(&endpoint, &edge, server.addr, &config);
    let conn = soon("dial", dialled).await.unwrap();
    let _unread = conn.exchange(1, Bytes::new(), None).await.unwrap();
    // Its window is shut: the server's word that it goes stays with the server.
    let full = u64::from(WINDOW);
    until("flood", || conn.path().received_bytes > full).await;
    server.peers.drain(4 * PATIENCE);
    tokio::task::yield_now().await;
    list.replace([edge.node_id()]).unwrap();
    let end = soon("end", conn.closed()).await;
    assert_eq!(code_of(&end), Some(CloseCode::Revoked), "{end:?}");
}

#[tokio::test]
async fn asker_lets_go_of_a_revoked_peer_and_dials_it_no_more() {
    let root = root("demo");
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let server = Server::start(&shield, echo());
    let (edge, list, heard) = watched(&root, "edge-1", Role::Edge);
    let pool = pool(&edge);
    let conn = soon("dial", pool.get(server.addr)).await.unwrap();
    list.replace([shield.node_id()]).unwrap();
    // Before the task that closes the connection has run, no exchange starts either.
    let refused = conn.exchange(1, Bytes::new(), None).await.unwrap_err();
    assert_eq!(refused, ExchangeError::Revoked);
    assert!(refused.not_sent());
    soon("end", conn.closed()).await;
    let result = soon("dial", pool.get(server.addr)).await;
    assert!(
        matches!(
            &result,
            Err(PoolError::Dial(PeerError::Refused {
                refusal: Refusal::Revoked { .. },
                ..
            }))
        ),
        "{result:?}"
    );
    let whats: Vec<_> = heard.0.lock().iter().map(|event| event.what).collect();
    assert_eq!(
        whats,
        [
            AuditWhat::Connection(CloseCode::Revoked),
            AuditWhat::Handshake(CloseCode::Revoked)
        ]
    );

    // Whoever is taken off the list again is welcome.
    list.replace([]).unwrap();
    assert!(dial(&edge, &server).await.is_ok());
}

#[tokio::test]
async fn resumed_session_of_a_revoked_node_is_refused() {
    let root = root("demo");
    let (shield, list, heard) = watched(&root, "shield-1", Role::Shield);
    let server = Server::start(&shield, echo());
    // The same verifier, with tickets.
    let mut config = rustls::ServerConfig::clone(&shield.server_config(ALPN).unwrap());
    config.send_tls13_tickets = 2;
    config.session_storage = ServerSessionMemoryCache::new(64);
    let tls = TlsServer::new(Arc::new(config)).unwrap();
    server.endpoint.set_server(Some(tls));

    let edge = node(&root, "edge-1", &[Role::Edge]);
    let mut config = rustls::ClientConfig::clone(&edge.client_config(ALPN).unwrap());
    config.resumption = Resumption::in_memory_sessions(64);
    let tls = TlsClient::new(Arc::new(config)).unwrap();
    let endpoint = client();
    let resumed = async || -> Result<Connection, ConnectError> {
        loop {
            let conn = endpoint.connect(server.addr, SERVER_NAME, &tls).await?;
            if conn.handshake().is_some_and(|handshake| handshake.resumed) {
                return Ok(conn);
            }
            // Its tickets are on their way.
            let _ = tokio::time::timeout(Duration::from_millis(20), conn.closed()).await;
        }
    };
    let before = soon("a resumed session", resumed()).await.unwrap();
    assert!(before.close_reason().is_none());
    let _ = tokio::time::timeout(Duration::from_millis(20), before.closed()).await;

    list.replace([edge.node_id()]).unwrap();
    let after = soon("another", resumed()).await.unwrap();
    let end = soon("verdict", after.closed()).await;
    assert_eq!(code_of(&end), Some(CloseCode::Revoked), "{end:?}");
    until("count", || {
        server.peers.counters().refused_certificate.get() >= 1
    })
    .await;
    let event = heard.first().await;
    assert_eq!(event.what, AuditWhat::Handshake(CloseCode::Revoked));
    assert_eq!(event.node_id, Some(edge.node_id()));
    assert!(
        event.addr.is_some(),
        "after a handshake the address is known"
    );
}

#[tokio::test]
async fn kinds_are_for_the_roles_that_permit_them() {
    let root = root("demo");
    let (shield, _, heard) = watched(&root, "shield-1", Role::Shield);
    let handled = Arc::new(AtomicU64::new(0));
    let count = handled.clone();
    let handler = Act(move |request: IncomingRequest| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let _ = request.reply.finish().await;
        }
    });
    let config = ServeConfig {
        kinds: Arc::new(
            KindRules::closed()
                .permit(1, [Role::Edge, Role::Admin])
                .permit(2, [Role::Admin]),
        ),
        ..ServeConfig::default()
    };
    let server = Server::with(
        &shield,
        Arc::new(handler),
        config,
        TransportConfig::default(),
        loopback(),
    );
    let edge = dial(&node(&root, "edge-1", &[Role::Edge]), &server)
        .await
        .unwrap();
    let admin = dial(&node(&root, "ops-1", &[Role::Admin]), &server)
        .await
        .unwrap();
    let ask = async |conn: &PeerConn, kind: u16| {
        let mut exchange = conn.exchange(kind, Bytes::new(), None).await.unwrap();
        let _ = exchange.send.finish().await;
        soon("answer", exchange.recv.next()).await
    };
    let forbidden = Err(ExchangeError::Cancelled {
        code: StreamCode::Forbidden.code(),
    });
    assert_eq!(ask(&edge, 2).await, forbidden);
    assert_eq!(ask(&edge, 3).await, forbidden);
    assert_eq!(handled.load(Ordering::Relaxed), 0, "no handler saw them");
    assert_eq!(ask(&edge, 1).await, Ok(None), "the connection goes on");
    assert_eq!(ask(&admin, 1).await, Ok(None));
    assert_eq!(ask(&admin, 2).await, Ok(None));
    assert_eq!(ask(&admin, 3).await, forbidden);
    assert_eq!(server.peers.counters().refused_request_role.get(), 3);
    let events = heard.0.lock().clone();
    assert_eq!(events.len(), 3);
    assert_eq!(events[0].what, AuditWhat::Exchange(StreamCode::Forbidden));
    assert_eq!(events[0].name.as_deref(), Some("edge-1"));
    assert!(events[0].detail.contains("kind 2"), "{}", events[0].detail);
}

#[tokio::test]
async fn everybody_refused_has_one_line_in_the_audit_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let demo = root("demo");
    let clock = Arc::new(Shifted::default());
    let revocations = Revocations::default();
    let mut trust = Trust::default();
    trust.clock = clock.clone();
    trust.revocations = revocations.clone();
    trust.audit = Arc::new(AuditFile::open(&path, AuditLimits::default()).unwrap());
    let file = demo.issue("shield-1", &[Role::Shield], year()).unwrap();
    let shield = Identity::with_trust(file, demo.certificate().clone(), trust).unwrap();
    let config = ServeConfig {
        accept: RoleRule::AnyOf(vec![Role::Edge]),
        ..ServeConfig::default()
    };
    let server = Server::with(
        &shield,
        echo(),
        config,
        TransportConfig::default(),
        loopback(),
    );

    let hour = Validity::starting(UnixTime::now(), Duration::from_secs(3600));
    let short = demo.issue("edge-old", &[Role::Edge], hour).unwrap();
    let expired = Identity::new(short, demo.certificate().clone()).unwrap();
    let revoked = node(&demo, "edge-gone", &[Role::Edge]);
    let admin = node(&demo, "ops-1", &[Role::Admin]);
    // It trusts our root, as a thief of the root file would, but its own papers are of another.
    let stranger = node(&root("demo"), "edge-x", &[Role::Edge]);
    let mut config =
        rustls::ClientConfig::clone(&node(&demo, "y", &[]).client_config(ALPN).unwrap());
    let theirs = stranger.client_config(ALPN).unwrap();
    config.client_auth_cert_resolver = theirs.client_auth_cert_resolver.clone();
    let foreign = TlsClient::new(Arc::new(config)).unwrap();

    revocations.replace([revoked.node_id()]).unwrap();
    clock.forward(Duration::from_secs(3600 + 301));
    for peer in [&expired, &revoked, &admin] {
        assert!(dial(peer, &server).await.is_err());
    }
    let endpoint = client();
    let conn = endpoint.connect(server.addr, SERVER_NAME, &foreign);
    if let Ok(conn) = soon("connect", conn).await {
        soon("verdict", conn.closed()).await;
    }

    let lines = || std::fs::read_to_string(&path).unwrap_or_default();
    until("lines", || lines().lines().count() >= 4).await;
    let text = lines();
    let found: BTreeMap<String, (String, u64)> = text
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            (
                text("name"),
                (text("event"), line["code"].as_u64().unwrap()),
            )
        })
        .collect();
    let want = |event: &str, code: CloseCode| (event.to_owned(), code.code());
    let handshake = "handshake_refused";
    assert_eq!(
        found,
        BTreeMap::from([
            ("edge-old".into(), want(handshake, CloseCode::Expired)),
            ("edge-gone".into(), want(handshake, CloseCode::Revoked)),
            ("edge-x".into(), want(handshake, CloseCode::Foreign)),
            ("ops-1".into(), want("hello_refused", CloseCode::WrongRole)),
        ]),
        "{text}"
    );
    assert_eq!(text.lines().count(), 4, "one each: {text}");
}
