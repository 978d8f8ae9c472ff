//! What paths do to connections: jumbo frames, changed addresses, workers.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

mod pair;

use std::{thread, time::Duration};

use bytes::Bytes;
use pair::{Pair, client, tls};
use stoq::quic::{
    CidKeys, Connection, Endpoint, EndpointConfig, SocketGroup, SocketOptions, Steering,
    TransportConfig, WorkerSocket,
};

/// Runs the test anyway where the kernel steers; elsewhere says so loudly, and fails if the environment demands it.
fn skipped(group: &SocketGroup) -> bool {
    let Steering::SingleSocket { reason } = group.steering() else {
        return false;
    };
    assert!(
        std::env::var_os("STOQ_REQUIRE_PRIVILEGED").is_none_or(|value| value != "1"),
        "STOQ_REQUIRE_PRIVILEGED=1, and the kernel refuses to steer: {reason}"
    );
    eprintln!("SKIPPED: the kernel refuses to steer: {reason}");
    true
}

/// Moves `total` bytes from the client's side to the server's; fails where it hangs.
async fn bulk(client: &Connection, server: &Connection, total: usize) {
    let chunk = Bytes::from(vec![0x5a; 1_000_000]);
    let write = async {
        let mut send = client.open_uni().await.unwrap();
        for _ in 0..total / chunk.len() {
            send.write_all_chunks(&mut [chunk.clone()]).await.unwrap();
        }
        send.finish().unwrap();
        send.stopped().await.unwrap();
    };
    let read = async {
        let mut recv = server.accept_uni().await.unwrap();
        let mut received = 0;
        while let Some(chunk) = recv.read_chunk(usize::MAX).await.unwrap() {
            received += chunk.len();
        }
        received
    };
    let both = async { tokio::join!(write, read) };
    let ((), received) = tokio::time::timeout(Duration::from_secs(120), both)
        .await
        .expect("moved, not hung");
    assert_eq!(received, total);
}

#[tokio::test]
async fn jumbo_packets_move_bulk_without_hanging() {
    // An Ethernet of 9000, and beyond: what the loopback carries. Above 16,384 and above 32,500, where one packet is a batch.
    for mtu_max in [8952, 20_000, 65_000] {
        let transport = TransportConfig {
            mtu_max,
            ..TransportConfig::default()
        };
        let pair = Pair::with(transport).await;
        bulk(&pair.client, &pair.server, 50_000_000).await;
        let path = pair.client.path();
        println!("up to {mtu_max}: {path:?}");
        let found = f64::from(path.mtu) / f64::from(mtu_max);
        assert!((0.97..=1.0).contains(&found), "{path:?}");
        assert_eq!(path.mtu_shrunk, 0);
        for endpoint in [&pair.client_endpoint, &pair.server_endpoint] {
            assert_eq!(endpoint.counters().sends_too_large.get(), 0);
            assert_eq!(endpoint.counters().sends_failed.get(), 0);
        }
    }
}

#[tokio::test]
async fn one_endpoint_has_small_packets_and_jumbo_packets_at_once() {
    let (tls_server, tls_client) = tls(b"test");
    let client = client(TransportConfig {
        mtu_max: 65_000,
        ..TransportConfig::default()
    });
    let connect = async |mtu_max| {
        let mut config = EndpointConfig::new(CidKeys::random());
        config.server = Some(tls_server.clone());
        config.transport.mtu_max = mtu_max;
        let server = pair::server(config);
        let addr = server.local_addr().unwrap();
        let accept = async { server.accept().await.unwrap().establish().await.unwrap() };
        let connected = tokio::join!(client.connect(addr, "localhost", &tls_client), accept);
        (connected.0.unwrap(), connected.1, server)
    };
    let (small, large) = (connect(1452).await, connect(65_000).await);
    tokio::join!(
        bulk(&small.0, &small.1, 20_000_000),
        bulk(&large.0, &large.1, 20_000_000)
    );
    assert!((1420..=1452).contains(&small.0.path().mtu));
    assert!(large.0.path().mtu > 63_000);
    // After a small packet a batch of large ones is begun that the kernel would not take whole.
    let counters = client.counters();
    assert!(counters.batches_split.get() > 0);
    assert_eq!(counters.sends_too_large.get(), 0);
}

#[tokio::test]
async fn packets_stay_within_the_smaller_of_both_limits() {
    let (tls_server, tls_client) = tls(b"test");
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(tls_server);
    config.transport = TransportConfig {
        mtu_max: 1400,
        ..TransportConfig::default()
    };
    let server = pair::server(config);
    let client = client(TransportConfig {
        mtu_max: 9000,
        ..TransportConfig::default()
    });
    let addr = server.local_addr().unwrap();
    let accept = async { server.accept().await.unwrap().establish().await.unwrap() };
    let (server, client) = tokio::join!(accept, client.connect(addr, "localhost", &tls_client));
    let client = client.unwrap();
    let mut send = client.open_uni().await.unwrap();
    let write = async {
        send.write_all(&[0; 2_000_000]).await.unwrap();
        send.finish().unwrap();
    };
    let recv = server.accept_uni();
    let ((), body) = tokio::join!(write, async {
        recv.await.unwrap().read_to_end(2_000_000).await.unwrap()
    });
    assert_eq!(body.len(), 2_000_000);
    assert!(client.path().mtu <= 1400, "{:?}", client.path());
}

#[test]
fn group_has_one_port_and_gives_each_socket_once() {
    let addr = "127.0.0.1:0".parse().unwrap();
    let group = SocketGroup::bind(addr, 3, &SocketOptions::default()).unwrap();
    assert_ne!(group.local_addr().port(), 0);
    if skipped(&group) {
        assert!(group.take(0).is_some() && group.take(1).is_none());
        return;
    }
    for worker in 0..3u8 {
        assert_eq!(
            group.take(worker.into()).as_ref().map(WorkerSocket::worker),
            Some(worker)
        );
        assert!(group.take(worker.into()).is_none());
    }
    assert!(group.take(3).is_none());
}

#[test]
fn second_group_on_the_same_port_is_refused_not_joined() {
    let options = SocketOptions::default();
    let group = SocketGroup::bind("127.0.0.1:0".parse().unwrap(), 2, &options).unwrap();
    let error = SocketGroup::bind(group.local_addr(), 2, &options).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn number_of_workers_must_fit_a_connection_id() {
    for workers in [0, 65] {
        let result = SocketGroup::bind(
            "127.0.0.1:0".parse().unwrap(),
            workers,
            &SocketOptions::default(),
        );
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
}

const WORKERS: usize = 4;
const CLIENTS: usize = 40;

/// Answers each stream with the worker that served it and the address it saw.
async fn serve(endpoint: Endpoint, worker: u8) {
    while let Some(connecting) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = connecting.establish().await.unwrap();
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                recv.read_to_end(100).await.unwrap();
                send.write_all(format!("{worker} {}", connection.remote_addr()).as_bytes())
                    .await
                    .unwrap();
                send.finish().unwrap();
            }
        });
    }
    endpoint.wait_idle().await;
}

async fn ask(connection: &Connection) -> (u8, String) {
    let exchange = async {
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(b"who?").await.unwrap();
        send.finish().unwrap();
        String::from_utf8(recv.read_to_end(100).await.unwrap()).unwrap()
    };
    let answer = tokio::time::timeout(Duration::from_secs(20), exchange)
        .await
        .expect("an answer");
    let (worker, addr) = answer.split_once(' ').unwrap();
    (worker.parse().unwrap(), addr.to_owned())
}

#[tokio::test]
async fn connections_stay_with_their_worker_when_clients_change_address() {
    let group = SocketGroup::bind(
        "127.0.0.1:0".parse().unwrap(),
        WORKERS,
        &SocketOptions::default(),
    )
    .unwrap();
    if skipped(&group) {
        return;
    }
    let (tls_server, tls_client) = tls(b"test");
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(tls_server);
    let (endpoints, started) = std::sync::mpsc::sync_channel(WORKERS);
    let threads: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (socket, config, endpoints) = (
                group.take(worker).unwrap(),
                config.clone(),
                endpoints.clone(),
            );
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async move {
                    let endpoint = Endpoint::new(socket, config).unwrap();
                    endpoints.send(endpoint.clone()).unwrap();
                    serve(endpoint, worker.try_into().unwrap()).await;
                });
            })
        })
        .collect();
    let servers: Vec<Endpoint> = started.iter().take(WORKERS).collect();
    let handshakes = || {
        servers
            .iter()
            .map(|s| s.counters().handshakes_completed.get())
            .collect::<Vec<_>>()
    };

    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let endpoint = client(TransportConfig::default());
        let connection = endpoint
            .connect(group.local_addr(), "localhost", &tls_client)
            .await
            .unwrap();
        let (worker, addr) = ask(&connection).await;
        clients.push((endpoint, connection, worker, addr));
    }
    let before = handshakes();
    eprintln!("connections by worker: {before:?}");
    assert_eq!(before.iter().sum::<u64>(), CLIENTS as u64);

    for (endpoint, connection, worker, addr) in &clients {
        for _ in 0..2 {
            endpoint.rebind("127.0.0.1:0".parse().unwrap()).unwrap();
            let (worker_now, addr_now) = ask(connection).await;
            assert_eq!(
                worker_now, *worker,
                "served by the worker of its connection ID"
            );
            assert_ne!(addr_now, *addr, "the server saw the new address");
            assert_eq!(addr_now, endpoint.local_addr().unwrap().to_string());
        }
    }
    assert_eq!(handshakes(), before, "no connection was made anew");
    for server in &servers {
        server.close(0, b"");
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[tokio::test]
async fn answers_to_connections_that_a_worker_makes_find_that_worker() {
    let group = SocketGroup::bind(
        "127.0.0.1:0".parse().unwrap(),
        WORKERS,
        &SocketOptions::default(),
    )
    .unwrap();
    if skipped(&group) {
        return;
    }
    let (tls_server, tls_client) = tls(b"test");
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(tls_server);
    let target = pair::server(config.clone());
    let addr = target.local_addr().unwrap();
    let serving = tokio::spawn(serve(target.clone(), 0));
    let keys = CidKeys::random();
    let (done, mut finished) = tokio::sync::mpsc::channel(WORKERS);
    for worker in 0..WORKERS {
        let config = EndpointConfig::new(keys.clone());
        let (socket, tls, done) = (
            group.take(worker).unwrap(),
            tls_client.clone(),
            done.clone(),
        );
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let endpoint = Endpoint::new(socket, config).unwrap();
                for _ in 0..5 {
                    let connection = endpoint.connect(addr, "localhost", &tls).await.unwrap();
                    ask(&connection).await;
                }
                done.send(endpoint).await.unwrap();
            });
        });
    }
    // Kept, for a group's sockets close together.
    let mut endpoints = Vec::new();
    for _ in 0..WORKERS {
        endpoints.push(finished.recv().await.unwrap());
    }
    assert_eq!(
        target.counters().handshakes_completed.get(),
        5 * WORKERS as u64
    );
    target.close(0, b"");
    serving.await.unwrap();
}
