//! Dial once, backoff, idleness, restart, bounds.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stoq::early::{TicketConfig, Tickets};
use stoq::identity::{Identity, LEAF_LIFETIME_MAX, Role};
use stoq::peer::{DialConfig, Exchange, ExchangeError, PeerError, ServeConfig};
use stoq::pool::{Pool, PoolConfig, PoolError};
use stoq::quic::{CidKeys, ConnectError, EndpointConfig, TransportConfig};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::{
    PATIENCE, Server, Shifted, client, drain, echo, loopback, node, pool, pool_with, root, soon,
    until, year,
};

/// A port where nobody answers: bound, never read.
fn nobody() -> UdpSocket {
    UdpSocket::bind(loopback()).unwrap()
}

const BACKOFF_MIN: Duration = Duration::from_millis(200);

fn impatient() -> PoolConfig {
    let dial = DialConfig {
        connect_timeout: Duration::from_millis(100),
        ..DialConfig::default()
    };
    PoolConfig {
        dial,
        backoff_min: BACKOFF_MIN,
        seed: 7,
        ..PoolConfig::default()
    }
}

#[tokio::test]
async fn hundred_askers_share_one_dial() {
    let root = root("demo");
    let server = Server::start(&node(&root, "shield-1", &[Role::Shield]), echo());
    let pool = pool(&node(&root, "edge-1", &[Role::Edge]));
    let mut askers = JoinSet::new();
    for _ in 0..100 {
        let (pool, addr) = (pool.clone(), server.addr);
        askers.spawn(async move {
            let conn = pool.get(addr).await.unwrap();
            let mut exchange = conn
                .exchange(1, Bytes::from_static(b"x"), None)
                .await
                .unwrap();
            exchange.send.finish().await.unwrap();
            drain(&mut exchange.recv).await.unwrap();
        });
    }
    soon("all", askers.join_all()).await;
    let counters = pool.counters();
    assert_eq!(
        (counters.dials_started.get(), counters.dials_completed.get()),
        (1, 1)
    );
    assert_eq!(counters.joined_a_dial.get() + counters.reused.get(), 99);
    assert_eq!(server.peers.counters().peers_accepted.get(), 1);
    assert_eq!(pool.peers(), 1);
}

#[tokio::test]
async fn hundred_askers_share_one_failure() {
    let root = root("demo");
    let silence = nobody();
    let addr = silence.local_addr().unwrap();
    let pool = pool_with(&node(&root, "edge-1", &[Role::Edge]), impatient());
    let mut askers = JoinSet::new();
    for _ in 0..100 {
        let pool = pool.clone();
        askers.spawn(async move { pool.get(addr).await });
    }
    for result in soon("all", askers.join_all()).await {
        assert!(matches!(
            result,
            Err(PoolError::Dial(PeerError::Timeout { .. }) | PoolError::BackingOff { .. })
        ));
    }
    assert_eq!(
        (
            pool.counters().dials_started.get(),
            pool.counters().dials_failed.get()
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn asker_that_leaves_does_not_take_the_dial_with_it() {
    let root = root("demo");
    let server = Server::start(&node(&root, "shield-1", &[Role::Shield]), echo());
    let pool = pool(&node(&root, "edge-1", &[Role::Edge]));
    let first = tokio::time::timeout(Duration::ZERO, pool.get(server.addr)).await;
    assert!(first.is_err());
    soon("dial", pool.get(server.addr)).await.unwrap();
    assert_eq!(pool.counters().dials_started.get(), 1);
}

#[tokio::test]
async fn backoff_grows_and_a_success_resets_it() {
    let root = root("demo");
    let silence = nobody();
    let addr = silence.local_addr().unwrap();
    let pool = pool_with(&node(&root, "edge-1", &[Role::Edge]), impatient());
    let mut waits = Vec::new();
    for failures in 1..=3 {
        let failed = soon("failure", async {
            loop {
                match pool.get(addr).await {
                    Err(PoolError::BackingOff { retry_in, .. }) => {
                        tokio::time::sleep(retry_in).await
                    }
                    other => return other,
                }
            }
        });
        assert!(matches!(failed.await, Err(PoolError::Dial(_))));
        let Err(PoolError::BackingOff { retry_in, last }) = pool.get(addr).await else {
            panic!()
        };
        assert!(matches!(last, PeerError::Timeout { .. }));
        assert_eq!(pool.counters().dials_failed.get(), failures);
        waits.push(retry_in);
    }
    // Each is what is left of a time drawn from 100–200, 200–400 and 400–800 ms.
    assert!(waits[0] <= BACKOFF_MIN, "{waits:?}");
    assert!(waits[2] > BACKOFF_MIN, "{waits:?}");
    assert!(pool.counters().refused_backing_off.get() >= 3);

    drop(silence);
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let server = Server::with(
        &shield,
        echo(),
        ServeConfig::default(),
        TransportConfig::default(),
        addr,
    );
    let conn = soon("success", async {
        loop {
            match pool.get(addr).await {
                Err(PoolError::BackingOff { retry_in, .. }) => tokio::time::sleep(retry_in).await,
                other => return other,
            }
        }
    });
    let conn = conn.await.unwrap();
    drop(server);
    soon("end", conn.closed()).await;
    let _silence = soon("port", async {
        loop {
            match UdpSocket::bind(addr) {
                Ok(socket) => return socket,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    });
    let _silence = _silence.await;
    assert!(matches!(
        soon("failure", pool.get(addr)).await,
        Err(PoolError::Dial(_))
    ));
    let Err(PoolError::BackingOff { retry_in, .. }) = pool.get(addr).await else {
        panic!()
    };
    assert!(retry_in <= BACKOFF_MIN, "{retry_in:?} after a success");
}

#[tokio::test]
async fn peer_restart_is_survived() {
    let root = root("demo");
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let server = Server::start(&shield, echo());
    let addr = server.addr;
    let pool = pool(&node(&root, "edge-1", &[Role::Edge]));
    let ask = async |pool: &Pool| -> Result<u64, ExchangeError> {
        let conn = pool.get(addr).await.unwrap();
        let mut exchange = conn.exchange(1, Bytes::new(), None).await?;
        exchange.send.data(Bytes::from_static(b"abc")).await?;
        exchange.send.finish().await?;
        Ok(drain(&mut exchange.recv).await?.0)
    };
    assert_eq!(soon("first", ask(&pool)).await.unwrap(), 3);
    let conn = pool.get(addr).await.unwrap();
    drop(server);
    soon("end", conn.closed()).await;
    let server = soon("restart", async {
        loop {
            // The port is free when the old endpoint's task has ended.
            if UdpSocket::bind(addr).is_ok() {
                return Server::with(
                    &shield,
                    echo(),
                    ServeConfig::default(),
                    TransportConfig::default(),
                    addr,
                );
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let _server = server.await;
    assert_eq!(soon("second", ask(&pool)).await.unwrap(), 3);
    assert_eq!(pool.counters().dials_completed.get(), 2);
}

#[tokio::test]
async fn drained_peer_is_let_go_and_turns_newcomers_away() {
    let root = root("demo");
    let server = Server::start(&node(&root, "shield-1", &[Role::Shield]), echo());
    let pool = pool(&node(&root, "edge-1", &[Role::Edge]));
    let conn = soon("dial", pool.get(server.addr)).await.unwrap();
    server.peers.drain(PATIENCE);
    soon("end of the idle connection", conn.closed()).await;
    assert_eq!(server.peers.counters().closed_at_drain_end.get(), 0);
    let result = soon("refusal", pool.get(server.addr)).await;
    let Err(PoolError::Dial(PeerError::Connect { source, .. })) = result else {
        panic!("{result:?}")
    };
    assert!(matches!(source, ConnectError::Connection(error) if error.is_refused()));
}

#[tokio::test]
async fn idle_connection_is_closed_and_one_in_use_is_not() {
    let root = root("demo");
    let server = Server::start(&node(&root, "shield-1", &[Role::Shield]), echo());
    let dial = DialConfig {
        idle_close: Duration::from_millis(80),
        ..DialConfig::default()
    };
    let config = PoolConfig {
        dial,
        seed: 1,
        ..PoolConfig::default()
    };
    let pool = pool_with(&node(&root, "edge-1", &[Role::Edge]), config);
    let conn = soon("dial", pool.get(server.addr)).await.unwrap();
    let exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
    let in_use = tokio::time::timeout(Duration::from_millis(300), conn.closed()).await;
    assert!(in_use.is_err(), "closed with an exchange under way");
    let start = Instant::now();
    drop(exchange);
    soon("idle close", conn.closed()).await;
    assert!(start.elapsed() >= Duration::from_millis(80));
    let again = soon("dial", pool.get(server.addr)).await.unwrap();
    assert!(again.exchange(1, Bytes::new(), None).await.is_ok());
    assert_eq!(pool.counters().dials_completed.get(), 2);
}

#[tokio::test]
async fn number_of_peers_is_bounded_and_idle_ones_make_room() {
    let root = root("demo");
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let servers: Vec<_> = (0..3).map(|_| Server::start(&shield, echo())).collect();
    let config = PoolConfig {
        peers_max: 2,
        seed: 1,
        ..PoolConfig::default()
    };
    let pool = pool_with(&node(&root, "edge-1", &[Role::Edge]), config);
    let mut held = Vec::new();
    for server in &servers[..2] {
        let conn = soon("dial", pool.get(server.addr)).await.unwrap();
        held.push(conn.exchange(1, Bytes::new(), None).await.unwrap());
    }
    assert!(matches!(
        pool.get(servers[2].addr).await,
        Err(PoolError::TooManyPeers(2))
    ));
    held.remove(0);
    soon("dial", pool.get(servers[2].addr)).await.unwrap();
    assert_eq!((pool.peers(), pool.counters().evicted.get()), (2, 1));
    assert_eq!(pool.counters().refused_too_many_peers.get(), 1);
}

#[tokio::test]
async fn closed_pool_closes_its_connections_and_gives_no_more() {
    let root = root("demo");
    let server = Server::start(&node(&root, "shield-1", &[Role::Shield]), echo());
    let pool = Pool::new(
        client(),
        node(&root, "edge-1", &[Role::Edge]),
        PoolConfig::default(),
    );
    let conn = soon("dial", pool.get(server.addr)).await.unwrap();
    let silence = nobody();
    let (asker, addr) = (pool.clone(), silence.local_addr().unwrap());
    let waiting = tokio::spawn(async move { asker.get(addr).await });
    until("dial", || pool.counters().dials_started.get() == 2).await;
    pool.close();
    soon("end", conn.closed()).await;
    assert!(matches!(
        soon("waiter", waiting).await.unwrap(),
        Err(PoolError::Closed)
    ));
    assert!(matches!(
        pool.get(server.addr).await,
        Err(PoolError::Closed)
    ));
}

#[tokio::test]
async fn connection_is_replaced_when_a_certificate_of_it_ends() {
    let (root, clock) = (root("demo"), Arc::new(Shifted::default()));
    let node = |name: &str| {
        let file = root.issue(name, &[Role::Shield], year()).unwrap();
        Identity::with_clock(file, root.certificate().clone(), clock.clone()).unwrap()
    };
    let server = Server::start(&node("shield-1"), echo());
    let pool = pool(&node("edge-1"));
    let old = soon("dial", pool.get(server.addr)).await.unwrap();
    let under_way = old.exchange(1, Bytes::new(), None).await.unwrap();
    clock.forward(LEAF_LIFETIME_MAX + Duration::from_secs(1));
    let new = soon("dial", pool.get(server.addr)).await.unwrap();
    assert!(new.peer().identity.not_after > old.peer().identity.not_after);
    assert_eq!(pool.counters().dials_completed.get(), 2);

    // What was under way goes on; then the old connection closes.
    let Exchange { mut send, mut recv } = under_way;
    send.data(Bytes::from_static(b"still here")).await.unwrap();
    send.finish().await.unwrap();
    assert_eq!(soon("rest", drain(&mut recv)).await.unwrap().0, 10);
    drop(recv);
    soon("end", old.closed()).await;
    assert!(new.exchange(1, Bytes::new(), None).await.is_ok());
}

#[tokio::test]
async fn a_peer_that_gives_tickets_is_resumed_to_and_judged_anew() {
    let root = root("demo");
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let edge = node(&root, "edge-1", &[Role::Edge]);
    let tickets = Tickets::new(&TicketConfig::default());
    let mut endpoint = EndpointConfig::new(CidKeys::random());
    endpoint.server = Some(tickets.server_tls(&shield).unwrap());
    let server = Server::on(
        endpoint,
        &shield,
        echo(),
        ServeConfig::default(),
        loopback(),
    );
    let pool = pool(&edge);
    for dial in 0..5_u64 {
        let conn = soon("connection", pool.get(server.addr)).await.unwrap();
        let exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
        let Exchange { send, mut recv } = exchange;
        send.finish().await.unwrap();
        assert_eq!(soon("answer", drain(&mut recv)).await.unwrap().0, 0);
        assert_eq!(pool.counters().dials_completed.get(), dial + 1);
        assert_eq!(pool.counters().dials_resumed.get(), dial);
        assert_eq!(conn.peer().identity.node_id, shield.node_id());
        conn.close();
        soon("end", conn.closed()).await;
    }
    assert_eq!(tickets.counters().tickets_used.get(), 4);
    assert_eq!(pool.counters().dials_failed.get(), 0);
}
