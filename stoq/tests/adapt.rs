//! Connections that adapt know their path, raise their windows, and hand on what they learnt.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

mod pair;

use std::time::Duration;

use bytes::Bytes;
use pair::Pair;
use stoq::path::{Controller, Distance, WindowBounds};
use stoq::quic::{Connection, PathSnapshot, TransportConfig};

fn adapting() -> TransportConfig {
    TransportConfig {
        adapt: Some(WindowBounds::default()),
        ..TransportConfig::default()
    }
}

/// Moves bytes from `from` to `to` until this is seen; fails after 30 s.
async fn bulk_until(from: &Connection, to: &Connection, seen: impl Fn() -> bool) {
    let chunk = Bytes::from(vec![0x5a; 1 << 20]);
    let write = async {
        let mut send = from.open_uni().await.unwrap();
        while !seen() {
            send.write_all_chunks(&mut [chunk.clone()]).await.unwrap();
        }
        send.finish().unwrap();
    };
    let read = async {
        let mut recv = to.accept_uni().await.unwrap();
        while recv.read_chunk(usize::MAX).await.unwrap().is_some() {}
    };
    let both = async { tokio::join!(write, read) };
    tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .expect("seen");
}

fn measured(connection: &Connection) -> Option<PathSnapshot> {
    connection
        .snapshot()
        .filter(|snapshot| snapshot.class.bandwidth.is_some())
}

#[tokio::test]
async fn both_ends_classify_the_path_from_its_traffic() {
    let pair = Pair::with(adapting()).await;
    let snapshot = |connection: &Connection| connection.snapshot().map(|it| it.class.bandwidth);
    // A handshake proves a distance at most.
    assert!(matches!(snapshot(&pair.client), None | Some(None)));
    assert_eq!(pair.client.streams(), 1);
    bulk_until(&pair.client, &pair.server, || {
        measured(&pair.client).is_some() && measured(&pair.server).is_some()
    })
    .await;
    for connection in [&pair.client, &pair.server] {
        let snapshot = measured(connection).unwrap();
        println!("{snapshot:?}");
        assert_eq!(snapshot.class.distance, Distance::of(snapshot.path.rtt_min));
        assert!(snapshot.rate.unwrap().bytes_per_second > 0);
        let plan = snapshot.plan.unwrap();
        assert!(plan.connection_window > 0 && connection.streams() >= 1);
    }
    let histograms = pair.client_endpoint.path_histograms();
    let rtt = histograms.rtt_us.quantiles();
    assert!(rtt.count > 10 && rtt.p50 <= rtt.p999, "{rtt:?}");
    assert!(histograms.rate.quantiles().count > 0);
    assert!(histograms.mtu.quantiles().max >= 1200);
}

#[tokio::test]
async fn the_next_connection_begins_with_what_was_learnt() {
    let pair = Pair::with(adapting()).await;
    bulk_until(&pair.client, &pair.server, || {
        measured(&pair.client).is_some() && measured(&pair.server).is_some()
    })
    .await;
    let addr = pair.server_endpoint.local_addr().unwrap();
    let accept = async {
        let accepted = pair.server_endpoint.accept().await.unwrap();
        accepted.establish().await.unwrap()
    };
    let connect = pair
        .client_endpoint
        .connect(addr, "localhost", &pair.tls_client);
    let (server, client) = tokio::join!(accept, connect);
    // Both ends have measured the path.
    for connection in [client.unwrap(), server] {
        let learnt = connection.snapshot().unwrap();
        assert!(learnt.class.bandwidth.is_some(), "{learnt:?}");
        assert_eq!(learnt.rate, None, "known before a byte was moved");
    }
}

#[tokio::test]
async fn the_controller_is_the_one_that_was_configured() {
    for controller in [Controller::Cubic, Controller::Bbr, Controller::NewReno] {
        let transport = TransportConfig {
            controller: Some(controller),
            initial_window: Some(50_000),
            ..adapting()
        };
        let pair = Pair::with(transport).await;
        let path = pair.client.path();
        assert_eq!(path.controller, controller);
        assert!(path.cwnd >= 50_000, "{path:?}");
        bulk_until(&pair.client, &pair.server, || {
            pair.client.path().acked_bytes > 10_000_000
        })
        .await;
    }
}

#[tokio::test]
async fn adapting_keeps_no_connection_open() {
    let pair = Pair::with(adapting()).await;
    drop(pair.client);
    tokio::time::timeout(Duration::from_secs(10), pair.server.closed())
        .await
        .expect("closed with the last handle");
}

#[tokio::test]
async fn who_does_not_adapt_has_no_snapshot() {
    let pair = Pair::connect().await;
    bulk_until(&pair.client, &pair.server, || {
        pair.client.path().acked_bytes > 10_000_000
    })
    .await;
    assert_eq!(pair.client.snapshot(), None);
    assert_eq!(pair.client.streams(), 1);
    // Round trips are recorded all the same.
    let rtt = pair.client_endpoint.path_histograms().rtt_us.quantiles();
    assert!(rtt.count > 0);
}
