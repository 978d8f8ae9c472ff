//! Who is not let in, and with which code.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use stoq::hello::{HelloRefusal, RoleRule};
use stoq::identity::{ClusterRoot, Identity, IdentityFile, Refusal, Role, SERVER_NAME, Validity};
use stoq::peer::{DialConfig, ExchangeError, PeerConn, PeerError, ServeConfig};
use stoq::quic::{Connection, ConnectionError, TransportConfig};
use stoq::wire::{CloseCode, Frame, Hello, VERSION, Versions, encode};

use crate::cluster::{
    Anyone, Server, Shifted, client, counted, echo, loopback, node, root, soon, until, year,
};

async fn dial(identity: &Identity, server: &Server) -> Result<PeerConn, PeerError> {
    soon(
        "dial",
        PeerConn::dial(&client(), identity, server.addr, &DialConfig::default()),
    )
    .await
}

fn refused_by_peer(result: Result<PeerConn, PeerError>) -> CloseCode {
    match result {
        Err(PeerError::RefusedByPeer { code, .. }) => code,
        other => panic!("not refused by the peer: {other:?}"),
    }
}

#[tokio::test]
async fn wrong_root_is_refused_by_either_side() {
    let (ours, theirs) = (root("demo"), root("demo"));
    let shield = node(&ours, "shield-1", &[Role::Shield]);
    let server = Server::start(&shield, echo());
    let stranger = node(&theirs, "edge-1", &[Role::Edge]);
    let result = dial(&stranger, &server).await;
    assert!(
        matches!(
            &result,
            Err(PeerError::Refused {
                refusal: Refusal::Foreign(_),
                ..
            })
        ),
        "{result:?}"
    );
    assert_eq!(
        counted(|each| stranger.refusals().visit(each), "refused_foreign"),
        1
    );

    // One who looks away on its side is refused by the other.
    let careless = Identity::new(
        IdentityFile::from_pem(
            &theirs
                .issue("edge-1", &[Role::Edge], year())
                .unwrap()
                .to_pem(),
        )
        .unwrap(),
        theirs.certificate().clone(),
    )
    .unwrap();
    let result = dial_trusting_anyone(&careless, &server).await;
    assert_eq!(
        CloseCode::of_transport(transport_code(&result)),
        Some(CloseCode::Foreign),
        "{result:?}"
    );
    until("count", || {
        counted(|each| shield.refusals().visit(each), "refused_foreign") == 1
    })
    .await;
    until("count", || {
        server.peers.counters().handshakes_failed.get() == 2
    })
    .await;
}

fn transport_code(error: &ConnectionError) -> u64 {
    match error {
        ConnectionError::TransportClosed {
            code,
            by_peer: true,
            ..
        } => *code,
        other => panic!("{other:?}"),
    }
}

/// Connects with an identity's leaf but takes any certificate, and waits for the server's verdict.
async fn dial_trusting_anyone(identity: &Identity, server: &Server) -> ConnectionError {
    let mut config = rustls::ClientConfig::clone(&identity.client_config(b"stoq/1").unwrap());
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(Anyone));
    let tls = stoq::quic::TlsClient::new(Arc::new(config)).unwrap();
    let conn = soon("connect", client().connect(server.addr, SERVER_NAME, &tls))
        .await
        .unwrap();
    soon("verdict", conn.closed()).await
}

/// A root for another cluster, made from the same key.
fn same_key(root: &ClusterRoot, cluster: &str) -> ClusterRoot {
    let key = rcgen::KeyPair::from_pem(root.to_pem_key().split("-----BEGIN STOQ").next().unwrap())
        .unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "stoq cluster root");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(1));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let uri = format!("stoq:cluster:{cluster}").try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    let certificate = params.self_signed(&key).unwrap().pem();
    ClusterRoot::from_pem(&root.to_pem_key(), &certificate).unwrap()
}

#[tokio::test]
async fn wrong_cluster_is_refused_by_either_side() {
    let demo = root("demo");
    let shield = node(&demo, "shield-1", &[Role::Shield]);
    let server = Server::start(&shield, echo());
    let other = node(&same_key(&demo, "other"), "edge-1", &[Role::Edge]);
    let result = dial(&other, &server).await;
    assert!(
        matches!(
            &result,
            Err(PeerError::Refused {
                refusal: Refusal::Cluster { .. },
                ..
            })
        ),
        "{result:?}"
    );
    let verdict = dial_trusting_anyone(&other, &server).await;
    assert_eq!(
        CloseCode::of_transport(transport_code(&verdict)),
        Some(CloseCode::Cluster)
    );
    until("count", || {
        counted(|each| shield.refusals().visit(each), "refused_cluster") == 1
    })
    .await;
}

#[tokio::test]
async fn expired_identity_is_refused() {
    let root = root("demo");
    let clock = Arc::new(Shifted::default());
    let file = root.issue("shield-1", &[Role::Shield], year()).unwrap();
    let shield = Identity::with_clock(file, root.certificate().clone(), clock.clone()).unwrap();
    let server = Server::start(&shield, echo());

    let hour = Validity::starting(UnixTime::now(), Duration::from_secs(3600));
    let file = root.issue("edge-1", &[Role::Edge], hour).unwrap();
    let edge = Identity::new(file, root.certificate().clone()).unwrap();
    let conn = dial(&edge, &server).await.unwrap();
    // An hour and the tolerance later by the server's clock; less than half of the life of its own leaf.
    clock.forward(Duration::from_secs(3600 + 301));
    assert_eq!(
        refused_by_peer(dial(&edge, &server).await),
        CloseCode::Expired
    );
    assert_eq!(
        counted(|each| shield.refusals().visit(each), "refused_expired"),
        1
    );

    // And the connection made before takes no further exchange.
    let error = match conn.exchange(1, Bytes::new(), None).await {
        Ok(mut exchange) => soon("end", exchange.recv.next()).await.unwrap_err(),
        Err(error) => error,
    };
    assert_closed(&error, CloseCode::Expired);
    until("count", || {
        server.peers.counters().closed_expired.get() == 1
    })
    .await;
}

fn assert_closed(error: &ExchangeError, want: CloseCode) {
    let ExchangeError::Connection(ConnectionError::Closed { code, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(CloseCode::of(*code), Some(want));
}

#[tokio::test]
async fn asker_notices_that_its_peer_has_expired() {
    let root = root("demo");
    let hour = Validity::starting(UnixTime::now(), Duration::from_secs(3600));
    let shield = Identity::new(
        root.issue("shield-1", &[], hour).unwrap(),
        root.certificate().clone(),
    )
    .unwrap();
    let server = Server::start(&shield, echo());
    let clock = Arc::new(Shifted::default());
    let file = root.issue("edge-1", &[Role::Edge], year()).unwrap();
    let edge = Identity::with_clock(file, root.certificate().clone(), clock.clone()).unwrap();
    let conn = dial(&edge, &server).await.unwrap();
    assert!(conn.exchange(1, Bytes::new(), None).await.is_ok());
    clock.forward(Duration::from_secs(3600 + 301));
    assert_eq!(
        conn.exchange(1, Bytes::new(), None).await.unwrap_err(),
        ExchangeError::Expired
    );
    let result = dial(&edge, &server).await;
    assert!(
        matches!(
            &result,
            Err(PeerError::Refused {
                refusal: Refusal::Expired { .. },
                ..
            })
        ),
        "{result:?}"
    );
    assert!(clock.current_time().is_some());
}

#[tokio::test]
async fn wrong_role_is_refused_by_either_side() {
    let root = root("demo");
    let config = ServeConfig {
        accept: RoleRule::AnyOf(vec![Role::Edge]),
        ..ServeConfig::default()
    };
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let server = Server::with(
        &shield,
        echo(),
        config,
        TransportConfig::default(),
        loopback(),
    );
    let admin = node(&root, "ops-1", &[Role::Admin]);
    assert_eq!(
        refused_by_peer(dial(&admin, &server).await),
        CloseCode::WrongRole
    );
    until("count", || server.peers.counters().refused_role.get() == 1).await;

    let edge = node(&root, "edge-1", &[Role::Edge]);
    assert!(dial(&edge, &server).await.is_ok());
    let picky = DialConfig {
        expect: RoleRule::AnyOf(vec![Role::Edge]),
        ..DialConfig::default()
    };
    let result = soon(
        "dial",
        PeerConn::dial(&client(), &edge, server.addr, &picky),
    )
    .await;
    let Err(PeerError::Hello { refusal, .. }) = result else {
        panic!("{result:?}")
    };
    assert!(matches!(refusal, HelloRefusal::WrongRole { .. }));
}

/// A connection of a good identity on which nothing was said yet.
async fn silent(identity: &Identity, server: &Server) -> Connection {
    let tls = identity.client_tls().unwrap();
    soon("connect", client().connect(server.addr, SERVER_NAME, &tls))
        .await
        .unwrap()
}

async fn close_code(conn: &Connection) -> CloseCode {
    let ConnectionError::Closed { code, .. } = soon("verdict", conn.closed()).await else {
        panic!()
    };
    CloseCode::of(code).unwrap()
}

#[tokio::test]
async fn slow_hello_is_closed_with_its_code() {
    let root = root("demo");
    let config = ServeConfig {
        hello_timeout: Duration::from_millis(100),
        ..ServeConfig::default()
    };
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let server = Server::with(
        &shield,
        echo(),
        config,
        TransportConfig::default(),
        loopback(),
    );
    let edge = node(&root, "edge-1", &[Role::Edge]);
    let nothing = silent(&edge, &server).await;
    assert_eq!(close_code(&nothing).await, CloseCode::HelloTimeout);
    // Half a hello is as slow as none.
    let half = silent(&edge, &server).await;
    let (mut send, _recv) = half.open_bi().await.unwrap();
    send.write_all(&[1, 1, 0, 0]).await.unwrap();
    assert_eq!(close_code(&half).await, CloseCode::HelloTimeout);
    until("count", || {
        server.peers.counters().refused_hello_timeout.get() == 2
    })
    .await;
}

#[tokio::test]
async fn hellos_that_do_not_fit_are_each_refused_with_their_own_code() {
    let root = root("demo");
    let server = Server::start(&node(&root, "shield-1", &[Role::Shield]), echo());
    let edge = node(&root, "edge-1", &[Role::Edge]);
    let good = Hello::new("edge-1", &[Role::Edge], Versions::default());
    for (first, want) in [
        (
            Frame::Hello(Hello {
                version_min: VERSION + 1,
                version_max: 9,
                ..good.clone()
            }),
            CloseCode::Version,
        ),
        (
            Frame::Hello(Hello {
                capabilities: 1 << 63,
                ..good.clone()
            }),
            CloseCode::Capability,
        ),
        (
            Frame::Hello(Hello::new("edge-2", &[Role::Edge], Versions::default())),
            CloseCode::Claim,
        ),
        (
            Frame::Hello(Hello::new("edge-1", &[Role::Admin], Versions::default())),
            CloseCode::Claim,
        ),
        (
            Frame::Head(Bytes::from_static(b"hello?")),
            CloseCode::HelloMalformed,
        ),
    ] {
        let conn = silent(&edge, &server).await;
        let (mut send, _recv) = conn.open_bi().await.unwrap();
        send.write_all_chunks(&mut encode(VERSION, &first).unwrap())
            .await
            .unwrap();
        assert_eq!(close_code(&conn).await, want, "{first:?}");
    }
    let conn = silent(&edge, &server).await;
    let (mut send, _recv) = conn.open_bi().await.unwrap();
    send.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(close_code(&conn).await, CloseCode::HelloMalformed);
    let counters = server.peers.counters();
    until("count", || {
        counters.refused_hello_malformed.get() == 2 && counters.refused_claim.get() == 2
    })
    .await;
    assert_eq!(
        (
            counters.refused_version.get(),
            counters.refused_capability.get()
        ),
        (1, 1)
    );
    assert_eq!(counters.peers_accepted.get(), 0);
}

#[tokio::test]
async fn client_without_a_certificate_is_refused() {
    let root = root("demo");
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let server = Server::start(&shield, echo());
    let edge = node(&root, "edge-1", &[Role::Edge]);
    let mut config = rustls::ClientConfig::clone(&edge.client_config(b"stoq/1").unwrap());
    config.client_auth_cert_resolver = Arc::new(NoPapers);
    let tls = stoq::quic::TlsClient::new(Arc::new(config)).unwrap();
    let conn = soon("connect", client().connect(server.addr, SERVER_NAME, &tls))
        .await
        .unwrap();
    let verdict = soon("verdict", conn.closed()).await;
    assert_eq!(
        CloseCode::of_transport(transport_code(&verdict)),
        Some(CloseCode::NoCertificate)
    );
    until("count", || {
        counted(
            |each| shield.refusals().visit(each),
            "refused_no_certificate",
        ) == 1
    })
    .await;
}

#[derive(Debug)]
struct NoPapers;

impl rustls::client::ResolvesClientCert for NoPapers {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn streams_that_begin_with_something_else_or_nothing_are_reset() {
    let root = root("demo");
    let config = ServeConfig {
        request_timeout: Duration::from_millis(400),
        ..ServeConfig::default()
    };
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let server = Server::with(
        &shield,
        echo(),
        config,
        TransportConfig::default(),
        loopback(),
    );
    let conn = silent(&node(&root, "edge-1", &[Role::Edge]), &server).await;
    let (mut control, mut answer) = conn.open_bi().await.unwrap();
    let hello = Frame::Hello(Hello::new("edge-1", &[Role::Edge], Versions::default()));
    control
        .write_all_chunks(&mut encode(VERSION, &hello).unwrap())
        .await
        .unwrap();
    soon("hello", answer.read_chunk(1000)).await.unwrap();

    let (mut wrong, mut end) = conn.open_bi().await.unwrap();
    wrong
        .write_all_chunks(&mut encode(VERSION, &Frame::Head(Bytes::new())).unwrap())
        .await
        .unwrap();
    assert!(soon("reset", end.read_chunk(1)).await.is_err());
    let (mut slow, mut end) = conn.open_bi().await.unwrap();
    slow.write_all(&[1]).await.unwrap();
    assert!(soon("reset", end.read_chunk(1)).await.is_err());
    let counters = server.peers.counters();
    assert_eq!(
        (
            counters.refused_request_malformed.get(),
            counters.refused_request_timeout.get()
        ),
        (1, 1)
    );
    // The connection lives on; a second hello on the control stream ends it.
    assert!(conn.close_reason().is_none());
    control
        .write_all_chunks(&mut encode(VERSION, &hello).unwrap())
        .await
        .unwrap();
    assert_eq!(close_code(&conn).await, CloseCode::Protocol);
}
