//! The admin listener: metrics and health for whoever is on this machine.
//!
//! It runs on a thread and runtime of its own, so that a scrape is answered while every worker is busy, and a slow
//! scrape keeps no worker. It has no authentication, so it is reachable from this machine only: a loopback address, with
//! requests for any other host name refused (a web page cannot reach it by rebinding its own name), or a socket file
//! of mode 0600.
//!
//! | path | answer |
//! |---|---|
//! | `/v1/…` | JSON: what the crates above add as [`Calls`](crate::Calls) |
//! | `/metrics` | 200, OpenMetrics text |
//! | `/healthz` | 200 while the process runs |
//! | `/readyz` | 200 when clients should be sent here; 503 with the reason before that, and while draining |

use std::{
    fs, io,
    net::{IpAddr, TcpListener as StdTcpListener},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    runtime,
    sync::Semaphore,
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    calls::Calls,
    config::AdminAddr,
    drain::Drain,
    metrics::{CONTENT_TYPE, Registry},
};

/// Connections at once; the next one waits in the kernel's queue. A scraper and a prober or two are expected.
const CONNECTIONS_MAX: usize = 32;
/// From a connection's first byte to the end of a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The life of a connection without a call under way, so that 32 idle ones lock nobody out for longer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a request's head; hyper takes no less than 8 KiB.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// After an accept that failed, for want of descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether clients should be sent here, and why not.
#[derive(Debug, Clone)]
pub struct Readiness {
    drain: Drain,
    waiting: Arc<Mutex<Option<String>>>,
}

impl Readiness {
    /// Not ready yet, because the process is starting.
    pub fn new(drain: Drain) -> Self {
        Self {
            drain,
            waiting: Arc::new(Mutex::new(Some("starting".to_owned()))),
        }
    }

    /// Ready from now on, until the drain begins.
    pub fn ready(&self) {
        *self.waiting.lock() = None;
    }

    /// Not ready, for this reason.
    pub fn not_ready(&self, reason: &str) {
        *self.waiting.lock() = Some(reason.to_owned());
    }

    /// None when ready, else the reason. Draining comes before everything else.
    pub fn reason(&self) -> Option<String> {
        if self.drain.is_draining() {
            Some("draining".to_owned())
        } else {
            self.waiting.lock().clone()
        }
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(StdTcpListener),
    Unix(StdUnixListener, PathBuf),
}

/// The bound listener, not yet serving.
#[derive(Debug)]
pub struct Admin {
    socket: Socket,
    addr: AdminAddr,
    calls: Calls,
}

impl Admin {
    /// Binds. A socket file that nobody listens on any more is replaced; one that is in use is an error, as is any other file there.
    ///
    /// # Errors
    /// The address is in use or not ours to bind.
    pub fn bind(addr: &AdminAddr) -> io::Result<Self> {
        let (socket, addr) = match addr {
            AdminAddr::Tcp(addr) => {
                let listener = StdTcpListener::bind(addr)?;
                let addr = AdminAddr::Tcp(listener.local_addr()?);
                listener.set_nonblocking(true)?;
                (Socket::Tcp(listener), addr)
            }
            AdminAddr::Unix(path) => {
                let listener = bind_unix(path)?;
                listener.set_nonblocking(true)?;
                (
                    Socket::Unix(listener, path.clone()),
                    AdminAddr::Unix(path.clone()),
                )
            }
        };
        Ok(Self {
            socket,
            addr,
            calls: Calls::default(),
        })
    }

    /// Answers these calls too.
    #[must_use]
    pub fn offering(self, calls: Calls) -> Self {
        Self { calls, ..self }
    }

    /// The address, port 0 resolved.
    pub fn local_addr(&self) -> &AdminAddr {
        &self.addr
    }

    /// Serves on a thread named `admin` until the handle is stopped or dropped.
    ///
    /// # Errors
    /// The system has no thread or event queue to give.
    pub fn serve(self, registry: Registry, readiness: Readiness) -> io::Result<AdminHandle> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let addr = self.addr.clone();
        let thread = thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                let routes = routes(registry, readiness).merge(self.calls.routes());
                runtime.block_on(run(self.socket, routes, &stopped));
            })?;
        Ok(AdminHandle {
            stop,
            thread: Some(thread),
            addr,
        })
    }
}

fn bind_unix(path: &Path) -> io::Result<StdUnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket has this name",
            ));
        }
        Ok(_) if StdUnixStream::connect(path).is_ok() => {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Under another name until its mode is right, so that nobody connects in between.
    let mut unready = path.as_os_str().to_owned();
    unready.push(".new");
    let unready = PathBuf::from(unready);
    if fs::symlink_metadata(&unready).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(&unready)?;
    }
    let listener = StdUnixListener::bind(&unready)?;
    fs::set_permissions(&unready, fs::Permissions::from_mode(0o600))?;
    fs::rename(&unready, path)?;
    Ok(listener)
}

/// A serving admin listener; dropping it stops it.
#[derive(Debug)]
pub struct AdminHandle {
    stop: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
    addr: AdminAddr,
}

impl AdminHandle {
    /// The address it serves on.
    pub fn local_addr(&self) -> &AdminAddr {
        &self.addr
    }

    /// Stops it and waits for its thread; open requests are cut.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.cancel();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the admin listener panicked");
        }
    }
}

impl Drop for AdminHandle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether a connection's call is under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Busy(Arc<AtomicUsize>);

/// A call under way.
#[derive(Debug)]
pub(crate) struct Begun<'a>(&'a Busy);

impl Busy {
    pub(crate) fn begin(&self) -> Begun<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Begun(self)
    }

    fn is_busy(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn routes(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(metrics).with_state(registry))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz).with_state(readiness))
}

async fn metrics(State(registry): State<Registry>) -> Response {
    match registry.render() {
        Ok(text) => (
            [(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))],
            text,
        )
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    match readiness.reason() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Refuses requests whose `Host` is no name of this machine's loopback.
async fn loopback_host_only(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let is_loopback = host.is_some_and(|authority| {
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    });
    if is_loopback {
        next.run(request).await
    } else {
        StatusCode::MISDIRECTED_REQUEST.into_response()
    }
}

async fn run(socket: Socket, routes: Router, stop: &CancellationToken) {
    let connections = Connections {
        permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        open: JoinSet::new(),
    };
    match socket {
        Socket::Tcp(listener) => {
            let Ok(listener) = TcpListener::from_std(listener) else {
                return;
            };
            let routes = routes.layer(middleware::from_fn(loopback_host_only));
            connections
                .accept(
                    async || listener.accept().await.map(|(stream, _)| stream),
                    &routes,
                    stop,
                )
                .await;
        }
        Socket::Unix(listener, path) => {
            let Ok(listener) = UnixListener::from_std(listener) else {
                return;
            };
            connections
                .accept(
                    async || listener.accept().await.map(|(stream, _)| stream),
                    &routes,
                    stop,
                )
                .await;
            // The next start would replace it anyway; a file that is left is only untidy.
            let _already_gone = fs::remove_file(path);
        }
    }
}

struct Connections {
    permits: Arc<Semaphore>,
    open: JoinSet<()>,
}

impl Connections {
    /// Accepts until stopped. Returning drops the set and with it every open connection.
    async fn accept<S, F>(mut self, next: F, routes: &Router, stop: &CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: AsyncFn() -> io::Result<S>,
    {
        loop {
            // The semaphore is never closed; were it, there would be nothing left to serve.
            let permit = tokio::select! {
                () = stop.cancelled() => return,
                permit = self.permits.clone().acquire_owned() => permit,
            };
            let Ok(permit) = permit else { return };
            // Accepting may be cancelled: what was not returned stays in the kernel's queue.
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = next() => accepted,
            };
            while self.open.try_join_next().is_some() {}
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "admin: accept failed");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let busy = Busy::default();
            let service = routes.clone().layer(Extension(busy.clone()));
            let service = TowerToHyperService::new(service);
            self.open.spawn(async move {
                let mut builder = http1::Builder::new();
                builder
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .max_buf_size(HEAD_BYTES_MAX);
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                tokio::pin!(connection);
                loop {
                    tokio::select! {
                        // A broken or late connection is its client's affair.
                        _ended = &mut connection => break,
                        () = sleep(CONNECTION_TIMEOUT) => if !busy.is_busy() { break },
                    }
                }
                drop(permit);
            });
        }
    }
}
