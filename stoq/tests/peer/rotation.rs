//! Leaves come and go; exchanges do not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rustls_pki_types::UnixTime;
use stoq::identity::{
    ClusterRoot, Identity, LEAF_LIFETIME_MAX, PeerIdentity, Role, Rotation, Trust,
};
use stoq::peer::{
    DialConfig, Exchange, ExchangeError, Handler, IncomingRequest, Part, PeerConn, PeerInfo,
};
use stoq::pool::{Pool, PoolConfig};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cluster::{
    Server, Shifted, drain, echo, node, pool, pool_with, root, soon, until, year,
};

/// Names how many seconds [`exchanges_do_not_notice_leaves_of_10_s`] takes; 30 without it.
const SECONDS: &str = "STOQ_ROTATION_SECONDS";

fn rotating(root: &ClusterRoot, name: &str, role: Role, every: Duration) -> Identity {
    let mut trust = Trust::default();
    trust.rotation = Rotation::every(every).unwrap();
    let file = root.issue(name, &[role], year()).unwrap();
    Identity::with_trust(file, root.certificate().clone(), trust).unwrap()
}

/// Connections that nobody uses close after a second.
fn soon_idle() -> PoolConfig {
    let dial = DialConfig {
        idle_close: Duration::from_secs(1),
        ..DialConfig::default()
    };
    PoolConfig {
        dial,
        seed: 1,
        ..PoolConfig::default()
    }
}

/// Echoes, and counts exchanges of peers whose certificates live on tolerance.
struct Strict {
    echo: Arc<dyn Handler>,
    overdue: AtomicU64,
}

fn is_overdue(peer: &PeerIdentity) -> bool {
    UnixTime::now() > peer.not_after
}

impl Handler for Strict {
    fn handle<'a>(&'a self, peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        if is_overdue(&peer.identity) {
            self.overdue.fetch_add(1, Ordering::Relaxed);
        }
        self.echo.handle(peer, request)
    }
}

/// Says a few bytes and hears them back.
async fn ask(conn: &PeerConn) -> Result<(), String> {
    let text = |error: ExchangeError| error.to_string();
    let limit = Some(Duration::from_secs(10));
    let exchange = conn.exchange(1, Bytes::from_static(b"head"), limit);
    let Exchange { mut send, mut recv } = exchange.await.map_err(text)?;
    send.data(Bytes::from_static(b"body")).await.map_err(text)?;
    send.finish().await.map_err(text)?;
    match drain(&mut recv).await.map_err(text)?.0 {
        4 => Ok(()),
        bytes => Err(format!("{bytes} bytes came back")),
    }
}

/// One exchange that lasts as long as all the others together.
async fn ask_slowly(conn: &PeerConn, end: Instant) -> Result<u64, String> {
    let text = |error: ExchangeError| error.to_string();
    let exchange = conn.exchange(1, Bytes::new(), None).await.map_err(text)?;
    let Exchange { mut send, mut recv } = exchange;
    let mut sent = 0;
    while Instant::now() < end {
        send.data(Bytes::from_static(b"x")).await.map_err(text)?;
        sent += 1;
        // The head comes first.
        while !matches!(recv.next().await.map_err(text)?, Some(Part::Data(_))) {}
        sleep(Duration::from_millis(50)).await;
    }
    send.finish().await.map_err(text)?;
    drain(&mut recv).await.map_err(text)?;
    Ok(sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_do_not_notice_leaves_of_10_s() {
    let seconds = std::env::var(SECONDS).map_or(30, |text| text.parse().unwrap());
    let every = Duration::from_secs(10);
    let root = root("demo");
    let strict = Arc::new(Strict {
        echo: echo(),
        overdue: AtomicU64::new(0),
    });
    let shield = rotating(&root, "shield-1", Role::Shield, every);
    let server = Server::start(&shield, strict.clone());
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let mut askers = JoinSet::new();
    let mut pools: Vec<(Pool, Identity)> = Vec::new();
    for n in 0..4 {
        let edge = rotating(&root, &format!("edge-{n}"), Role::Edge, every);
        let pool = pool(&edge);
        pools.push((pool.clone(), edge));
        let addr = server.addr;
        let slow = pool.clone();
        askers.spawn(async move {
            let conn = slow.get(addr).await.unwrap();
            let sent = ask_slowly(&conn, end).await;
            (sent.is_ok(), sent.err().into_iter().collect::<Vec<_>>(), 1)
        });
        askers.spawn(async move {
            // Not all at once, so that their connections do not come due at once either.
            sleep_until(start + Duration::from_millis(700 * n)).await;
            let (mut strictly, mut failures, mut asked) = (true, Vec::new(), 0);
            while Instant::now() < end {
                let result = match pool.get(addr).await {
                    Ok(conn) => {
                        strictly &= !is_overdue(&conn.peer().identity);
                        ask(&conn).await
                    }
                    Err(error) => Err(error.to_string()),
                };
                asked += 1;
                failures.extend(result.err());
                sleep(Duration::from_millis(5)).await;
            }
            (strictly, failures, asked)
        });
    }
    let mut asked = 0;
    while let Some(asker) = askers.join_next().await {
        let (strictly, failures, count) = asker.unwrap();
        assert!(
            failures.is_empty(),
            "{} failed: {failures:?}",
            failures.len()
        );
        assert!(strictly, "a connection was used that lives on tolerance");
        asked += count;
    }
    assert_eq!(strict.overdue.load(Ordering::Relaxed), 0);
    assert_eq!(server.peers.counters().closed_expired.get(), 0);
    let replaced = |(pool, _): &(Pool, Identity)| pool.counters().replacements_started.get();
    let replacements: Vec<_> = pools.iter().map(replaced).collect();
    println!(
        "{asked} exchanges in {seconds} s, none failed; replaced connections {replacements:?}"
    );
    // A leaf of 10 s lasts for 30, and its connection is due when 20 of them are over.
    for (replacements, (_, edge)) in replacements.iter().zip(&pools) {
        assert!(*replacements >= (seconds - 5) / 20, "{replacements}");
        assert!(edge.leaf_validity().unwrap().not_after > UnixTime::now());
    }
}

#[tokio::test]
async fn successor_is_dialled_while_the_old_connection_serves() {
    let (root, clock) = (root("demo"), Arc::new(Shifted::default()));
    let node = |name: &str| {
        let file = root.issue(name, &[Role::Shield], year()).unwrap();
        Identity::with_clock(file, root.certificate().clone(), clock.clone()).unwrap()
    };
    let shield = node("shield-1");
    let server = Server::start(&shield, echo());
    let config = PoolConfig {
        backoff_min: Duration::from_millis(10),
        ..soon_idle()
    };
    let pool = pool_with(&node("edge-1"), config);
    let old = soon("dial", pool.get(server.addr)).await.unwrap();
    let days = |n: u32| LEAF_LIFETIME_MAX / 3 * n;
    clock.forward(days(2) - Duration::from_secs(60));
    pool.get(server.addr).await.unwrap();
    assert_eq!(pool.counters().dials_started.get(), 1, "not due yet");

    // The peer refuses newcomers just when the connection comes due: the old one goes on.
    server.endpoint.set_server(None);
    clock.forward(Duration::from_secs(120));
    soon("failed dial", async {
        while pool.counters().dials_failed.get() == 0 {
            let conn = pool.get(server.addr).await.unwrap();
            ask(&conn).await.unwrap();
        }
    })
    .await;
    let before = pool.get(server.addr).await.unwrap();
    assert_eq!(before.peer().identity, old.peer().identity);

    server
        .endpoint
        .set_server(Some(shield.server_tls().unwrap()));
    let new = soon("successor", async {
        loop {
            let conn = pool.get(server.addr).await.unwrap();
            ask(&conn).await.unwrap();
            if conn.peer().identity.not_after > old.peer().identity.not_after {
                return conn;
            }
            sleep(Duration::from_millis(1)).await;
        }
    });
    let new = new.await;
    // Whoever was given the old one a moment ago can still use it.
    ask(&before).await.unwrap();
    let after = pool.get(server.addr).await.unwrap();
    assert_eq!(after.peer().identity, new.peer().identity);
    let completed = pool.counters().dials_completed.get();
    assert_eq!(completed, 2, "and is not replaced again at once");
    soon("end of the old one", old.closed()).await;
}

#[tokio::test]
async fn leaf_rotated_by_hand_has_connections_replaced() {
    let root = root("demo");
    let server = Server::start(&node(&root, "shield-1", &[Role::Shield]), echo());
    let edge = node(&root, "edge-1", &[Role::Edge]);
    let pool = pool_with(&edge, soon_idle());
    let old = soon("dial", pool.get(server.addr)).await.unwrap();
    edge.rotate().unwrap();
    ask(&pool.get(server.addr).await.unwrap()).await.unwrap();
    until("successor", || pool.counters().dials_completed.get() == 2).await;
    ask(&old).await.unwrap();
    // One that was replaced closes with its pool, if not before.
    let mut under_way = old.exchange(1, Bytes::new(), None).await.unwrap();
    ask(&pool.get(server.addr).await.unwrap()).await.unwrap();
    assert_eq!(pool.counters().replacements_started.get(), 1);
    pool.close();
    let broken = async {
        while under_way.recv.next().await?.is_some() {}
        Ok(())
    };
    let broken: Result<(), ExchangeError> = soon("end", broken).await;
    assert!(broken.is_err());
}

#[tokio::test]
async fn identity_in_its_last_hours_is_not_dialled_over_and_over() {
    let (root, clock) = (root("demo"), Arc::new(Shifted::default()));
    let hour = stoq::identity::Validity::starting(UnixTime::now(), Duration::from_secs(3600));
    let file = root.issue("shield-1", &[Role::Shield], hour).unwrap();
    let shield = Identity::with_clock(file, root.certificate().clone(), clock.clone()).unwrap();
    let server = Server::start(&shield, echo());
    let file = root.issue("edge-1", &[Role::Edge], year()).unwrap();
    let edge = Identity::with_clock(file, root.certificate().clone(), clock.clone()).unwrap();
    clock.forward(Duration::from_secs(3000));
    let pool = pool(&edge);
    for _ in 0..20 {
        let conn = soon("dial", pool.get(server.addr)).await.unwrap();
        ask(&conn).await.unwrap();
    }
    assert_eq!(pool.counters().dials_started.get(), 1);
}
