//! Pools in virtual time: peers that answer nothing, several connections, drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use stoq::peer::{Exchange, ExchangeError, Handler, IncomingRequest, PeerConn};
use stoq::pool::{PeerState, Pool, PoolConfig, PoolError};
use stoq::transport::{Carrier, Transport};
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{Act, drain, echo, pattern};
use crate::memory::{Two, ask, far, shield_addr};

fn config() -> PoolConfig {
    PoolConfig {
        unanswered_max: 3,
        backoff_min: Duration::from_secs(1),
        seed: 7,
        ..PoolConfig::default()
    }
}

fn pool(two: &Two, config: PoolConfig) -> Pool {
    Pool::new(two.client.clone(), two.edge.clone(), config)
}

/// Answers, or keeps the request and says nothing, as it is told.
fn moody() -> (Arc<dyn Handler>, Arc<AtomicBool>) {
    let silent = Arc::new(AtomicBool::new(false));
    let mood = silent.clone();
    let handler = Act(move |mut request: IncomingRequest| {
        let mood = mood.clone();
        async move {
            if mood.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            request.reply.data(pattern(10)).await.unwrap();
            request.reply.finish().await.unwrap();
        }
    });
    (Arc::new(handler), silent)
}

/// An exchange with two seconds to be answered.
async fn try_it(conn: &PeerConn) -> Result<u64, ExchangeError> {
    let limit = Some(Duration::from_secs(2));
    let Exchange { send, mut recv } = conn.exchange(1, Bytes::new(), limit).await?;
    send.finish().await?;
    Ok(drain(&mut recv).await?.0)
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_nothing_is_left_alone_until_a_probe_is_answered() {
    let (handler, silent) = moody();
    let two = Two::new(1, handler);
    two.network.set_default(far(10));
    let pool = pool(&two, config());
    let conn = pool.get(shield_addr()).await.unwrap();
    assert_eq!(try_it(&conn).await, Ok(10));

    silent.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let conn = pool.get(shield_addr()).await.unwrap();
        try_it(&conn).await.unwrap_err();
    }
    let Err(PoolError::Unanswering { retry_in }) = pool.get(shield_addr()).await else {
        panic!("still asked")
    };
    assert!(retry_in <= Duration::from_secs(1));
    let health = pool.health(shield_addr()).unwrap();
    assert_eq!(health.state, PeerState::Unanswering { retry_in });
    assert_eq!((health.unanswered, health.connections), (3, 1));

    // One may try; the others are refused meanwhile. It is not answered, so the wait is longer.
    sleep(retry_in).await;
    let probe = pool.get(shield_addr()).await.unwrap();
    assert!(matches!(
        pool.get(shield_addr()).await,
        Err(PoolError::Unanswering { .. })
    ));
    try_it(&probe).await.unwrap_err();
    let Err(PoolError::Unanswering { retry_in: second }) = pool.get(shield_addr()).await else {
        panic!("still asked")
    };
    assert!(second >= Duration::from_secs(1), "{second:?}");

    silent.store(false, Ordering::Relaxed);
    sleep(second).await;
    let probe = pool.get(shield_addr()).await.unwrap();
    assert_eq!(try_it(&probe).await, Ok(10));
    let counters = pool.counters();
    assert_eq!(
        (counters.breaker_opened.get(), counters.breaker_probes.get()),
        (2, 2)
    );
    assert_eq!(counters.refused_unanswering.get(), 3);
    // The connection was sound all the time.
    assert_eq!(counters.dials_completed.get(), 1);
    let health = pool.health(shield_addr()).unwrap();
    assert_eq!(health.state, PeerState::Connected);
    assert_eq!(
        (health.unanswered, health.carrier),
        (0, Some(Carrier::Memory))
    );
    assert_eq!(health.path.unwrap().rtt.as_millis(), 20);
}

#[tokio::test(start_paused = true)]
async fn errors_of_a_peer_that_answers_open_nothing() {
    let refuse = Act(|request: IncomingRequest| async move {
        if request.kind == 1 {
            request.reply.abort(451, "not here").await.unwrap();
        }
        // Else dropped, which resets.
    });
    let two = Two::new(1, Arc::new(refuse));
    let pool = pool(&two, config());
    for kind in [1, 2].repeat(10) {
        let conn = pool.get(shield_addr()).await.unwrap();
        let mut exchange = conn.exchange(kind, Bytes::new(), None).await.unwrap();
        exchange.recv.next().await.unwrap_err();
        // Nor what this side gives up.
        let given_up = conn.exchange(2, Bytes::new(), None).await.unwrap();
        drop(given_up);
    }
    assert_eq!(pool.counters().breaker_opened.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn lost_connections_count_and_a_peer_that_is_back_is_found() {
    let two = Two::new(1, echo());
    two.network.set_default(far(10));
    let rule = PoolConfig {
        unanswered_max: 1,
        ..config()
    };
    let pool = pool(&two, rule);
    let conn = pool.get(shield_addr()).await.unwrap();
    let mut exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
    two.cut();
    let error = exchange.recv.next().await.unwrap_err();
    assert!(matches!(error, ExchangeError::Connection(_)));
    assert!(matches!(
        pool.get(shield_addr()).await,
        Err(PoolError::Unanswering { .. })
    ));
    two.heal();
    let conn = loop {
        match pool.get(shield_addr()).await {
            Ok(conn) => break conn,
            Err(PoolError::Unanswering { retry_in } | PoolError::BackingOff { retry_in, .. }) => {
                sleep(retry_in).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(ask(&conn, pattern(10)).await.unwrap().0, 10);
}

/// A pool that left a peer alone which then died, and for longer than it does so.
async fn past_its_death(two: &Two, config: PoolConfig) -> Pool {
    two.network.set_default(far(10));
    let pool = pool(
        two,
        PoolConfig {
            unanswered_max: 1,
            ..config
        },
    );
    let conn = pool.get(shield_addr()).await.unwrap();
    let mut exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
    two.cut();
    exchange.recv.next().await.unwrap_err();
    assert_eq!(pool.counters().breaker_opened.get(), 1);
    sleep(Duration::from_secs(60)).await;
    pool
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_died_makes_room_for_another() {
    let two = Two::new(4, echo());
    let few = PoolConfig {
        peers_max: 1,
        ..config()
    };
    let pool = past_its_death(&two, few).await;
    let failed = pool.get(shield_addr()).await;
    assert!(matches!(failed, Err(PoolError::Dial(_))), "{failed:?}");
    sleep(Duration::from_secs(60)).await;
    let other = pool.get("10.0.0.9:7443".parse().unwrap()).await;
    assert!(matches!(other, Err(PoolError::Dial(_))), "{other:?}");
    assert_eq!(pool.counters().refused_too_many_peers.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_back_is_asked_once_its_dials_may_be() {
    let two = Two::new(5, echo());
    let pool = past_its_death(&two, config()).await;
    // The one who may try does not get there, and whoever asks next is told when to dial again.
    let failed = pool.get(shield_addr()).await;
    assert!(matches!(failed, Err(PoolError::Dial(_))), "{failed:?}");
    let Err(PoolError::BackingOff { retry_in, .. }) = pool.get(shield_addr()).await else {
        panic!("not left alone")
    };
    two.heal();
    sleep(retry_in).await;
    let conn = pool.get(shield_addr()).await.unwrap();
    assert_eq!(try_it(&conn).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn one_who_did_not_wait_for_the_dial_keeps_nobody_from_asking() {
    let two = Two::new(6, echo());
    let pool = past_its_death(&two, config()).await;
    two.heal();
    let patience = Duration::from_millis(1);
    let gone = timeout(patience, pool.get(shield_addr())).await;
    assert!(gone.is_err());
    let conn = pool.get(shield_addr()).await.unwrap();
    assert_eq!(try_it(&conn).await, Ok(0));
    assert_eq!(pool.counters().breaker_probes.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_is_followed_by_another_soon() {
    let (handler, silent) = moody();
    let two = Two::new(7, handler);
    two.network.set_default(far(10));
    let pool = pool(&two, config());
    silent.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let conn = pool.get(shield_addr()).await.unwrap();
        try_it(&conn).await.unwrap_err();
    }
    for _ in 0..5 {
        sleep(config().backoff_min).await;
        let probe = pool.get(shield_addr()).await.unwrap();
        let exchange = probe.exchange(1, Bytes::new(), None).await.unwrap();
        sleep(Duration::from_millis(200)).await;
        drop(exchange);
        let next = pool.get(shield_addr()).await;
        assert!(
            matches!(next, Err(PoolError::Unanswering { .. })),
            "{next:?}"
        );
    }
    silent.store(false, Ordering::Relaxed);
    sleep(config().backoff_min).await;
    let probe = pool.get(shield_addr()).await.unwrap();
    assert_eq!(try_it(&probe).await, Ok(10));
}

#[tokio::test(start_paused = true)]
async fn more_connections_are_made_while_those_there_are_busy() {
    let two = Two::new(1, echo());
    two.network.set_default(far(10));
    let pool = pool(&two, config());
    let mut busy = Vec::new();
    for _ in 0..6 {
        let conn = pool.get(shield_addr()).await.unwrap();
        busy.push(conn.exchange(1, Bytes::new(), None).await.unwrap());
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(pool.counters().dials_started.get(), 1);

    assert!(pool.want(shield_addr(), 3));
    for _ in 0..6 {
        let conn = pool.get(shield_addr()).await.unwrap();
        busy.push(conn.exchange(1, Bytes::new(), None).await.unwrap());
        sleep(Duration::from_secs(1)).await;
    }
    let health = pool.health(shield_addr()).unwrap();
    assert_eq!((health.connections, health.active), (3, 12));
    let counters = pool.counters();
    assert_eq!(
        (counters.dials_started.get(), counters.dials_for_more.get()),
        (3, 2)
    );
    assert_eq!(two.peers.counters().peers_accepted.get(), 3);

    // The first had 6 or 7, so the rest went to the others.
    let conn = pool.get(shield_addr()).await.unwrap();
    assert!(conn.active() <= 3, "{}", conn.active());

    // Those beyond what is wanted finish what they have, and go.
    assert!(pool.want(shield_addr(), 1));
    assert_eq!(pool.health(shield_addr()).unwrap().connections, 1);
    busy.clear();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(two.client.stats().links, 1);
    assert!(!pool.want("10.0.0.9:1".parse().unwrap(), 3));
}

#[tokio::test(start_paused = true)]
async fn connections_that_were_let_go_belong_to_the_pool_until_they_are_closed() {
    for drained in [true, false] {
        let two = Two::new(8, echo());
        two.network.set_default(far(10));
        let three = PoolConfig {
            connections: 3,
            ..config()
        };
        let pool = pool(&two, three);
        let mut busy = Vec::new();
        for _ in 0..5 {
            let conn = pool.get(shield_addr()).await.unwrap();
            busy.push(conn.exchange(1, Bytes::new(), None).await.unwrap());
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(two.client.stats().links, 3);
        // Two are more than are wanted, and the peer says goodbye to the third.
        assert!(pool.want(shield_addr(), 1));
        two.peers.drain(Duration::from_secs(3600));
        sleep(Duration::from_secs(1)).await;
        assert!(pool.get(shield_addr()).await.is_err());
        assert_eq!(two.client.stats().links, 3);
        let began = Instant::now();
        if drained {
            pool.drain(Duration::from_secs(5)).await;
            assert_eq!(began.elapsed().as_secs(), 5);
            assert_eq!(pool.counters().closed_at_drain_end.get(), 3);
        } else {
            pool.close();
        }
        for mut exchange in busy {
            let _head = exchange.recv.next().await;
            let end = exchange.recv.next().await;
            assert!(matches!(end, Err(ExchangeError::Connection(_))), "{end:?}");
        }
        assert!(began.elapsed().as_secs() <= 5);
    }
}

#[tokio::test(start_paused = true)]
async fn idle_connections_beyond_the_first_are_closed_too() {
    let two = Two::new(1, echo());
    let pool = pool(
        &two,
        PoolConfig {
            connections: 4,
            ..config()
        },
    );
    let mut busy = Vec::new();
    for _ in 0..8 {
        let conn = pool.get(shield_addr()).await.unwrap();
        busy.push(conn.exchange(1, Bytes::new(), None).await.unwrap());
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(two.client.stats().links, 4);
    busy.clear();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(two.client.stats().links, 0);
    assert!(pool.get(shield_addr()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn drain_waits_for_what_is_under_way_and_no_longer_than_its_grace() {
    let (handler, silent) = moody();
    let two = Two::new(1, handler);
    two.network.set_default(far(500));
    let quick = pool(&two, config());
    let conn = quick.get(shield_addr()).await.unwrap();
    let under_way = tokio::spawn(async move { try_it(&conn).await });
    sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    let other = quick.clone();
    let draining = tokio::spawn(async move { other.drain(Duration::from_secs(100)).await });
    sleep(Duration::from_millis(1)).await;
    assert!(matches!(
        quick.get(shield_addr()).await,
        Err(PoolError::Closed)
    ));
    assert_eq!(under_way.await.unwrap(), Ok(10));
    draining.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(3));
    assert_eq!(quick.counters().closed_at_drain_end.get(), 0);

    silent.store(true, Ordering::Relaxed);
    let slow = pool(&two, config());
    let conn = slow.get(shield_addr()).await.unwrap();
    let _under_way = conn.exchange(1, Bytes::new(), None).await.unwrap();
    let start = Instant::now();
    slow.drain(Duration::from_secs(5)).await;
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!(slow.counters().closed_at_drain_end.get(), 1);
}
