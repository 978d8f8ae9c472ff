//! What the shipped program refuses of other nodes: words of a member that another changed, a record announced for another, a node of no cluster of ours, a revoked one. Each is counted, and
//! in the audit file.
//!
//! All ways of forging a member's words are in the tests of gossip's gate; here are those that a node on the network would try.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use bytes::{BufMut as _, Bytes, BytesMut};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use stoq::identity::{ALPN, ClusterRoot, Identity, Role, SERVER_NAME, Validity};
use stoq::peer::{Ask, DialConfig, PeerConn, PeerError};
use stoq::quic::{ConnectionError, Endpoint, TlsClient};
use stoq_mesh::between_nodes;
use stoq_mesh::gossip::{GOSSIP, Papers, node_id};
use stoq_mesh::index::INDEX;
use stoq_routing::NodeState;
use stoq_routing::index::{
    Announcement, Change, Record, Refusal, Reply, Request, Signed, Terms, WHOLE,
};
use stoq_routing::membership::{Order, Statement};

use crate::network::at;
use crate::nodes::{CLUSTER, Mesh, Node, Plan, REVOKED, STOQ, sees};

const EDGES: usize = 3;
const LIMIT: Duration = Duration::from_secs(30);

/// What a peer says to edge 1 from the host behind those of the edges.
fn saying<T: Send + 'static, F: Future<Output = T>>(
    mesh: &Mesh,
    identity: &Identity,
    what: impl FnOnce(Result<PeerConn, PeerError>) -> F + Send + 'static,
) -> T {
    let (identity, to) = (identity.clone(), mesh.edges[0].stoq());
    let said = mesh.network.run(mesh.more(), move || async move {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let endpoint = Endpoint::client(any, between_nodes()).unwrap();
        let config = DialConfig::default();
        let conn = PeerConn::dial(&endpoint, &identity, to, &config).await;
        let said = what(conn).await;
        endpoint.close(0, b"");
        endpoint.wait_idle().await;
        said
    });
    said.join().unwrap()
}

/// Waits until this holds of edge 1.
fn until(what: &str, edge: &Node, holds: impl Fn(&Node) -> bool) {
    let began = Instant::now();
    while !holds(edge) {
        assert!(
            began.elapsed() < LIMIT,
            "in vain: {what}; audited last: {:#?}",
            edge.audited().last()
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn audited(edge: &Node, words: &[&str]) -> bool {
    let lines = edge.audited();
    lines
        .iter()
        .any(|line| words.iter().all(|word| line.contains(word)))
}

/// What a node says of itself, as an ACK of gossip's: written out here, since no part of ours writes such for another.
fn ack(certificate: &[u8], statement: &[u8], id: &stoq_routing::NodeId, order: Order) -> Bytes {
    fn text(out: &mut BytesMut, text: &str) {
        out.put_u16_le(u16::try_from(text.len()).unwrap());
        out.put_slice(text.as_bytes());
    }
    let mut ops = BytesMut::new();
    ops.put_u8(0);
    let [a, b, c, d, ..] = id.0;
    text(&mut ops, &format!("{a:02x}{b:02x}{c:02x}{d:02x}"));
    ops.put_u64_le(order.generation);
    ops.put_u8(4);
    ops.put_slice(&crate::network::address(40).octets());
    ops.put_u16_le(STOQ);
    ops.put_u64_le(0);
    ops.put_u64_le(0);
    for (key, value, version) in [("c", certificate, 1), ("s", statement, order.revision)] {
        ops.put_u8(1);
        text(&mut ops, key);
        text(&mut ops, &BASE64.encode(value));
        ops.put_u64_le(version);
        ops.put_u8(0);
    }
    let mut message = BytesMut::new();
    message.put_u16_le(45_139);
    message.put_u8(0);
    message.put_u8(2);
    message.put_u8(2);
    message.put_u16_le(u16::try_from(ops.len()).unwrap());
    message.put_slice(&ops);
    message.put_u8(0);
    let mut body = BytesMut::new();
    body.put_u32(u32::try_from(message.len()).unwrap());
    body.put_slice(&zstd::bulk::compress(&message, 3).unwrap());
    body.freeze()
}

/// Tells edge 1 something about nodes, as a member.
fn gossip(mesh: &Mesh, teller: &Identity, body: Bytes) {
    let listens = crate::network::address(mesh.more());
    saying(mesh, teller, move |conn| async move {
        let mut head = vec![1, 4];
        head.extend_from_slice(&listens.octets());
        head.extend_from_slice(&STOQ.to_be_bytes());
        let conn = conn.unwrap();
        let mut send = conn.tell(Ask::new(GOSSIP, head)).await.unwrap();
        send.data(body).await.unwrap();
        send.finish().await.unwrap();
        // What is asked after it is answered after it has come.
        let key = stoq_routing::Key([1; 32]);
        let find = Request::Find { key, wide: false };
        conn.call(Ask::new(INDEX, find.encode())).await.unwrap();
    });
}

#[test]
fn forged_words_are_refused_counted_and_audited_and_true_ones_believed() {
    const TEST: &str = "forged_words_are_refused_counted_and_audited_and_true_ones_believed";
    let Some(mesh) = Plan::edges(EDGES).more(1).start(TEST) else {
        return;
    };
    let teller = mesh.identity("edge-80", Role::Edge);
    let spoken_of = mesh.identity("edge-81", Role::Edge);
    let order = Order {
        generation: 1_000,
        revision: 2,
    };
    let id = node_id(spoken_of.node_id());
    let mut state = NodeState::new(id, spoken_of.name(), "eu-fra".parse().unwrap());
    state.addresses = vec![at(40, STOQ)];
    let statement = Statement::seal(&Papers::new(&spoken_of), order, &state).unwrap();
    let refused = |edge: &Node| edge.metric("stoq_gossip_refused_total", &["reason=\"forged\""]);

    let mut forged = statement.clone();
    *forged.last_mut().unwrap() ^= 1;
    gossip(
        &mesh,
        &teller,
        ack(spoken_of.certificate(), &forged, &id, order),
    );
    let edge = &mesh.edges[0];
    until("the forgery is counted", edge, |edge| refused(edge) >= 1.0);
    until("the forgery is audited", edge, |edge| {
        audited(
            edge,
            &[
                "statement_refused",
                "edge-80",
                &spoken_of.node_id().to_string(),
            ],
        )
    });
    for edge in &mesh.edges {
        assert!(!sees(&edge.cluster()).contains(&"edge-81".to_owned()));
    }
    // The same as it was signed: nothing was wrong with it but the forgery.
    let before = refused(edge);
    gossip(
        &mesh,
        &teller,
        ack(spoken_of.certificate(), &statement, &id, order),
    );
    let received = |edge: &Node| edge.metric("stoq_gossip_messages_received_total", &[]);
    let heard = received(edge);
    until("more is heard", edge, |edge| received(edge) > heard + 5.0);
    assert_eq!(refused(edge), before);
}

#[test]
fn a_record_for_another_node_is_refused_counted_and_audited() {
    const TEST: &str = "a_record_for_another_node_is_refused_counted_and_audited";
    let Some(mesh) = Plan::edges(EDGES).more(1).start(TEST) else {
        return;
    };
    let edge = &mesh.edges[0];
    let report = edge.cluster();
    let owner = report
        .nodes
        .iter()
        .find(|node| node.name == edge.name)
        .unwrap();
    let mut owner_id = [0; 32];
    for (at, byte) in owner_id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&owner.id[2 * at..2 * at + 2], 16).unwrap();
    }
    let holder = mesh.identity("edge-81", Role::Edge);
    let teller = mesh.identity("edge-80", Role::Edge);
    let announcement = Announcement {
        terms: Terms {
            holder: node_id(holder.node_id()),
            owner: stoq_routing::NodeId(owner_id),
            generation: u64::MAX,
            sequence: 1,
        },
        changes: vec![Change::Add(Record {
            key: stoq_routing::Key([7; 32]),
            manifest: [8; 32],
            fraction: WHOLE,
            generation: 1,
        })],
    };
    // Signed by the holder that is named, and brought by another.
    let signed = Signed::by(&Papers::new(&holder), announcement);
    let reply = saying(&mesh, &teller, move |conn| async move {
        let ask = Ask::new(INDEX, Request::Announce(signed).encode());
        Reply::decode(&conn.unwrap().call(ask).await.unwrap()).unwrap()
    });
    assert_eq!(reply, Reply::Refused(Refusal::ForAnother));
    let count = edge.metric("stoq_index_refused_total", &["reason=\"for_another\""]);
    assert_eq!((count, edge.metric("stoq_index_records", &[])), (1.0, 0.0));
    let teller = teller.node_id().to_string();
    until("it is audited", edge, |edge| {
        audited(
            edge,
            &["statement_refused", "announced for another", &teller],
        )
    });
}

#[test]
fn a_node_of_another_cluster_is_refused_counted_and_audited() {
    const TEST: &str = "a_node_of_another_cluster_is_refused_counted_and_audited";
    let Some(mesh) = Plan::edges(EDGES).more(1).start(TEST) else {
        return;
    };
    // Of the same name, by another root; it takes ours for its own, or it would not come so far as to be refused.
    let validity = || Validity::starting(UnixTime::now(), Duration::from_secs(3600));
    let root = ClusterRoot::generate(CLUSTER, validity()).unwrap();
    let file = root.issue("edge-1", &[Role::Edge], validity()).unwrap();
    let stranger = Identity::new(file, root.certificate().clone()).unwrap();
    let mut tls = rustls::ClientConfig::clone(&stranger.client_config(ALPN).unwrap());
    tls.dangerous().set_certificate_verifier(Arc::new(Anyone));
    let tls = TlsClient::new(Arc::new(tls)).unwrap();
    let edge = &mesh.edges[0];
    let to = edge.stoq();
    let ended = mesh.network.run(mesh.more(), move || async move {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let endpoint = Endpoint::client(any, between_nodes()).unwrap();
        let conn = endpoint.connect(to, SERVER_NAME, &tls).await.unwrap();
        // Its own part of the handshake was done; this is what the edge says to it.
        conn.closed().await
    });
    let ended = ended.join().unwrap();
    println!("{ended}");
    assert!(
        matches!(
            ended,
            ConnectionError::TransportClosed { by_peer: true, .. }
        ),
        "{ended:?}"
    );
    let stranger = stranger.node_id().to_string();
    until("it is audited", edge, |edge| {
        audited(edge, &["handshake_refused", &stranger])
    });
    let counted = edge.metric("stoq_identity_refused_foreign_total", &[]);
    assert_eq!(counted, 1.0);
}

/// Takes any certificate.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[test]
fn a_revoked_member_is_out_of_every_view_and_not_let_in_again() {
    const TEST: &str = "a_revoked_member_is_out_of_every_view_and_not_let_in_again";
    let Some(mesh) = Plan::edges(EDGES + 1).start(TEST) else {
        return;
    };
    let gone = mesh.edges[EDGES].name.clone();
    let report = mesh.edges[0].cluster();
    let id = report
        .nodes
        .iter()
        .find(|node| node.name == gone)
        .unwrap()
        .id
        .clone();
    let began = Instant::now();
    let list = mesh.directory().join(REVOKED);
    let new = mesh.directory().join("revoked.new");
    std::fs::write(&new, format!("{id}  # {gone}\n")).unwrap();
    std::fs::rename(&new, &list).unwrap();
    let others: Vec<_> = (0..EDGES).collect();
    let took = mesh.until("it is in no view", began, LIMIT, &others, |report| {
        !sees(report).contains(&gone)
    });
    println!("revoked, it was in no view after {:?}", took.iter().max());
    // It goes on trying.
    for edge in &mesh.edges[..EDGES] {
        let count = |edge: &Node| edge.metric("stoq_identity_refused_revoked_total", &[]);
        until("it is refused and counted", edge, |edge| count(edge) >= 1.0);
        until("it is audited", edge, |edge| {
            audited(
                edge,
                &["handshake_refused", "is on the revocation list", &id],
            )
        });
        assert!(!sees(&edge.cluster()).contains(&gone));
    }
}
