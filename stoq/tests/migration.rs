//! A download goes on while its client changes ports and its address, whichever worker serves it.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

mod pair;

use std::{thread, time::Duration};

use bytes::Bytes;
use pair::{client, tls};
use stoq::quic::{
    CidKeys, Endpoint, EndpointConfig, SocketGroup, SocketOptions, Steering, TransportConfig,
};

const WORKERS: usize = 4;
const TOTAL: usize = 100_000_000;
const PIECE: usize = 1_000_000;

/// The part of the body that begins at `offset`: no two alike, so that a mix-up shows.
fn piece(offset: usize) -> Bytes {
    let mut bytes = vec![0; PIECE.min(TOTAL - offset)];
    let seed = u64::try_from(offset).unwrap().to_le_bytes();
    blake3::Hasher::new()
        .update(&seed)
        .finalize_xof()
        .fill(&mut bytes);
    bytes.into()
}

async fn serve(endpoint: Endpoint) {
    while let Some(connecting) = endpoint.accept().await {
        let connection = connecting.establish().await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                recv.read_to_end(100).await.unwrap();
                for offset in (0..TOTAL).step_by(PIECE) {
                    send.write_all_chunks(&mut [piece(offset)]).await.unwrap();
                }
                send.finish().unwrap();
            }
        });
    }
    endpoint.wait_idle().await;
}

#[tokio::test]
async fn a_download_survives_three_rebinds_and_a_new_address_on_four_workers() {
    let any = "127.0.0.1:0".parse().unwrap();
    let group = SocketGroup::bind(any, WORKERS, &SocketOptions::default()).unwrap();
    if let Steering::SingleSocket { reason } = group.steering() {
        let required = std::env::var_os("STOQ_REQUIRE_PRIVILEGED").is_some_and(|it| it == "1");
        assert!(!required, "the kernel refuses to steer: {reason}");
        eprintln!("SKIPPED: the kernel refuses to steer: {reason}");
        return;
    }
    let (tls_server, tls_client) = tls(b"test");
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(tls_server);
    let (endpoints, started) = std::sync::mpsc::sync_channel(WORKERS);
    let threads: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (socket, config) = (group.take(worker).unwrap(), config.clone());
            let endpoints = endpoints.clone();
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async move {
                    let endpoint = Endpoint::new(socket, config).unwrap();
                    endpoints.send(endpoint.clone()).unwrap();
                    serve(endpoint).await;
                });
            })
        })
        .collect();
    let servers: Vec<Endpoint> = started.iter().take(WORKERS).collect();

    let endpoint = client(TransportConfig::default());
    let connection = endpoint
        .connect(group.local_addr(), "localhost", &tls_client)
        .await
        .unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"all").await.unwrap();
    send.finish().unwrap();
    // Three other ports, and another address.
    let mut moves = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.2:0", "127.0.0.1:0"].into_iter();
    let (mut received, mut hash) = (0, blake3::Hasher::new());
    let mut moved = Vec::new();
    let download = async {
        while let Some(bytes) = recv.read_chunk(usize::MAX).await.unwrap() {
            received += bytes.len();
            hash.update(&bytes);
            if received > TOTAL / 5 * (moved.len() + 1)
                && let Some(to) = moves.next()
            {
                endpoint.rebind(to.parse().unwrap()).unwrap();
                moved.push(endpoint.local_addr().unwrap());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), download)
        .await
        .expect("a whole body");
    println!("moved to {moved:?}");
    assert_eq!(moved.len(), 4);

    let mut want = blake3::Hasher::new();
    for offset in (0..TOTAL).step_by(PIECE) {
        want.update(&piece(offset));
    }
    assert_eq!(received, TOTAL);
    assert_eq!(hash.finalize(), want.finalize());
    let handshakes = |server: &Endpoint| server.counters().handshakes_completed.get();
    assert_eq!(servers.iter().map(handshakes).sum::<u64>(), 1);
    let attempts = |server: &Endpoint| server.counters().attempts_accepted.get();
    assert_eq!(servers.iter().map(attempts).sum::<u64>(), 1);
    for server in &servers {
        server.close(0, b"");
    }
    for thread in threads {
        thread.join().unwrap();
    }
}
