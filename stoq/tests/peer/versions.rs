//! Nodes of this version and of the one before it, in either role.

use std::time::Duration;

use bytes::Bytes;
use stoq::hello::HelloRefusal;
use stoq::identity::{ALPN, Identity, Role, SERVER_NAME};
use stoq::peer::{DialConfig, Exchange, Part, PeerConn, PeerError, ServeConfig};
use stoq::quic::{TlsClient, TransportConfig};
use stoq::wire::{CloseCode, Decoder, Frame, VERSION, VERSION_MIN, Versions};

use crate::cluster::{Server, client, echo, loopback, node, root, soon};

const OLD: Versions = match Versions::up_to(VERSION_MIN) {
    Some(versions) => versions,
    None => panic!("the oldest version is spoken"),
};

const NEW_ONLY: Versions = match Versions::from(VERSION) {
    Some(versions) => versions,
    None => panic!("the newest version is spoken"),
};

/// A node that speaks these versions, and what it takes another one to dial it.
fn server(versions: Versions) -> (Server, Identity) {
    let root = root("demo");
    let config = ServeConfig {
        versions,
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
    (server, node(&root, "edge-1", &[Role::Edge]))
}

async fn dial(edge: &Identity, server: &Server, versions: Versions) -> Result<PeerConn, PeerError> {
    let config = DialConfig {
        versions,
        ..DialConfig::default()
    };
    soon(
        "dial",
        PeerConn::dial(&client(), edge, server.addr, &config),
    )
    .await
}

#[tokio::test]
async fn this_version_and_the_one_before_talk_in_either_role() {
    let all = Versions::default();
    for (dialling, serving, agreed) in [
        (all, all, VERSION),
        (all, OLD, VERSION_MIN),
        (OLD, all, VERSION_MIN),
        (OLD, OLD, VERSION_MIN),
        (NEW_ONLY, all, VERSION),
    ] {
        let (server, edge) = server(serving);
        let conn = dial(&edge, &server, dialling).await.unwrap();
        assert_eq!(conn.peer().version, agreed);
        let limit = Some(Duration::from_secs(10));
        let Exchange { mut send, mut recv } = conn
            .exchange(7, Bytes::from_static(b"what"), limit)
            .await
            .unwrap();
        send.data(Bytes::from_static(b"body")).await.unwrap();
        send.finish().await.unwrap();
        assert_eq!(
            soon("head", recv.next()).await.unwrap(),
            Some(Part::Head(Bytes::from_static(b"what")))
        );
        assert_eq!(
            soon("body", recv.next()).await.unwrap(),
            Some(Part::Data(Bytes::from_static(b"body")))
        );
        assert_eq!(soon("end", recv.next()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn without_a_version_in_common_both_sides_say_so() {
    let (server, edge) = server(OLD);
    let refused = dial(&edge, &server, NEW_ONLY).await;
    // Who hears the other's hello first refuses: that is the server.
    assert!(
        matches!(
            &refused,
            Err(PeerError::RefusedByPeer {
                code: CloseCode::Version,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(server.peers.counters().refused_version.get(), 1);

    let (server, edge) = self::server(NEW_ONLY);
    let refused = dial(&edge, &server, OLD).await;
    assert!(
        matches!(
            &refused,
            Err(PeerError::RefusedByPeer {
                code: CloseCode::Version,
                ..
            })
        ),
        "{refused:?}"
    );
    let theirs = HelloRefusal::Version {
        theirs: (1, 1),
        ours: (2, 2),
    };
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains(&theirs.to_string()),
        "the reason tells both ranges"
    );
}

/// Bytes as a node wrote them that never heard of version 2.
#[tokio::test]
async fn a_node_of_version_1_is_answered_in_version_1() {
    let (server, edge) = server(Versions::default());
    let tls = TlsClient::new(edge.client_config(ALPN).unwrap()).unwrap();
    let conn = soon("connect", client().connect(server.addr, SERVER_NAME, &tls))
        .await
        .unwrap();
    let (mut control, mut answer) = conn.open_bi().await.unwrap();
    let hello = b"\x01\x01\0\0\0\0\0\x17\x01\x01\x01\x06\0\0\0\0\0\0\0\0edge-1\x04edge";
    control.write_all(hello).await.unwrap();
    let mut said = soon("hello", answer.read_chunk(1000))
        .await
        .unwrap()
        .unwrap();
    let Ok(Some(Frame::Hello(hello))) = Decoder::new(1).next(&mut said) else {
        panic!("no hello in {said:?}")
    };
    assert_eq!((hello.version_min, hello.version_max), (1, 2));

    let (mut send, mut recv) = conn.open_bi().await.unwrap();
    send.write_all(b"\x01\x03\0\x07\0\0\0\x0c\0\0\0\0\0\0\0\0what\x01\x07\0\0\0\0\0\0")
        .await
        .unwrap();
    send.finish().unwrap();
    let all = soon("answer", recv.read_to_end(1000)).await.unwrap();
    assert_eq!(all, b"\x01\x04\0\0\0\0\0\x04what\x01\x07\0\0\0\0\0\0");
}
