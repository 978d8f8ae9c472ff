//! What this crate costs on top of the QUIC implementation it stands on: CPU of the server, side by side.
//!
//! Both contenders serve the same client over the loopback, in turns, each on one thread with a current-thread
//! runtime. The figure is the CPU time of that thread from the first connection to the end of the run, as the
//! kernel accounts it, so other load on the machine matters little. Below 1.00 is ours cheaper.
//!
//! ```text
//! cargo bench -p stoq --features h3 --bench bulk
//! ```

#![expect(clippy::unwrap_used, reason = "a failure ends the measurement")]

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{Arc, mpsc::SyncSender},
    thread,
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use stoq::{
    h3::Payload,
    quic::{CidKeys, Endpoint, EndpointConfig, SocketGroup, SocketOptions, TlsServer},
};

/// Alternating runs of each contender.
const ROUNDS: usize = 12;

#[derive(Debug, Clone, Copy)]
enum Work {
    /// One stream of this many bytes from the server.
    Bulk { bytes: usize },
    /// Exchanges of 64 bytes against 1 KiB, a stream each, 64 at a time.
    Rpc { exchanges: usize },
    /// HTTP/3 responses from memory.
    Http {
        requests: usize,
        body: usize,
        at_once: usize,
    },
}

const WORKS: [Work; 4] = [
    Work::Bulk { bytes: 512 << 20 },
    Work::Rpc { exchanges: 50_000 },
    Work::Http {
        requests: 30_000,
        body: 1024,
        at_once: 32,
    },
    Work::Http {
        requests: 400,
        body: 1 << 20,
        at_once: 4,
    },
];

impl Work {
    fn alpn(self) -> &'static [u8] {
        if matches!(self, Self::Http { .. }) {
            b"h3"
        } else {
            b"bench"
        }
    }

    /// Name, unit of the figure and how many of the unit a run has.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn unit(self) -> (String, &'static str, f64) {
        match self {
            Self::Bulk { bytes } => ("bulk".into(), "s/GB", bytes as f64 / 1e9),
            Self::Rpc { exchanges } => (
                "rpc 64 B / 1 KiB".into(),
                "s/million",
                exchanges as f64 / 1e6,
            ),
            Self::Http {
                requests,
                body: 1024,
                ..
            } => ("h3 1 KiB".into(), "s/million", requests as f64 / 1e6),
            Self::Http { requests, body, .. } => (
                format!("h3 {} KiB", body >> 10),
                "s/GB",
                (requests * body) as f64 / 1e9,
            ),
        }
    }
}

/// CPU time of the calling thread.
fn thread_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// A contender's server: tells its address, serves one connection, returns the CPU it took.
type Serve = fn(Work, Arc<rustls::ServerConfig>, SyncSender<SocketAddr>) -> Duration;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn ours(work: Work, tls: Arc<rustls::ServerConfig>, ready: SyncSender<SocketAddr>) -> Duration {
    runtime().block_on(async move {
        let group = SocketGroup::bind("127.0.0.1:0".parse().unwrap(), 1, &SocketOptions::default())
            .unwrap();
        let mut config = EndpointConfig::new(CidKeys::random());
        config.server = Some(TlsServer::new(tls).unwrap());
        let endpoint = Endpoint::new(group.take(0).unwrap(), config).unwrap();
        ready.send(group.local_addr()).unwrap();
        let connection = endpoint.accept().await.unwrap().establish().await.unwrap();
        let start = thread_cpu();
        match work {
            Work::Bulk { bytes } => {
                let (mut send, _recv) = connection.accept_bi().await.unwrap();
                let piece = Bytes::from(vec![1; 1 << 20]);
                for _ in 0..bytes / piece.len() {
                    send.write_all_chunks(&mut [piece.clone()]).await.unwrap();
                }
                send.finish().unwrap();
                connection.closed().await;
            }
            Work::Rpc { .. } => {
                let answer = Bytes::from(vec![1; 1024]);
                while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                    let answer = answer.clone();
                    tokio::spawn(async move {
                        recv.read_to_end(64).await.unwrap();
                        send.write_all_chunks(&mut [answer]).await.unwrap();
                        send.finish().unwrap();
                    });
                }
            }
            Work::Http { body, .. } => {
                let body = Bytes::from(vec![1; body]);
                let connection = stoq::h3::Connection::new(connection);
                let mut h3 = h3::server::Connection::<_, Payload>::new(connection)
                    .await
                    .unwrap();
                while let Ok(Some(resolver)) = h3.accept().await {
                    let body = body.clone();
                    tokio::spawn(async move {
                        let (_, mut stream) = resolver.resolve_request().await.unwrap();
                        stream.send_response(Response::new(())).await.unwrap();
                        stream.send_data(body.into()).await.unwrap();
                        stream.finish().await.unwrap();
                    });
                }
            }
        }
        thread_cpu() - start
    })
}

fn plain(work: Work, tls: Arc<rustls::ServerConfig>, ready: SyncSender<SocketAddr>) -> Duration {
    runtime().block_on(async move {
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        ready.send(endpoint.local_addr().unwrap()).unwrap();
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let start = thread_cpu();
        match work {
            Work::Bulk { bytes } => {
                let (mut send, _recv) = connection.accept_bi().await.unwrap();
                let piece = Bytes::from(vec![1; 1 << 20]);
                for _ in 0..bytes / piece.len() {
                    send.write_all_chunks(&mut [piece.clone()]).await.unwrap();
                }
                send.finish().unwrap();
                connection.closed().await;
            }
            Work::Rpc { .. } => {
                let answer = Bytes::from(vec![1; 1024]);
                while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                    let answer = answer.clone();
                    tokio::spawn(async move {
                        recv.read_to_end(64).await.unwrap();
                        send.write_all_chunks(&mut [answer]).await.unwrap();
                        send.finish().unwrap();
                    });
                }
            }
            Work::Http { body, .. } => {
                let body = Bytes::from(vec![1; body]);
                let connection = h3_quinn::Connection::new(connection);
                let mut h3 = h3::server::Connection::<_, Bytes>::new(connection)
                    .await
                    .unwrap();
                while let Ok(Some(resolver)) = h3.accept().await {
                    let body = body.clone();
                    tokio::spawn(async move {
                        let (_, mut stream) = resolver.resolve_request().await.unwrap();
                        stream.send_response(Response::new(())).await.unwrap();
                        stream.send_data(body).await.unwrap();
                        stream.finish().await.unwrap();
                    });
                }
            }
        }
        thread_cpu() - start
    })
}

/// The client: the same for both, on the implementation as it is.
async fn drive(work: Work, server: SocketAddr, tls: Arc<rustls::ClientConfig>) {
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let connection = endpoint
        .connect_with(config, server, "localhost")
        .unwrap()
        .await
        .unwrap();
    match work {
        Work::Bulk { bytes } => {
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            send.write_all(b"go").await.unwrap();
            send.finish().unwrap();
            let mut received = 0;
            while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.unwrap() {
                received += chunk.bytes.len();
            }
            assert_eq!(received, bytes);
        }
        Work::Rpc { exchanges } => {
            let request = Bytes::from(vec![2; 64]);
            stream::iter(0..exchanges)
                .map(|_| async {
                    let (mut send, mut recv) = connection.open_bi().await.unwrap();
                    send.write_all_chunks(&mut [request.clone()]).await.unwrap();
                    send.finish().unwrap();
                    assert_eq!(recv.read_to_end(1024).await.unwrap().len(), 1024);
                })
                .buffer_unordered(64)
                .for_each(|()| async {})
                .await;
        }
        Work::Http {
            requests,
            body,
            at_once,
        } => {
            let h3 = h3_quinn::Connection::new(connection.clone());
            let (mut driver, sender) = h3::client::new(h3).await.unwrap();
            let driver = tokio::spawn(async move { poll_fn(|cx| driver.poll_close(cx)).await });
            stream::iter(0..requests)
                .map(|_| {
                    let mut sender = sender.clone();
                    async move {
                        let request = Request::get("https://localhost/").body(()).unwrap();
                        let mut stream = sender.send_request(request).await.unwrap();
                        stream.finish().await.unwrap();
                        stream.recv_response().await.unwrap();
                        let mut received = 0;
                        while let Some(chunk) = stream.recv_data().await.unwrap() {
                            received += chunk.remaining();
                        }
                        assert_eq!(received, body);
                    }
                })
                .buffer_unordered(at_once)
                .for_each(|()| async {})
                .await;
            drop(sender);
            driver.await.unwrap();
        }
    }
    connection.close(0u32.into(), b"");
    endpoint.wait_idle().await;
}

/// A server with a certificate for `localhost` and a client that trusts it.
fn tls(alpn: &[u8]) -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![alpn.to_vec()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![alpn.to_vec()];
    (Arc::new(server), Arc::new(client))
}

fn run(work: Work, serve: Serve) -> f64 {
    let (server_tls, client_tls) = tls(work.alpn());
    let (ready, addr) = std::sync::mpsc::sync_channel(1);
    let server = thread::spawn(move || serve(work, server_tls, ready));
    let addr = addr.recv().unwrap();
    runtime().block_on(drive(work, addr, client_tls));
    server.join().unwrap().as_secs_f64()
}

/// The lower quartile: what else runs on the machine only ever adds.
fn quartile(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 4]
}

fn main() {
    println!(
        "{:<18} {:>10} {:>10} {:>8}   unit of server CPU",
        "", "stoq", "plain", "ratio"
    );
    // `cargo bench … -- "h3 1 KiB"` runs what matches; cargo itself adds `--bench`.
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    for work in WORKS {
        let (name, unit, amount) = work.unit();
        if !only.is_empty() && !only.iter().any(|part| name.contains(part)) {
            continue;
        }
        let (mut of_ours, mut of_plain) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            of_ours.push(run(work, ours) / amount);
            of_plain.push(run(work, plain) / amount);
        }
        let (a, b) = (quartile(of_ours), quartile(of_plain));
        println!("{name:<18} {a:>10.3} {b:>10.3} {:>8.3}   {unit}", a / b);
    }
}
