//! What a client may cost, and what happens beyond it.

use std::time::Duration;

use http::{Method, Version};
use stoq_edge::listen::Limits;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::client::{ALL, Client};
use crate::rig::{Rig, until, within};
use crate::scripted::HIT;

const LONG: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(200);

#[tokio::test]
async fn tcp_and_quic_share_one_bound_on_connections() {
    let rig = Rig::with(
        Limits {
            connections: 2,
            ..Limits::default()
        },
        LONG,
    );
    let mut over_udp = Client::connect(&rig, Version::HTTP_3).await.unwrap();
    let mut over_tcp = Client::connect(&rig, Version::HTTP_2).await.unwrap();
    for version in ALL {
        let third = match within(Client::connect(&rig, version)).await {
            Ok(mut client) => within(client.get("/hit")).await,
            Err(error) => Err(error),
        };
        assert!(third.is_err(), "{version:?}");
    }
    for client in [&mut over_udp, &mut over_tcp] {
        assert_eq!(
            within(client.get("/hit"))
                .await
                .unwrap()
                .body()
                .await
                .unwrap(),
            HIT
        );
    }
    drop((over_udp, over_tcp));
    until("their places are free again", || {
        rig.context.connections() == 0
    })
    .await;
    Client::connect(&rig, Version::HTTP_2).await.unwrap();
}

#[tokio::test]
async fn a_client_that_never_shakes_hands_is_let_go() {
    let rig = Rig::with(
        Limits {
            handshake_timeout: SOON,
            ..Limits::default()
        },
        LONG,
    );
    let mut silent = TcpStream::connect(rig.https).await.unwrap();
    assert_eq!(within(silent.read(&mut [0; 1])).await.unwrap_or(0), 0);
    until("its place is free", || rig.context.connections() == 0).await;
}

#[tokio::test]
async fn an_http3_head_that_does_not_come_is_given_up() {
    let rig = Rig::with(
        Limits {
            head_timeout: SOON,
            ..Limits::default()
        },
        LONG,
    );
    let Client::H3(_requests, connection) = Client::connect(&rig, Version::HTTP_3).await.unwrap()
    else {
        unreachable!()
    };
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[1]).await.unwrap();
    let end = within(recv.read_chunk(1)).await;
    assert!(
        matches!(end, Err(stoq::quic::ReadError::Reset(_))),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_tcp_client_that_asks_nothing_is_let_go() {
    let rig = Rig::with(
        Limits {
            idle_timeout: SOON,
            head_timeout: SOON,
            ..Limits::default()
        },
        LONG,
    );
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let mut client = Client::connect(&rig, version).await.unwrap();
        assert_eq!(
            within(client.get("/hit"))
                .await
                .unwrap()
                .body()
                .await
                .unwrap(),
            HIT
        );
        until("its place is free", || rig.context.connections() == 0).await;
    }
    let _silent = TcpStream::connect(rig.plain).await.unwrap();
    until("it is there", || rig.context.connections() == 1).await;
    until("its place is free", || rig.context.connections() == 0).await;
}

#[tokio::test]
async fn a_head_beyond_the_bound_is_refused_and_the_edge_goes_on() {
    let rig = Rig::with(
        Limits {
            header_bytes: 8192,
            ..Limits::default()
        },
        LONG,
    );
    for version in ALL {
        for size in [9_000, 100_000] {
            let mut client = Client::connect(&rig, version).await.unwrap();
            let big = [("x-big", "b".repeat(size))];
            let refused = match within(client.send(Method::GET, "/hit", &big, None)).await {
                Ok(answer) => answer.status() == 431,
                Err(_) => true,
            };
            assert!(refused, "{version:?} {size}");
        }
        let mut client = Client::connect(&rig, version).await.unwrap();
        assert_eq!(
            within(client.get("/hit"))
                .await
                .unwrap()
                .body()
                .await
                .unwrap(),
            HIT
        );
    }
    assert!(
        rig.service
            .done_with("/hit")
            .iter()
            .all(|done| done.sent.body_bytes == 1024)
    );
    assert_eq!(
        rig.service.done_with("/hit").len(),
        3,
        "the service saw none of the large heads"
    );
}
