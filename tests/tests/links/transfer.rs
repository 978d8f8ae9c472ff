//! A transfer from `server` to `client` that goes on until it is stopped, on as many streams as the path is said to need,
//! watched from both ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use stoq::quic::{
    CidKeys, Connection, Endpoint, EndpointConfig, PathSnapshot, PathStats, SocketGroup,
    SocketOptions, TlsClient, TlsServer, TransportConfig,
};

use crate::lab::Lab;

/// How often both ends are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What was seen at an end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) at: Instant,
    pub(crate) path: PathStats,
    pub(crate) snapshot: Option<PathSnapshot>,
}

type Looks = Arc<Mutex<Vec<Look>>>;

/// A transfer under way.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) began: Instant,
    sender: Looks,
    receiver: Looks,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Transfer {
    /// Begins one, with these settings at either end.
    pub(crate) fn begin(lab: &Lab, server: TransportConfig, client: TransportConfig) -> Self {
        let (tls_server, tls_client) = tls();
        let (sender, receiver) = (Looks::default(), Looks::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (bound, ready) = sync_channel(1);
        let looks = sender.clone();
        let serve = lab.on("server", move || {
            run(async {
                let options = SocketOptions::default();
                let any = SocketAddr::from(([10, 77, 0, 1], 0));
                let group = SocketGroup::bind(any, 1, &options).unwrap();
                bound.send(group.local_addr()).unwrap();
                let mut config = EndpointConfig::new(CidKeys::random());
                config.server = Some(tls_server);
                config.transport = server;
                let endpoint = Endpoint::new(group.take(0).unwrap(), config).unwrap();
                let accepted = endpoint.accept().await.unwrap();
                let connection = accepted.establish().await.unwrap();
                tokio::join!(give(&connection), look(&connection, &looks));
            });
        });
        let addr = ready.recv().expect("a server");
        let (looks, stopping) = (receiver.clone(), stop.clone());
        let (connected, ready) = sync_channel(1);
        let take = lab.on("client", move || {
            run(async {
                let bind = SocketAddr::from(([10, 77, 0, 2], 0));
                let endpoint = Endpoint::client(bind, client).unwrap();
                let connecting = endpoint.connect(addr, "localhost", &tls_client);
                let connection = connecting.await.unwrap();
                connected.send(()).unwrap();
                let taking = tokio::spawn(take(connection.clone()));
                let watch = async {
                    while !stopping.load(Ordering::Relaxed) {
                        tokio::time::sleep(LOOK).await;
                    }
                    connection.close(0, b"");
                };
                tokio::join!(watch, look(&connection, &looks));
                taking.abort();
                endpoint.wait_idle().await;
            });
        });
        ready.recv().expect("a connection");
        Self {
            began: Instant::now(),
            sender,
            receiver,
            stop,
            threads: vec![serve, take],
        }
    }

    /// What the sender saw last.
    pub(crate) fn sender(&self) -> Option<Look> {
        self.sender.lock().last().copied()
    }

    /// Waits until the sender sees this, or fails after `limit` and says what it saw.
    pub(crate) fn until(&self, what: &str, limit: Duration, seen: impl Fn(&Look) -> bool) -> Look {
        let deadline = Instant::now() + limit;
        loop {
            let last = self.sender();
            if let Some(look) = last.filter(|look| seen(look)) {
                return look;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: not within {limit:?}; last {last:?}"
            );
            std::thread::park_timeout(LOOK);
        }
    }

    /// Lets it go on until this long after it began.
    pub(crate) fn go_on(&self, until: Duration) {
        while let Some(left) = (self.began + until).checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
    }

    /// Ends it; what both ends saw: the sender's looks and the receiver's.
    pub(crate) fn end(mut self) -> (Vec<Look>, Vec<Look>) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("an end without a failure");
        }
        let looks = |looks: &Looks| std::mem::take(&mut *looks.lock());
        (looks(&self.sender), looks(&self.receiver))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // Of a test that failed.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Bits a second received between two times, counted as `tbf` does: with the headers of Ethernet, IPv4 and UDP, 42 bytes.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn wire_rate(looks: &[Look], from: Instant, to: Instant) -> f64 {
    let within: Vec<&Look> = looks
        .iter()
        .filter(|look| (from..=to).contains(&look.at))
        .collect();
    let (Some(first), Some(last)) = (within.first(), within.last()) else {
        return 0.0;
    };
    let bytes = |path: &PathStats| path.received_bytes + 42 * path.received_datagrams;
    let moved = bytes(&last.path) - bytes(&first.path);
    moved as f64 * 8.0 / (last.at - first.at).as_secs_f64()
}

fn run(what: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(what);
}

/// Writes to each stream of the peer until it is stopped or the connection ends.
async fn give(connection: &Connection) {
    let chunk = Bytes::from(vec![0x5a; 1 << 20]);
    while let Ok((mut send, _recv)) = connection.accept_bi().await {
        let chunk = chunk.clone();
        tokio::spawn(
            async move { while send.write_all_chunks(&mut [chunk.clone()]).await.is_ok() {} },
        );
    }
}

/// Reads from as many streams as the connection says are needed, which may grow.
async fn take(connection: Connection) {
    let mut streams = 0;
    loop {
        while streams < connection.streams() {
            let Ok((mut send, mut recv)) = connection.open_bi().await else {
                return;
            };
            send.finish().unwrap();
            streams += 1;
            tokio::spawn(
                async move { while let Ok(Some(_)) = recv.read_chunk(usize::MAX).await {} },
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Looks at the connection until it ends.
async fn look(connection: &Connection, looks: &Looks) {
    while connection.close_reason().is_none() {
        looks.lock().push(Look {
            at: Instant::now(),
            path: connection.path(),
            snapshot: connection.snapshot(),
        });
        tokio::time::sleep(LOOK).await;
    }
}

fn tls() -> (TlsServer, TlsClient) {
    let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
    let mut server = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"links".to_vec()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"links".to_vec()];
    (
        TlsServer::new(Arc::new(server)).unwrap(),
        TlsClient::new(Arc::new(client)).unwrap(),
    )
}
