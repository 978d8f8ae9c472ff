//! Who is let in, who is turned away, and what the counters say about it.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

mod pair;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pair::{Pair, client, server, tls, tls_for};
use stoq::quic::{
    AdmissionLimits, Alarm, CidKeys, ConnectError, Connection, Endpoint, EndpointConfig, Screen,
    TlsClient, TransportConfig,
};
use tokio::net::UdpSocket;

fn server_with(limits: AdmissionLimits) -> (Endpoint, SocketAddr, TlsClient) {
    let (tls_server, tls_client) = tls(b"test");
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(tls_server);
    config.limits = limits;
    let endpoint = server(config);
    let addr = endpoint.local_addr().unwrap();
    (endpoint, addr, tls_client)
}

async fn echo_once(client: &Connection, server: &Connection) {
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    send.write_all(b"ping").await.unwrap();
    send.finish().unwrap();
    let (mut back, mut forth) = server.accept_bi().await.unwrap();
    let body = forth.read_to_end(100).await.unwrap();
    back.write_all(&body).await.unwrap();
    back.finish().unwrap();
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"ping");
}

fn assert_refused(result: Result<Connection, ConnectError>) {
    match result {
        Err(ConnectError::Connection(error)) if error.is_refused() => {}
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn newcomer_above_the_retry_limit_proves_its_address_and_gets_in() {
    let (endpoint, addr, tls) = server_with(AdmissionLimits {
        retry_above: 0,
        ..Default::default()
    });
    let from = client(TransportConfig::default());
    let accept = async { endpoint.accept().await.unwrap().establish().await.unwrap() };
    let (server, client) = tokio::join!(accept, from.connect(addr, "localhost", &tls));
    echo_once(&client.unwrap(), &server).await;
    assert_eq!(endpoint.counters().retries_sent.get(), 1);
    assert_eq!(endpoint.counters().attempts_accepted.get(), 1);
    assert_eq!(endpoint.counters().handshakes_completed.get(), 1);
}

#[tokio::test]
async fn while_an_alarm_is_raised_newcomers_prove_their_address_and_afterwards_not() {
    let (tls_server, tls) = tls(b"test");
    let alarm = Alarm::default();
    let endpoint = server(EndpointConfig {
        server: Some(tls_server),
        alarm: alarm.clone(),
        ..EndpointConfig::new(CidKeys::random())
    });
    let addr = endpoint.local_addr().unwrap();
    for (raised, retries) in [(false, 0), (true, 1), (false, 1)] {
        alarm.set(raised);
        let from = client(TransportConfig::default());
        let accept = async {
            let connecting = endpoint.accept().await.unwrap();
            let proven = connecting.is_proven();
            (proven, connecting.establish().await.unwrap())
        };
        let ((proven, server), client) =
            tokio::join!(accept, from.connect(addr, "localhost", &tls));
        echo_once(&client.unwrap(), &server).await;
        assert_eq!(proven, raised);
        assert_eq!(endpoint.counters().retries_sent.get(), retries);
    }
}

/// Admits those whose port is even, while it watches.
#[derive(Debug, Default)]
struct EvenPorts(AtomicBool);

impl Screen for EvenPorts {
    fn is_watching(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn admits(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        assert!(!datagram.is_empty());
        from.port().is_multiple_of(2)
    }
}

#[tokio::test]
async fn what_a_screen_does_not_admit_is_never_heard_of() {
    let (tls_server, tls) = tls(b"test");
    let screen = Arc::new(EvenPorts::default());
    let endpoint = server(EndpointConfig {
        server: Some(tls_server),
        screen: Some(screen.clone()),
        ..EndpointConfig::new(CidKeys::random())
    });
    let addr = endpoint.local_addr().unwrap();
    // One of each kind.
    let (mut even, mut odd) = (None, None);
    while even.is_none() || odd.is_none() {
        let one = client(TransportConfig::default());
        match one.local_addr().unwrap().port() % 2 {
            0 => even = Some(one),
            _ => odd = Some(one),
        }
    }
    let (even, odd) = (even.unwrap(), odd.unwrap());
    let accept = async {
        loop {
            let connection = endpoint.accept().await.unwrap().establish().await.unwrap();
            tokio::spawn(async move { connection.closed().await });
        }
    };
    let screened = endpoint.counters().clone();
    let go = async {
        odd.connect(addr, "localhost", &tls).await.unwrap();
        assert_eq!(screened.datagrams_screened.get(), 0);
        screen.0.store(true, Ordering::Relaxed);
        even.connect(addr, "localhost", &tls).await.unwrap();
        let late = odd.connect(addr, "localhost", &tls);
        assert!(
            tokio::time::timeout(Duration::from_millis(300), late)
                .await
                .is_err()
        );
        assert!(screened.datagrams_screened.get() > 0);
    };
    tokio::select! {
        () = accept => {}
        () = go => {}
    }
}

#[tokio::test]
async fn newcomer_beyond_the_handshake_limit_is_refused() {
    let (endpoint, addr, tls) = server_with(AdmissionLimits {
        max_handshakes: 1,
        ..Default::default()
    });
    let from = client(TransportConfig::default());
    // Nobody accepts it yet, so for the server this handshake is in progress.
    let first = from.connect(addr, "localhost", &tls).await.unwrap();
    assert_refused(from.connect(addr, "localhost", &tls).await);
    assert_eq!(endpoint.counters().refused_handshakes.get(), 1);

    let server = endpoint.accept().await.unwrap().establish().await.unwrap();
    echo_once(&first, &server).await;
    from.connect(addr, "localhost", &tls).await.unwrap();
}

#[tokio::test]
async fn newcomer_beyond_the_connection_limit_is_refused_until_one_leaves() {
    let (endpoint, addr, tls) = server_with(AdmissionLimits {
        max_connections: 1,
        ..Default::default()
    });
    let from = client(TransportConfig::default());
    let first = from.connect(addr, "localhost", &tls).await.unwrap();
    assert_refused(from.connect(addr, "localhost", &tls).await);
    assert_eq!(endpoint.counters().refused_connections.get(), 1);
    first.close(0, b"");
    drop(endpoint.accept().await);
    endpoint.wait_idle().await;
    from.connect(addr, "localhost", &tls).await.unwrap();
}

#[tokio::test]
async fn newcomer_beyond_its_prefixs_limit_is_refused_while_others_get_in() {
    let (endpoint, addr, tls) = server_with(AdmissionLimits {
        max_per_prefix: 2,
        ..Default::default()
    });
    let from = client(TransportConfig::default());
    let connect = async || {
        let accept = async { endpoint.accept().await.unwrap().establish().await.unwrap() };
        let (server, client) = tokio::join!(accept, from.connect(addr, "localhost", &tls));
        (server, client.unwrap())
    };
    let (first, second) = (connect().await, connect().await);
    // From half of the limit on, newcomers prove their address: the second did, and the third.
    assert_eq!(endpoint.counters().retries_sent.get(), 1);
    assert_refused(from.connect(addr, "localhost", &tls).await);
    assert_eq!(endpoint.counters().retries_sent.get(), 2);
    assert_eq!(endpoint.counters().refused_prefix.get(), 1);

    // Another address of the loopback is another prefix.
    let elsewhere =
        Endpoint::client("127.0.0.2:0".parse().unwrap(), TransportConfig::default()).unwrap();
    let other = elsewhere.connect(addr, "localhost", &tls).await.unwrap();
    let server = endpoint.accept().await.unwrap().establish().await.unwrap();
    echo_once(&other, &server).await;

    // One leaves, another comes.
    drop(first);
    connect().await;
    echo_once(&second.1, &second.0).await;
}

#[tokio::test]
async fn an_address_that_proves_nothing_gets_at_most_three_times_what_it_sent() {
    // A certificate so long that the first answer alone would be more.
    let names = (0..600).map(|number| format!("host-{number}.example"));
    let (tls_server, tls) = tls_for(b"test", names.collect());
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(tls_server);
    config.limits.handshake_timeout = Duration::from_secs(2);
    let endpoint = server(config);
    let addr = endpoint.local_addr().unwrap();
    // A path that carries the client's first flight and answers nothing, as one does that was only named as source.
    let path = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let middle = path.local_addr().unwrap();
    let from = client(TransportConfig::default());
    let attempt = tokio::spawn(async move { from.connect(middle, "localhost", &tls).await });
    let mut datagram = [0; 2000];
    let (mut sent, mut received) = (0, 0);
    let (len, client) = path.recv_from(&mut datagram).await.unwrap();
    path.send_to(&datagram[..len], addr).await.unwrap();
    sent += len;
    // A hello with a post-quantum key share has two datagrams.
    let (len, _) = path.recv_from(&mut datagram).await.unwrap();
    path.send_to(&datagram[..len], addr).await.unwrap();
    sent += len;
    let give_up = endpoint.accept().await.unwrap().establish();
    // The server repeats itself meanwhile, as far as it may.
    let listen = async {
        loop {
            let (len, who) = path.recv_from(&mut datagram).await.unwrap();
            if who != client {
                received += len;
            }
        }
    };
    tokio::select! {
        result = give_up => assert_eq!(result.unwrap_err(), ConnectError::HandshakeTimeout),
        () = listen => {}
    }
    println!("{sent} bytes sent, {received} received");
    assert!(
        received > 0 && received <= 3 * sent,
        "{received} for {sent}"
    );
    attempt.abort();
}

#[tokio::test]
async fn drain_refuses_newcomers_at_once_while_open_connections_work() {
    let pair = Pair::connect().await;
    let addr = pair.server_endpoint.local_addr().unwrap();
    pair.server_endpoint.set_server(None);
    // Nobody is accepting; the answer comes all the same.
    let newcomer = pair
        .client_endpoint
        .connect(addr, "localhost", &pair.tls_client);
    assert_refused(
        tokio::time::timeout(Duration::from_secs(5), newcomer)
            .await
            .unwrap(),
    );
    assert_eq!(pair.server_endpoint.counters().refused_draining.get(), 1);
    echo_once(&pair.client, &pair.server).await;

    pair.server_endpoint
        .set_server(Some(pair.tls_server.clone()));
    pair.client_endpoint
        .connect(addr, "localhost", &pair.tls_client)
        .await
        .unwrap();
}

#[tokio::test]
async fn endpoint_made_without_a_server_takes_connections_once_it_has_one() {
    let endpoint = server(EndpointConfig::new(CidKeys::random()));
    let addr = endpoint.local_addr().unwrap();
    let (tls_server, tls_client) = tls(b"test");
    endpoint.set_server(Some(tls_server));
    let from = client(TransportConfig::default());
    from.connect(addr, "localhost", &tls_client).await.unwrap();
}

#[tokio::test]
async fn new_certificate_serves_newcomers_while_open_connections_work() {
    let pair = Pair::connect().await;
    let addr = pair.server_endpoint.local_addr().unwrap();
    let (tls_server, tls_client) = tls(b"test");
    pair.server_endpoint.set_server(Some(tls_server));
    let accept = async {
        pair.server_endpoint
            .accept()
            .await
            .unwrap()
            .establish()
            .await
            .unwrap()
    };
    let connect = pair.client_endpoint.connect(addr, "localhost", &tls_client);
    let (server, client) = tokio::join!(accept, connect);
    let client = client.unwrap();
    assert_ne!(client.peer_certificates(), pair.client.peer_certificates());
    echo_once(&client, &server).await;
    echo_once(&pair.client, &pair.server).await;
}

#[tokio::test]
async fn silent_client_is_cut_off_at_the_handshake_timeout() {
    let handshake_timeout = Duration::from_millis(200);
    let (endpoint, addr, tls) = server_with(AdmissionLimits {
        handshake_timeout,
        ..Default::default()
    });
    // A path that carries the client's first flight and nothing back.
    let path = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let middle = path.local_addr().unwrap();
    let from = client(TransportConfig::default());
    let attempt = tokio::spawn(async move { from.connect(middle, "localhost", &tls).await });
    let mut datagram = [0; 2000];
    let (len, _) = path.recv_from(&mut datagram).await.unwrap();
    path.send_to(&datagram[..len], addr).await.unwrap();

    let result = endpoint.accept().await.unwrap().establish().await;
    assert_eq!(result.unwrap_err(), ConnectError::HandshakeTimeout);
    assert_eq!(endpoint.counters().handshakes_timed_out.get(), 1);
    attempt.abort();
}

#[tokio::test]
async fn handshake_dropped_midway_counts_as_failed_and_frees_its_place() {
    let (endpoint, addr, tls) = server_with(AdmissionLimits {
        max_handshakes: 1,
        ..Default::default()
    });
    let from = client(TransportConfig::default());
    let first = from.connect(addr, "localhost", &tls).await.unwrap();
    drop(endpoint.accept().await.unwrap());
    first.closed().await;
    assert_eq!(endpoint.counters().handshakes_failed.get(), 1);
    from.connect(addr, "localhost", &tls).await.unwrap();
}
