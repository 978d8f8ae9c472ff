//! Nodes over TCP, and the way there from QUIC.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use stoq::datagram::Datagram;
use stoq::identity::{ALPN, Identity, Refusal, Role, SERVER_NAME};
use stoq::peer::{
    Datagrams, DialConfig, Exchange, ExchangeError, Handler, IncomingRequest, PeerConn, PeerError,
    PeerInfo, PeerServer, SendDatagramError, ServeConfig,
};
use stoq::quic::{CidKeys, Endpoint, EndpointConfig, SocketGroup, SocketOptions, TransportConfig};
use stoq::transport::fallback::{Fallback, FallbackConfig};
use stoq::transport::tcp::{Tcp, TcpLimits};
use stoq::transport::{Carrier, ConnectError, ConnectionError, Link, Target, Transport};
use stoq::wire::{CloseCode, StreamCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::cluster::{
    Act, Anyone, PATIENCE, Server, client, drain, echo, loopback, node, pattern, root, soon, until,
};

/// An address of the loopback that is this test's alone, so that a port that is free for TCP is free for UDP as well.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(64);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let own = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from(([127, own, high, low], 0))
}

/// A node that serves over TCP. Stops when dropped.
struct TcpServer {
    addr: SocketAddr,
    tcp: Tcp,
    peers: Arc<PeerServer>,
    task: JoinHandle<()>,
}

impl TcpServer {
    fn start(identity: &Identity, handler: Arc<dyn Handler>) -> Self {
        Self::with(identity, handler, TransportConfig::default(), own_address())
    }

    fn with(
        identity: &Identity,
        handler: Arc<dyn Handler>,
        config: TransportConfig,
        addr: SocketAddr,
    ) -> Self {
        let tls = identity.server_config(ALPN).unwrap();
        let tcp = Tcp::listen(addr, tls, config, TcpLimits::default()).unwrap();
        let peers = Arc::new(PeerServer::new(
            tcp.clone(),
            identity.clone(),
            handler,
            ServeConfig::default(),
        ));
        let serving = peers.clone();
        Self {
            addr: tcp.local_addr().unwrap(),
            tcp,
            peers,
            task: tokio::spawn(async move { serving.serve().await }),
        }
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.task.abort();
        self.tcp.close(0, b"");
    }
}

async fn dial(
    transport: &dyn Transport,
    identity: &Identity,
    addr: SocketAddr,
) -> Result<PeerConn, PeerError> {
    let config = DialConfig::default();
    soon("dial", PeerConn::dial(transport, identity, addr, &config)).await
}

fn tcp() -> Tcp {
    Tcp::client(TransportConfig::default())
}

fn nodes() -> (Identity, Identity) {
    let root = root("demo");
    (
        node(&root, "shield-1", &[Role::Shield]),
        node(&root, "edge-1", &[Role::Edge]),
    )
}

async fn ask(conn: &PeerConn, body: Bytes) -> Result<(u64, blake3::Hash), ExchangeError> {
    let Exchange { mut send, mut recv } = conn.exchange(1, Bytes::new(), None).await?;
    let sending = async move {
        send.data(body).await?;
        send.finish().await
    };
    let (sent, heard) = soon("echo", async { tokio::join!(sending, drain(&mut recv)) }).await;
    sent.and(heard)
}

#[tokio::test]
async fn exchanges_pass_whole_over_tcp() {
    let (shield, edge) = nodes();
    let server = TcpServer::start(&shield, echo());
    let tcp = tcp();
    let conn = dial(&tcp, &edge, server.addr).await.unwrap();
    assert_eq!(conn.carrier(), Carrier::Tcp);
    assert_eq!(conn.peer().identity.node_id, shield.node_id());
    let body = pattern(5_000_000);
    let want = (5_000_000, blake3::hash(&body));
    let exchanges = (0..10).map(|_| ask(&conn, body.clone()));
    for heard in futures_util::future::join_all(exchanges).await {
        assert_eq!(heard.unwrap(), want);
    }
    // Far more streams than are allowed at once.
    for _ in 0..300 {
        assert_eq!(ask(&conn, pattern(10)).await.unwrap().0, 10);
    }
    assert!(!conn.path().rtt.is_zero());
    assert_eq!(tcp.stats().links, 1);
    drop(conn);
    soon("end of the link", tcp.wait_idle()).await;
    soon("end of its other side", server.tcp.wait_idle()).await;
}

#[tokio::test]
async fn whoever_is_refused_over_tcp_hears_why() {
    let (shield, edge) = nodes();
    let server = TcpServer::start(&shield, echo());
    let stranger = node(&root("demo"), "edge-9", &[Role::Edge]);
    let result = dial(&tcp(), &stranger, server.addr).await;
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

    // One who looks away on its side is refused by the other.
    let mut tls = rustls::ClientConfig::clone(&stranger.client_config(ALPN).unwrap());
    tls.dangerous().set_certificate_verifier(Arc::new(Anyone));
    let target = Target {
        addr: server.addr,
        server_name: SERVER_NAME,
        tls: Arc::new(tls),
    };
    let link = soon("connect", tcp().connect(target)).await.unwrap();
    let ConnectionError::TransportClosed {
        code,
        by_peer: true,
        ..
    } = soon("verdict", link.closed()).await
    else {
        panic!("{:?}", link.close_reason())
    };
    assert_eq!(CloseCode::of_transport(code), Some(CloseCode::Foreign));

    // Past the handshake a refusal has its own code and words.
    let admin = Tcp::listen(
        loopback(),
        edge.server_config(ALPN).unwrap(),
        TransportConfig::default(),
        TcpLimits::default(),
    )
    .unwrap();
    let addr = admin.local_addr().unwrap();
    let accept = async {
        let link = admin.accept().await.unwrap().establish().await.unwrap();
        link.close(CloseCode::WrongRole.code(), b"not you");
    };
    let tcp = tcp();
    let (result, ()) = tokio::join!(dial(&tcp, &shield, addr), accept);
    let Err(PeerError::RefusedByPeer { code, reason, .. }) = result else {
        panic!("{result:?}")
    };
    assert_eq!((code, reason.as_str()), (CloseCode::WrongRole, "not you"));
}

#[tokio::test]
async fn cancellation_and_deadline_travel_over_tcp() {
    let slow = Act(|request: IncomingRequest| async move {
        let _request = request;
        std::future::pending::<()>().await;
    });
    let (shield, edge) = nodes();
    let server = TcpServer::start(&shield, Arc::new(slow));
    let conn = dial(&tcp(), &edge, server.addr).await.unwrap();
    let exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
    let counters = server.peers.counters();
    until("start", || counters.requests_started.get() == 1).await;
    drop(exchange);
    until("cancellation", || counters.requests_cancelled.get() == 1).await;
    let limit = Some(Duration::from_millis(300));
    let mut exchange = conn.exchange(1, Bytes::new(), limit).await.unwrap();
    let error = soon("deadline", exchange.recv.next()).await.unwrap_err();
    let code = StreamCode::Deadline.code();
    assert!(
        error == ExchangeError::Deadline || error == ExchangeError::Cancelled { code },
        "{error}"
    );
    drop(exchange);
    until("end of the handler", || {
        counters.requests_past_deadline.get() + counters.requests_cancelled.get() == 2
    })
    .await;
}

#[tokio::test]
async fn one_unread_answer_over_tcp_costs_the_others_nothing() {
    let (shield, edge) = nodes();
    let source = Act(|mut request: IncomingRequest| async move {
        let block = pattern(64 * 1024);
        for _ in 0..64 {
            if request.reply.data(block.clone()).await.is_err() {
                return;
            }
        }
        let _ = request.reply.finish().await;
    });
    let server = TcpServer::start(&shield, Arc::new(source));
    let conn = dial(&tcp(), &edge, server.addr).await.unwrap();
    let unread = conn.exchange(1, Bytes::new(), None).await.unwrap();
    for _ in 0..10 {
        let mut exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
        let heard = soon("body", drain(&mut exchange.recv)).await.unwrap();
        assert_eq!(heard.0, 64 * 64 * 1024);
    }
    drop(unread);
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up() {
    let (shield, edge) = nodes();
    let server = TcpServer::start(&shield, echo());
    // A relay that stops passing anything on, with both sockets open.
    let relay = TcpListener::bind(loopback()).await.unwrap();
    let addr = relay.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let target = server.addr;
    let relaying = tokio::spawn(async move {
        let (mut there, _) = relay.accept().await.unwrap();
        let mut here = TcpStream::connect(target).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut there, &mut here) => {}
            _ = stopped => {}
        }
        std::future::pending::<()>().await;
    });
    let tcp = Tcp::client(TransportConfig {
        idle_timeout: Duration::from_millis(600),
        ..TransportConfig::default()
    });
    let conn = dial(&tcp, &edge, addr).await.unwrap();
    // It outlives its idle timeout in silence, since it asks for signs of life.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(ask(&conn, pattern(10)).await.unwrap().0, 10);
    stop.send(()).unwrap();
    let error = soon("end", conn.closed()).await;
    assert_eq!(error, ConnectionError::TimedOut);
    relaying.abort();
}

#[tokio::test]
async fn what_is_no_frame_ends_the_link_with_a_code() {
    let (shield, edge) = nodes();
    let server = TcpServer::start(&shield, echo());
    let tls = edge.client_config(ALPN).unwrap();
    let io = TcpStream::connect(server.addr).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from(SERVER_NAME).unwrap();
    let connecting = tokio_rustls::TlsConnector::from(tls).connect(name, io);
    let mut stream = soon("handshake", connecting).await.unwrap();
    stream.write_all(&[0xff; 64]).await.unwrap();
    let mut said = Vec::new();
    let _ = soon("end", stream.read_to_end(&mut said)).await;
    // The last frame: type 11, one byte and words, code 0x07 of the transport.
    let close = [11u8, 0, 0, 0];
    let at = said.windows(4).rposition(|bytes| bytes == close).unwrap();
    assert_eq!(
        said.get(at + 8..at + 17),
        Some(&[0, 0, 0, 0, 0, 0, 0, 7, 1][..])
    );
}

/// Sends each datagram back.
struct Back;

impl Handler for Back {
    fn handle<'a>(&'a self, _peer: &'a PeerInfo, _request: IncomingRequest) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn datagram(&self, _peer: &PeerInfo, datagram: Datagram, back: &Datagrams) {
        back.send(datagram.kind, datagram.payload).unwrap();
    }
}

#[tokio::test]
async fn datagrams_are_agreed_on_over_tcp_where_both_sides_take_them() {
    let (shield, edge) = nodes();
    let takes = |datagrams| TransportConfig {
        datagrams,
        ..TransportConfig::default()
    };
    for (ours, theirs) in [(true, true), (true, false), (false, true)] {
        let server = TcpServer::with(&shield, Arc::new(Back), takes(theirs), own_address());
        let tcp = Tcp::client(takes(ours));
        let conn = dial(&tcp, &edge, server.addr).await.unwrap();
        let payload = Bytes::from_static(b"there and back");
        let sent = conn.datagrams().send(10, payload.clone());
        if ours && theirs {
            assert_eq!(sent, Ok(1));
            let back = soon("datagram", conn.datagrams().next()).await.unwrap();
            assert_eq!((back.kind, back.payload), (10, payload));
        } else {
            assert_eq!(sent, Err(SendDatagramError::NotAgreed));
        }
    }
}

/// A link taken from one who says what it allows, and then neither reads nor says anything.
async fn stalled(tcp: &Tcp, edge: &Identity) -> (Arc<dyn Link>, impl Sized) {
    let tls = edge.client_config(ALPN).unwrap();
    let io = TcpStream::connect(tcp.local_addr().unwrap()).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from(SERVER_NAME).unwrap();
    let connecting = tokio_rustls::TlsConnector::from(tls).connect(name, io);
    let accepting = async { tcp.accept().await.unwrap().establish().await.unwrap() };
    let (stream, link) = tokio::join!(connecting, accepting);
    let mut stream = stream.unwrap();
    let mut settings = vec![0; 16 + 17];
    settings[7] = 17;
    settings[16..32].fill(0x0f);
    stream.write_all(&settings).await.unwrap();
    stream.flush().await.unwrap();
    (link, stream)
}

#[tokio::test]
async fn a_closed_link_whose_peer_reads_nothing_is_over_soon() {
    let (shield, edge) = nodes();
    let tls = shield.server_config(ALPN).unwrap();
    // Nothing else ends it.
    let config = TransportConfig {
        idle_timeout: Duration::from_secs(3600),
        ..TransportConfig::default()
    };
    let tcp = Tcp::listen(loopback(), tls, config, TcpLimits::default()).unwrap();
    let (link, _stalled) = soon("link", stalled(&tcp, &edge)).await;
    let mut send = soon("stream", link.open_uni()).await.unwrap();
    let writing = tokio::spawn(async move {
        loop {
            let mut block = [pattern(64 * 1024)];
            if send.write_all_chunks(&mut block).await.is_err() {
                return;
            }
        }
    });
    // Until the sockets of both sides are full.
    let (mut sent, mut same) = (0, 0);
    soon("stall", async {
        while same < 100 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let before = std::mem::replace(&mut sent, link.path().sent_bytes);
            same = if sent > 0 && sent == before {
                same + 1
            } else {
                0
            };
        }
    })
    .await;
    link.close(7, b"enough");
    soon("end of the writer", writing).await.unwrap();
    drop(link);
    soon("end of the link", tcp.wait_idle()).await;
    assert_eq!(tcp.stats().links, 0);
}

/// QUIC first, TCP soon after.
fn impatient() -> Fallback {
    let config = FallbackConfig {
        delay: Duration::from_millis(150),
        ..FallbackConfig::default()
    };
    Fallback::new(client(), tcp(), config)
}

#[tokio::test]
async fn where_udp_is_blocked_tcp_takes_over_and_is_remembered() {
    let (shield, edge) = nodes();
    let server = TcpServer::start(&shield, echo());
    // UDP of the same port goes nowhere, and nobody says so.
    let _silence = UdpSocket::bind(server.addr).unwrap();
    let both = impatient();
    let conn = dial(&both, &edge, server.addr).await.unwrap();
    assert_eq!(conn.carrier(), Carrier::Tcp);
    assert_eq!(ask(&conn, pattern(100_000)).await.unwrap().0, 100_000);
    let counters = both.counters();
    assert_eq!((counters.raced.get(), counters.fell_back.get()), (1, 1));

    let again = dial(&both, &edge, server.addr).await.unwrap();
    assert_eq!(again.carrier(), Carrier::Tcp);
    assert_eq!((counters.raced.get(), counters.remembered.get()), (1, 1));
}

#[tokio::test]
async fn what_was_remembered_is_forgotten_and_quic_tried_again() {
    let (shield, edge) = nodes();
    let server = TcpServer::start(&shield, echo());
    let silence = UdpSocket::bind(server.addr).unwrap();
    let config = FallbackConfig {
        delay: Duration::from_millis(150),
        remember: Duration::ZERO,
        ..FallbackConfig::default()
    };
    let both = Fallback::new(client(), tcp(), config);
    let conn = dial(&both, &edge, server.addr).await.unwrap();
    assert_eq!(conn.carrier(), Carrier::Tcp);
    drop(silence);
    let _quic = Server::with(
        &shield,
        echo(),
        ServeConfig::default(),
        TransportConfig::default(),
        server.addr,
    );
    let conn = dial(&both, &edge, server.addr).await.unwrap();
    assert_eq!(conn.carrier(), Carrier::Quic);
    assert_eq!(both.counters().first_carrier.get(), 1);
}

#[tokio::test]
async fn quic_is_taken_where_it_gets_through() {
    let (shield, edge) = nodes();
    let quic = Server::with(
        &shield,
        echo(),
        ServeConfig::default(),
        TransportConfig::default(),
        own_address(),
    );
    let _tcp = TcpServer::with(&shield, echo(), TransportConfig::default(), quic.addr);
    let both = impatient();
    let conn = dial(&both, &edge, quic.addr).await.unwrap();
    assert_eq!(conn.carrier(), Carrier::Quic);
    assert_eq!(both.counters().first_carrier.get(), 1);
}

#[tokio::test]
async fn a_refusal_over_quic_is_not_asked_for_again_over_tcp() {
    let (shield, _) = nodes();
    let quic = Server::with(
        &shield,
        echo(),
        ServeConfig::default(),
        TransportConfig::default(),
        own_address(),
    );
    let tcp = TcpServer::with(&shield, echo(), TransportConfig::default(), quic.addr);
    let stranger = node(&root("demo"), "edge-9", &[Role::Edge]);
    let result = dial(&impatient(), &stranger, quic.addr).await;
    assert!(
        matches!(result, Err(PeerError::Refused { .. })),
        "{result:?}"
    );
    assert_eq!(tcp.peers.counters().handshakes_failed.get(), 0);
}

#[tokio::test]
async fn where_neither_gets_through_the_failure_is_that_of_the_first() {
    let (_, edge) = nodes();
    let nobody = UdpSocket::bind(loopback()).unwrap();
    let transport = TransportConfig {
        idle_timeout: Duration::from_millis(400),
        ..TransportConfig::default()
    };
    let quic = Endpoint::client(loopback(), transport).unwrap();
    let config = FallbackConfig {
        delay: Duration::from_millis(100),
        ..FallbackConfig::default()
    };
    let both = Fallback::new(quic, tcp(), config);
    // Three times QUIC's first guess of the round trip, however short the idle timeout.
    let config = DialConfig {
        connect_timeout: PATIENCE,
        ..DialConfig::default()
    };
    let addr = nobody.local_addr().unwrap();
    let result = soon("failure", PeerConn::dial(&both, &edge, addr, &config)).await;
    let Err(PeerError::Connect { source, .. }) = result else {
        panic!("{result:?}")
    };
    assert_eq!(source, ConnectError::Connection(ConnectionError::TimedOut));
    assert_eq!(both.counters().both_failed.get(), 1);
}

#[tokio::test]
async fn a_server_takes_both_carriers_at_one_address() {
    let (shield, edge) = nodes();
    let tls = shield.server_config(ALPN).unwrap();
    let config = TransportConfig::default();
    let tcp_side = Tcp::listen(own_address(), tls, config, TcpLimits::default()).unwrap();
    let group =
        SocketGroup::bind(tcp_side.local_addr().unwrap(), 1, &SocketOptions::default()).unwrap();
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(shield.server_tls().unwrap());
    let quic_side = Endpoint::new(group.take(0).unwrap(), config).unwrap();
    let addr = tcp_side.local_addr().unwrap();
    let both = Fallback::new(quic_side, tcp_side, FallbackConfig::default());
    let peers = PeerServer::new(both, shield, echo(), ServeConfig::default());
    let asking = async {
        for (transport, carrier) in [
            (&client() as &dyn Transport, Carrier::Quic),
            (&tcp(), Carrier::Tcp),
        ] {
            let conn = dial(transport, &edge, addr).await.unwrap();
            assert_eq!(conn.carrier(), carrier);
            assert_eq!(ask(&conn, pattern(1000)).await.unwrap().0, 1000);
        }
        peers.drain(Duration::from_secs(1));
    };
    tokio::join!(peers.serve(), asking);
    assert_eq!(peers.counters().peers_accepted.get(), 2);
}
