//! Nodes over a network in memory: latency, loss, reordering, partitions, and time that is not waited for.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use stoq::identity::{ALPN, Identity, Refusal, Role, SERVER_NAME};
use stoq::peer::{
    DialConfig, Exchange, ExchangeError, Handler, IncomingRequest, PeerConn, PeerError, PeerServer,
    ServeConfig,
};
use stoq::pool::{Pool, PoolConfig};
use stoq::quic::TransportConfig;
use stoq::shape::{Class, Limits, Rate, Shaper};
use stoq::transport::memory::{Conditions, Memory, Network};
use stoq::transport::{Carrier, ConnectionError, Link, Target, Transport};
use stoq::wire::CloseCode;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::{Act, Anyone, Shifted, drain, echo, node, pattern, root, year};

pub(crate) fn edge_addr() -> SocketAddr {
    "10.0.0.1:1000".parse().unwrap()
}

pub(crate) fn shield_addr() -> SocketAddr {
    "10.0.0.2:7443".parse().unwrap()
}

pub(crate) fn far(latency_ms: u64) -> Conditions {
    Conditions {
        latency: Duration::from_millis(latency_ms),
        ..Conditions::default()
    }
}

/// An edge and a shield on a network.
pub(crate) struct Two {
    pub(crate) network: Network,
    pub(crate) edge: Identity,
    /// Of the shield.
    pub(crate) clock: Arc<Shifted>,
    pub(crate) client: Arc<Memory>,
    pub(crate) peers: Arc<PeerServer>,
    pub(crate) task: JoinHandle<()>,
}

impl Two {
    pub(crate) fn new(seed: u64, handler: Arc<dyn Handler>) -> Self {
        println!("seed {seed}");
        let (network, root) = (Network::new(seed), root("demo"));
        let clock = Arc::new(Shifted::default());
        let file = root.issue("shield-1", &[Role::Shield], year()).unwrap();
        let shield = Identity::with_clock(file, root.certificate().clone(), clock.clone()).unwrap();
        let edge = node(&root, "edge-1", &[Role::Edge]);
        let (peers, task) = serve(&network, &shield, handler);
        let client = Arc::new(network.client(edge_addr()).unwrap());
        Self {
            network,
            edge,
            clock,
            client,
            peers,
            task,
        }
    }

    pub(crate) async fn dial(&self) -> Result<PeerConn, PeerError> {
        let config = DialConfig {
            connect_timeout: Duration::from_secs(60),
            idle_close: Duration::from_secs(3600),
            ..DialConfig::default()
        };
        PeerConn::dial(&self.client, &self.edge, shield_addr(), &config).await
    }

    pub(crate) fn cut(&self) {
        self.network.partition(edge_addr().ip(), shield_addr().ip());
    }

    pub(crate) fn heal(&self) {
        self.network.heal(edge_addr().ip(), shield_addr().ip());
    }
}

pub(crate) fn serve(
    network: &Network,
    identity: &Identity,
    handler: Arc<dyn Handler>,
) -> (Arc<PeerServer>, JoinHandle<()>) {
    let tls = identity.server_config(ALPN).unwrap();
    let config = TransportConfig {
        datagrams: true,
        ..TransportConfig::default()
    };
    let place = network.server(shield_addr(), tls, config).unwrap();
    let peers = Arc::new(PeerServer::new(
        place,
        identity.clone(),
        handler,
        ServeConfig::default(),
    ));
    let serving = peers.clone();
    (peers, tokio::spawn(async move { serving.serve().await }))
}

pub(crate) async fn ask(
    conn: &PeerConn,
    body: Bytes,
) -> Result<(u64, blake3::Hash), ExchangeError> {
    let Exchange { mut send, mut recv } = conn.exchange(1, Bytes::new(), None).await?;
    let sending = async move {
        send.data(body).await?;
        send.finish().await
    };
    let (sent, heard) = tokio::join!(sending, drain(&mut recv));
    sent.and(heard)
}

#[tokio::test(start_paused = true)]
async fn an_exchange_takes_the_round_trips_it_needs_and_no_time_of_ours() {
    let two = Two::new(1, echo());
    two.network.set_default(far(1000));
    let start = Instant::now();
    let conn = two.dial().await.unwrap();
    // One round trip for the handshake, one for the hellos.
    assert_eq!(start.elapsed().as_secs(), 4);
    assert_eq!(conn.carrier(), Carrier::Memory);
    assert_eq!(conn.peer().identity.name, "shield-1");
    let start = Instant::now();
    assert_eq!(ask(&conn, pattern(1000)).await.unwrap().0, 1000);
    assert_eq!(start.elapsed().as_secs(), 2);
    assert_eq!(conn.path().rtt.as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn bodies_arrive_whole_through_loss_and_reordering() {
    for seed in 1..=5 {
        let two = Two::new(seed, echo());
        two.network.set_default(Conditions {
            latency: Duration::from_millis(20),
            jitter: Duration::from_millis(10),
            loss: 0.1,
            reorder: 0.2,
        });
        let conn = two.dial().await.unwrap();
        let body = pattern(3_000_000);
        let want = (3_000_000, blake3::hash(&body));
        let exchanges = (0..8).map(|_| ask(&conn, body.clone()));
        for heard in futures_util::future::join_all(exchanges).await {
            assert_eq!(heard.unwrap(), want);
        }
        assert!(conn.path().lost_packets > 0);
    }
}

/// How long eight bodies take through loss, to the nanosecond.
async fn story(seed: u64) -> Vec<Duration> {
    let two = Two::new(seed, echo());
    two.network.set_default(Conditions {
        jitter: Duration::from_millis(7),
        loss: 0.05,
        ..far(20)
    });
    let conn = two.dial().await.unwrap();
    let mut times = Vec::new();
    for _ in 0..8 {
        let start = Instant::now();
        ask(&conn, pattern(300_000)).await.unwrap();
        times.push(start.elapsed());
    }
    times
}

#[tokio::test(start_paused = true)]
async fn same_seed_tells_the_same_story() {
    assert_eq!(story(7).await, story(7).await);
    assert_ne!(story(7).await, story(8).await);
}

#[tokio::test(start_paused = true)]
async fn a_short_partition_delays_and_a_long_one_ends_the_link() {
    let two = Two::new(1, echo());
    two.network.set_default(far(10));
    let conn = two.dial().await.unwrap();
    two.cut();
    let asking = {
        let conn = conn.clone();
        tokio::spawn(async move { ask(&conn, pattern(100_000)).await })
    };
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!asking.is_finished());
    two.heal();
    let start = Instant::now();
    assert_eq!(asking.await.unwrap().unwrap().0, 100_000);
    assert!(start.elapsed() < Duration::from_secs(1));

    two.cut();
    let start = Instant::now();
    assert_eq!(conn.closed().await, ConnectionError::TimedOut);
    assert_eq!(start.elapsed().as_secs(), 30);
    let result = two.dial().await;
    assert!(
        matches!(result, Err(PeerError::Connect { .. })),
        "{result:?}"
    );
    two.heal();
    let again = two.dial().await.unwrap();
    assert_eq!(ask(&again, pattern(10)).await.unwrap().0, 10);
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_a_word_does_not_end_a_link() {
    let two = Two::new(1, echo());
    let conn = two.dial().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3500)).await;
    assert_eq!(ask(&conn, pattern(10)).await.unwrap().0, 10);
}

#[tokio::test(start_paused = true)]
async fn certificates_are_judged_as_over_quic() {
    let two = Two::new(1, echo());
    let stranger = node(&root("demo"), "edge-9", &[Role::Edge]);
    let config = DialConfig::default();
    let dialled = PeerConn::dial(&two.client, &stranger, shield_addr(), &config).await;
    assert!(matches!(
        dialled,
        Err(PeerError::Refused {
            refusal: Refusal::Foreign(_),
            ..
        })
    ));
    assert_eq!(two.peers.counters().handshakes_failed.get(), 1);

    // A shield of another root, which the stranger trusts and which does not trust our edge.
    let other = root("demo");
    let (network, client) = (Network::new(1), "10.0.0.3:0".parse().unwrap());
    let (_peers, _task) = serve(&network, &node(&other, "shield-2", &[Role::Shield]), echo());
    let client = network.client(client).unwrap();
    let mut tls = rustls::ClientConfig::clone(&two.edge.client_config(ALPN).unwrap());
    tls.dangerous().set_certificate_verifier(Arc::new(Anyone));
    let target = Target {
        addr: shield_addr(),
        server_name: SERVER_NAME,
        tls: Arc::new(tls),
    };
    let error = client.connect(target).await.unwrap_err();
    let stoq::transport::ConnectError::Connection(ConnectionError::TransportClosed {
        code,
        by_peer: true,
        ..
    }) = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(CloseCode::of_transport(code), Some(CloseCode::Foreign));
}

/// Two bare links of one connection.
async fn links(network: &Network) -> (Arc<dyn Link>, Arc<dyn Link>, Memory, Memory) {
    let root = root("demo");
    let (edge, shield) = (node(&root, "edge-1", &[]), node(&root, "shield-1", &[]));
    let config = TransportConfig {
        datagrams: true,
        ..TransportConfig::default()
    };
    let join = |addr, identity: &Identity| {
        let tls = identity.server_config(ALPN).unwrap();
        network.server(addr, tls, config.clone()).unwrap()
    };
    let (client, server) = (join(edge_addr(), &edge), join(shield_addr(), &shield));
    let target = Target {
        addr: shield_addr(),
        server_name: SERVER_NAME,
        tls: edge.client_config(ALPN).unwrap(),
    };
    let accept = async { server.accept().await.unwrap().establish().await.unwrap() };
    let (there, here) = tokio::join!(client.connect(target), accept);
    (there.unwrap(), here, client, server)
}

#[tokio::test(start_paused = true)]
async fn datagrams_are_lost_and_overtake_each_other() {
    let network = Network::new(3);
    let (edge, shield, _client, _server) = links(&network).await;
    network.set_default(Conditions {
        loss: 0.2,
        reorder: 0.2,
        ..far(10)
    });
    // Each side has heard what the other takes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for number in 0..1000u32 {
        let data = Bytes::copy_from_slice(&number.to_be_bytes());
        edge.send_datagram(data).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut heard = Vec::new();
    while let Ok(data) = tokio::time::timeout(Duration::from_secs(1), shield.read_datagram()).await
    {
        heard.push(data.unwrap().get_u32());
    }
    assert!((700..900).contains(&heard.len()), "{} of 1000", heard.len());
    assert!(!heard.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn a_lost_frame_holds_up_its_own_stream_only() {
    let network = Network::new(5);
    let (edge, shield, _client, _server) = links(&network).await;
    network.set_default(Conditions {
        loss: 0.5,
        ..far(10)
    });
    let (mut streams, mut order) = (Vec::new(), Vec::new());
    for number in 0..8u8 {
        let mut send = edge.open_uni().await.unwrap();
        let mut chunks = [Bytes::from(vec![number])];
        send.write_all_chunks(&mut chunks).await.unwrap();
        send.finish().unwrap();
        streams.push(send);
    }
    let mut heard = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut recv = shield.accept_uni().await.unwrap();
        heard.spawn(async move { recv.read_chunk(1).await.unwrap().unwrap()[0] });
    }
    while let Some(number) = heard.join_next().await {
        order.push(number.unwrap());
    }
    assert!(!order.is_sorted(), "{order:?}");
    order.sort_unstable();
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test(start_paused = true)]
async fn deadline_and_cancellation_travel() {
    let slow = Act(|request: IncomingRequest| async move {
        let _request = request;
        std::future::pending::<()>().await;
    });
    let two = Two::new(1, Arc::new(slow));
    two.network.set_default(far(50));
    let conn = two.dial().await.unwrap();
    let limit = Some(Duration::from_secs(5));
    let mut exchange = conn.exchange(1, Bytes::new(), limit).await.unwrap();
    let start = Instant::now();
    exchange.recv.next().await.unwrap_err();
    assert!(start.elapsed() <= Duration::from_secs(6));
    drop(exchange);
    let given_up = conn.exchange(1, Bytes::new(), None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(given_up);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let counters = two.peers.counters();
    assert_eq!(counters.requests_started.get(), 2);
    let ended = counters.requests_past_deadline.get() + counters.requests_cancelled.get();
    assert_eq!(ended, 2);
}

#[tokio::test(start_paused = true)]
async fn drain_lets_go_and_turns_newcomers_away() {
    let mut two = Two::new(1, echo());
    two.network.set_default(far(5));
    let conn = two.dial().await.unwrap();
    two.peers.drain(Duration::from_secs(10));
    conn.closed().await;
    (&mut two.task).await.unwrap();
    let Err(PeerError::Connect { source, .. }) = two.dial().await else {
        panic!("let in")
    };
    assert!(
        matches!(&source, stoq::transport::ConnectError::Connection(error) if error.is_refused()),
        "{source:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_peer_that_has_died_unseen() {
    let two = Two::new(11, echo());
    two.network.set_default(far(20));
    let conn = two.dial().await.unwrap();
    ask(&conn, Bytes::from_static(b"x")).await.unwrap();
    two.cut();
    let began = Instant::now();
    two.peers.drain(Duration::from_secs(60));
    two.task.await.unwrap();
    let waited = began.elapsed();
    assert!(waited <= Duration::from_secs(2), "{waited:?}");
    assert_eq!(two.peers.counters().closed_quiet_in_drain.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pool_works_over_it_and_an_address_where_nobody_is_times_out() {
    let two = Two::new(1, echo());
    two.network.set_default(far(5));
    let config = PoolConfig {
        seed: 1,
        ..PoolConfig::default()
    };
    let pool = Pool::new(two.client.clone(), two.edge.clone(), config);
    let conn = pool.get(shield_addr()).await.unwrap();
    assert_eq!(ask(&conn, pattern(100)).await.unwrap().0, 100);
    let nobody = "10.0.0.9:7443".parse().unwrap();
    let start = Instant::now();
    assert!(pool.get(nobody).await.is_err());
    assert_eq!(start.elapsed().as_secs(), 3);
    pool.close();
    assert_eq!(two.client.stats().connects_completed, 1);
    two.client.wait_idle().await;
}

#[tokio::test(start_paused = true)]
async fn bodies_leave_at_the_rate_of_the_node_and_serve_goes_first() {
    const BODY: usize = 2_000_000;
    let two = Two::new(20, echo());
    let rate = NonZeroU64::new(1_000_000).unwrap();
    let shaper = Shaper::new(&Limits {
        node: Some(Rate::new(rate)),
        ..Limits::default()
    });
    let config = DialConfig {
        shaper: Some(shaper.clone()),
        ..DialConfig::default()
    };
    let conn = PeerConn::dial(&two.client, &two.edge, shield_addr(), &config)
        .await
        .unwrap();
    let begun = Instant::now();
    let send = async |class| {
        let Exchange { mut send, mut recv } = conn.exchange(1, Bytes::new(), None).await.unwrap();
        send.set_class(class);
        let sending = async {
            send.data(pattern(BODY)).await.unwrap();
            let sent = begun.elapsed();
            send.finish().await.unwrap();
            sent
        };
        let (sent, heard) = tokio::join!(sending, drain(&mut recv));
        assert_eq!(heard.unwrap().0, BODY as u64);
        sent
    };
    let (fill, serve) = tokio::join!(send(Class::Fill), send(Class::Serve));
    println!("serve {serve:?}, fill {fill:?}");
    let (bytes, counters) = (BODY as u64, shaper.counters());
    assert_eq!(counters.serve_bytes.get(), bytes);
    assert_eq!(counters.fill_bytes.get(), bytes);
    // 4 MB at 1 MB a second, less what the bucket held; serve has four fifths of it while both want.
    assert!((3.5..=4.1).contains(&fill.as_secs_f64()), "{fill:?}");
    assert!(serve < Duration::from_millis(2_800), "{serve:?}");
}
