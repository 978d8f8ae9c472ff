//! A plain HTTP/1.1 server on loopback whose answers a test scripts: it sees the number of the request, over all
//! connections, and says what comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// What comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// A body that is the path's own.
    Right(usize),
    /// So many zeros.
    Zeros(usize),
    /// Half of the body, then the connection's end.
    Cut(usize),
    /// Half of the body, then a reset.
    Reset(usize),
    /// This status, without a body.
    Status(u16),
    /// Nothing from anybody for so long; then the body.
    Stall(Duration, usize),
    /// The body, and no further request on this connection.
    Last(usize),
}

/// A server that runs as long as this lives.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<AtomicU64>,
    pub(crate) connections: Arc<AtomicU64>,
    /// Paths in the order in which they came, without those of the first requests.
    pub(crate) paths: Arc<Mutex<Vec<String>>>,
    _runtime: tokio::runtime::Runtime,
}

struct Shared<F> {
    script: F,
    requests: Arc<AtomicU64>,
    paths: Arc<Mutex<Vec<String>>>,
    stalled_until: Mutex<Option<Instant>>,
}

/// The body of a path: the same each time, and no zeros.
pub(crate) fn body(path: &str, length: usize) -> Vec<u8> {
    let seed = path.bytes().fold(7u8, u8::wrapping_add);
    let wheel = (0..=u8::MAX).cycle().take(length);
    wheel
        .map(|at| at.wrapping_mul(31).wrapping_add(seed) | 1)
        .collect()
}

/// Starts one, on a thread of its own.
pub(crate) fn serve(script: impl Fn(u64, &str) -> Reply + Send + Sync + 'static) -> Server {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (requests, connections) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let paths = Arc::<Mutex<Vec<String>>>::default();
    let shared = Arc::new(Shared {
        script,
        requests: Arc::clone(&requests),
        paths: Arc::clone(&paths),
        stalled_until: Mutex::new(None),
    });
    let accepted = Arc::clone(&connections);
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            accepted.fetch_add(1, Ordering::Relaxed);
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { drop(connection(stream, &shared).await) });
        }
    });
    Server {
        address,
        requests,
        connections,
        paths,
        _runtime: runtime,
    }
}

async fn connection<F: Fn(u64, &str) -> Reply>(
    mut stream: TcpStream,
    shared: &Shared<F>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head: Vec<u8> = buffer.drain(..end).collect();
        let head = String::from_utf8_lossy(&head);
        let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
        let number = shared.requests.fetch_add(1, Ordering::Relaxed);
        shared.paths.lock().push(path.clone());
        let reply = (shared.script)(number, &path);
        if let Reply::Stall(time, _) = &reply {
            *shared.stalled_until.lock() = Some(Instant::now() + *time);
        }
        let stalled = *shared.stalled_until.lock();
        if let Some(until) = stalled {
            tokio::time::sleep_until(until).await;
        }
        let (length, bytes) = match reply {
            Reply::Right(length) | Reply::Stall(_, length) | Reply::Last(length) => {
                (length, body(&path, length))
            }
            Reply::Zeros(length) => (length, vec![0; length]),
            Reply::Cut(length) | Reply::Reset(length) => {
                (length, body(&path, length)[..length / 2].to_vec())
            }
            Reply::Status(status) => {
                let head = format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                continue;
            }
        };
        let close = if matches!(reply, Reply::Last(_)) {
            "Connection: close\r\n"
        } else {
            ""
        };
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{close}\r\n").into_bytes();
        answer.extend(bytes);
        stream.write_all(&answer).await?;
        match reply {
            Reply::Cut(_) | Reply::Last(_) => return stream.shutdown().await,
            // Closed with nothing lingering: the peer sees a reset.
            Reply::Reset(_) => return stream.set_zero_linger(),
            _ => {}
        }
    }
}
