//! What the configuration says of the links between nodes, and of what a node sends, is what they do.

#![expect(
    clippy::unwrap_used,
    reason = "a step that fails ends the scenario, also in its functions"
)]

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use integration::{Answer, Client, Cluster, EdgeNode, Origin, Running, Version, body};
use stoq::peer::{DialConfig, ExchangeError, PeerConn, PeerError};
use stoq::quic::{ConnectError, ConnectionError, Endpoint};
use stoq::transport::tcp::Tcp;
use stoq::transport::{Carrier, Transport};
use stoq::wire::StreamCode;

const LIMIT: Duration = Duration::from_secs(30);

/// An origin that answers everything with these bytes.
async fn origin(whole: &Bytes) -> Origin {
    let whole = whole.clone();
    Origin::start(move |_| {
        let whole = whole.clone();
        async move { Answer::ok(whole).fresh(60).header("etag", "\"v\"") }
    })
    .await
}

async fn get(client: &Client, path: &str, whole: &Bytes) {
    let got = client.get(path).await.unwrap().whole().await.unwrap();
    assert_eq!(got.hash, blake3::hash(whole), "{path}");
}

/// Has objects travel from the shield to the edge until `enough`, or for as many times as it takes for something to show otherwise.
async fn travel(cluster: &Running, whole: &Bytes, mut enough: impl FnMut() -> bool) -> bool {
    let client = cluster.edge().client(Version::Http3).await;
    let begun = Instant::now();
    for number in 0.. {
        get(&client, &format!("/{number}"), whole).await;
        if enough() {
            return true;
        }
        if begun.elapsed() > LIMIT {
            break;
        }
    }
    false
}

fn largest_packet(cluster: &Running) -> f64 {
    let labels = ["quantile=\"1\""];
    cluster.shield().metric("stoq_path_mtu_bytes", &labels)
}

#[tokio::test]
async fn links_adapt_unless_they_are_told_not_to() {
    let whole = body::random(body::seed(), 8 << 20);
    let origin = origin(&whole).await;
    let start = |tables: &str| {
        let cluster = Cluster::new().origin(&origin).shield().workers(1);
        cluster.tables(tables).start()
    };
    let sampled = |cluster: &Running| {
        cluster
            .shield()
            .metric("stoq_path_rate_bytes_samples_total", &[])
    };
    let adapting = start("").await;
    assert!(travel(&adapting, &whole, || sampled(&adapting) > 2.0).await);
    println!(
        "largest rate {} B/s, largest packet {} B",
        adapting
            .shield()
            .metric("stoq_path_rate_bytes", &["quantile=\"1\""]),
        largest_packet(&adapting)
    );
    assert!(largest_packet(&adapting) <= 1452.0);

    let fixed = start("[stoq]\nadapt = false").await;
    let mut objects = 0;
    let several = || {
        objects += 1;
        objects == 10
    };
    assert!(travel(&fixed, &whole, several).await);
    assert_eq!(sampled(&fixed), 0.0);
    let rtts = "stoq_path_rtt_us_samples_total";
    assert!(fixed.shield().metric(rtts, &[]) > 0.0);
}

#[tokio::test]
async fn links_carry_packets_as_large_as_they_are_told_to_try() {
    let whole = body::random(body::seed(), 8 << 20);
    let origin = origin(&whole).await;
    let cluster = Cluster::new().origin(&origin).shield().workers(1);
    let cluster = cluster.tables("[stoq]\nmtu_max = \"8952B\"").start().await;
    // Found within 20 bytes.
    let jumbo = || largest_packet(&cluster) > 8900.0;
    assert!(travel(&cluster, &whole, jumbo).await);
    assert!(largest_packet(&cluster) <= 8952.0);
}

/// What lets TCP through to `to` and no UDP: a socket takes that and says nothing.
struct Wall {
    addr: SocketAddr,
    tcp: TcpListener,
    _udp: UdpSocket,
}

impl Wall {
    fn new() -> Self {
        // A port that is free for UDP may be taken for TCP.
        for _ in 0..16 {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            let addr = udp.local_addr().unwrap();
            if let Ok(tcp) = TcpListener::bind(addr) {
                tcp.set_nonblocking(true).unwrap();
                return Self {
                    addr,
                    tcp,
                    _udp: udp,
                };
            }
        }
        panic!("no port is free for both")
    }

    async fn stand_before(self, to: SocketAddr) {
        let tcp = tokio::net::TcpListener::from_std(self.tcp).unwrap();
        let mut relays = tokio::task::JoinSet::new();
        while let Ok((mut near, _)) = tcp.accept().await {
            relays.spawn(async move {
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                // Either side may break off.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    }
}

#[tokio::test]
async fn where_udp_does_not_get_through_nodes_meet_over_tcp_if_they_may() {
    let whole = body::random(body::seed(), 3 << 20);
    for tcp in [true, false] {
        let origin = origin(&whole).await;
        let wall = Wall::new();
        let cluster = Cluster::new()
            .origin(&origin)
            .shield_at(wall.addr)
            .site("shield_fallback = false")
            .tables(&format!("[stoq]\ntcp = {tcp}"))
            .start()
            .await;
        let wall = tokio::spawn(wall.stand_before(cluster.shield().addr()));
        let client = cluster.edge().client(Version::Http3).await;
        if tcp {
            get(&client, "/a", &whole).await;
            let (edge, shield) = (cluster.edge(), cluster.shield());
            let fell_back = edge.metric("stoq_fallback_fell_back_total", &[]);
            let arrived = shield.metric("stoq_tcp_handshakes_completed_total", &[]);
            assert_eq!((fell_back, arrived), (1.0, 1.0));
            assert_eq!(shield.metric("stoq_peer_peers_accepted_total", &[]), 1.0);
        } else {
            assert_eq!(client.get("/a").await.unwrap().status, 504);
            assert_eq!(origin.requests("/a"), 0);
        }
        wall.abort();
    }
}

/// Seconds that a client waits for a body of 4 MiB behind limits of 2 MB/s.
async fn seconds(edge: &EdgeNode, version: Version, path: &str, whole: &Bytes) -> f64 {
    let client = edge.client(version).await;
    let begun = Instant::now();
    get(&client, path, whole).await;
    begun.elapsed().as_secs_f64()
}

/// 4 MiB at 2 MB/s, less what passes at once.
const LEAST: f64 = 2.0;

#[tokio::test]
async fn a_node_sends_others_no_more_than_it_is_told() {
    let whole = body::random(body::seed(), 4 << 20);
    for tables in [
        "[shape]\nfill = { cap = \"2MB\" }",
        // Clients are served by the edge, which has this rate as well.
        "[shape]\nrate = \"2MB\"",
    ] {
        let origin = origin(&whole).await;
        let cluster = Cluster::new().origin(&origin).shield();
        let cluster = cluster.tables(tables).start().await;
        let took = seconds(cluster.edge(), Version::Http3, "/a", &whole).await;
        println!("{tables:?}: {took:.2} s");
        assert!(took > LEAST, "{tables}: {took}");
        let shield = cluster.shield();
        let sent = shield.metric("stoq_shape_fill_bytes_total", &[]);
        assert!(sent >= whole.len() as f64, "{tables}: {sent}");
        assert!(shield.metric("stoq_shape_fill_waits_total", &[]) > 0.0);
    }
}

#[tokio::test]
async fn an_edge_sends_clients_no_more_than_it_is_told() {
    let whole = body::random(body::seed(), 4 << 20);
    let origin = origin(&whole).await;
    let cluster = Cluster::new().origin(&origin);
    let tables = "[shape]\nserve = { cap = \"2MB\" }";
    let cluster = cluster.tables(tables).start().await;
    let edge = cluster.edge();
    for (what, version) in [
        ("miss", Version::Http3),
        ("hit", Version::Http3),
        ("hit", Version::Http2),
        ("hit", Version::Http1),
    ] {
        let took = seconds(edge, version, "/a", &whole).await;
        println!("{what}, {version:?}: {took:.2} s");
        assert!(took > LEAST, "{what}, {version:?}: {took}");
    }
    assert_eq!(origin.requests("/a"), 1);
    let sent = edge.metric("stoq_shape_serve_bytes_total", &[]);
    assert_eq!(sent, 4.0 * whole.len() as f64);
}

#[tokio::test]
async fn a_small_hit_is_the_same_whether_it_has_to_wait_or_not() {
    let whole = Bytes::from_static(b"hello");
    for tables in ["", "[shape]\nrate = \"2MB\""] {
        let origin = origin(&whole).await;
        let cluster = Cluster::new().origin(&origin).tables(tables).start().await;
        for version in [Version::Http3, Version::Http2, Version::Http1] {
            let client = cluster.edge().client(version).await;
            for _ in 0..3 {
                let answer = client.get("/a").await.unwrap();
                assert_eq!(answer.header("content-length"), Some("5"), "{version:?}");
                assert_eq!(answer.bytes(10).await.unwrap(), "hello");
            }
        }
        assert_eq!(origin.requests("/a"), 1);
    }
}

/// A client that is let in. The edge asks itself over HTTP/3 now and then, from the same address, and takes a place for that moment.
async fn finds_a_place(edge: &EdgeNode, version: Version) -> Client {
    let target = edge.target("localhost");
    let begun = Instant::now();
    loop {
        if let Ok(client) = Client::connect(&target, version).await
            && client.get("/a").await.is_ok()
        {
            return client;
        }
        assert!(begun.elapsed() < LIMIT, "{version:?} finds no place");
    }
}

#[tokio::test]
async fn one_address_has_no_more_connections_of_clients_than_it_may() {
    let origin = origin(&Bytes::from_static(b"x")).await;
    let cluster = Cluster::new().origin(&origin);
    let tables = "[limits]\nper_prefix_connections = 3";
    let cluster = cluster.tables(tables).start().await;
    let edge = cluster.edge();
    let target = edge.target("localhost");
    let mut held = Vec::new();
    for version in [Version::Http3, Version::Http2, Version::Http3] {
        held.push(finds_a_place(edge, version).await);
    }
    let over_quic = || edge.metric("stoq_quic_refused_prefix_total", &[]);
    let labels = ["reason=\"Prefix\""];
    let over_tcp = || edge.metric("stoq_listen_connections_refused_total", &labels);
    let before = over_quic();
    for version in [Version::Http3, Version::Http2] {
        let refused = match Client::connect(&target, version).await {
            Ok(client) => client.get("/a").await.is_err(),
            Err(_) => true,
        };
        assert!(refused, "a fourth, {version:?}");
    }
    assert!(over_quic() > before && over_tcp() == 1.0);
    for client in &held {
        assert!(client.get("/a").await.is_ok(), "those that are there stay");
    }
    held.pop();
    // Its place is free once the edge has heard of the end.
    finds_a_place(edge, Version::Http2).await;
}

/// A connection to the shield in the place of the edge.
async fn dial(cluster: &Running, transport: &dyn Transport) -> Result<PeerConn, PeerError> {
    let (identity, addr) = (cluster.identity("edge-1"), cluster.shield().addr());
    PeerConn::dial(transport, &identity, addr, &DialConfig::default()).await
}

#[tokio::test]
async fn one_address_has_no_more_links_to_a_shield_than_it_may_over_both_carriers() {
    let origin = origin(&Bytes::from_static(b"x")).await;
    let cluster = Cluster::new().origin(&origin).shield();
    let tables = "[limits]\nper_prefix_connections = 2\n[stoq]\ntcp = true";
    let cluster = cluster.tables(tables).start().await;
    let transport = stoq_mesh::between_nodes();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let quic = Endpoint::client(any, transport.clone()).unwrap();
    let tcp = Tcp::client(transport);
    let first = dial(&cluster, &quic).await.unwrap();
    let second = dial(&cluster, &tcp).await.unwrap();
    assert_eq!(
        (first.carrier(), second.carrier()),
        (Carrier::Quic, Carrier::Tcp)
    );
    for transport in [&quic as &dyn Transport, &tcp] {
        let refused = dial(&cluster, transport).await.unwrap_err();
        let refusal = matches!(
            refused,
            PeerError::Connect {
                source: ConnectError::Connection(ConnectionError::TransportClosed { code: 2, .. }),
                ..
            }
        );
        assert!(refusal, "{refused:?}");
    }
    let shield = cluster.shield();
    for name in ["stoq_quic", "stoq_tcp"] {
        let name = format!("{name}_refused_prefix_total");
        assert_eq!(shield.metric(&name, &[]), 1.0, "{name}");
    }
    second.close();
    let begun = Instant::now();
    while dial(&cluster, &tcp).await.is_err() {
        assert!(begun.elapsed() < LIMIT, "a place that was given back");
    }
}

#[tokio::test]
async fn a_shield_hears_of_no_other_kinds_than_those_it_answers() {
    let origin = origin(&Bytes::from_static(b"x")).await;
    let cluster = Cluster::new().origin(&origin).shield().start().await;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let quic = Endpoint::client(any, stoq_mesh::between_nodes()).unwrap();
    let conn = dial(&cluster, &quic).await.unwrap();
    let mut exchange = conn.exchange(999, Bytes::new(), Some(LIMIT)).await.unwrap();
    let _ = exchange.send.finish().await;
    let forbidden = ExchangeError::Cancelled {
        code: StreamCode::Forbidden.code(),
    };
    assert_eq!(exchange.recv.next().await, Err(forbidden));
    let shield = cluster.shield();
    let refused = shield.metric("stoq_peer_refused_request_role_total", &[]);
    assert_eq!(refused, 1.0);
    assert_eq!(shield.metric("stoq_peer_requests_started_total", &[]), 0.0);
}
