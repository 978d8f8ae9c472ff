//! What may be asked of a running node beside metrics and health, and how a command asks it.
//!
//! The crates above add [`Calls`]; the admin listener serves them as JSON under their paths; [`ask`] is the other end. Calls take at most a query as their argument and may take minutes: who leaves
//! ends its call. They are open to whoever reaches the admin listener, which is this machine alone, and to no web page: a request that a browser
//! sent on behalf of one has an `Origin`, and is refused.

use std::{fmt, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::on,
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{admin::Busy, config::AdminAddr};

/// A node on this machine takes a connection within this, or is none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why a call has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// Not now: 409.
    #[error("{0}")]
    Busy(String),
    /// There is no such thing in this configuration: 404.
    #[error("{0}")]
    Absent(String),
    /// Ours: 500.
    #[error("{0}")]
    Failed(String),
}

type Answer = Pin<Box<dyn Future<Output = Result<Value, CallError>> + Send>>;
type Run = Arc<dyn Fn(Option<&str>) -> Answer + Send + Sync>;

/// Calls that a node answers on its admin listener.
#[derive(Clone, Default)]
pub struct Calls(Vec<(Method, &'static str, Run)>);

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.0.iter().map(|(method, path, _)| (method, path));
        f.debug_list().entries(named).finish()
    }
}

impl Calls {
    /// Adds a call that changes nothing: GET.
    #[must_use]
    pub fn get<F, R>(self, path: &'static str, run: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Value, CallError>> + Send + 'static,
    {
        self.add(Method::GET, path, move |_| run())
    }

    /// Adds a call that costs or changes something: POST.
    #[must_use]
    pub fn post<F, R>(self, path: &'static str, run: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Value, CallError>> + Send + 'static,
    {
        self.add(Method::POST, path, move |_| run())
    }

    /// The same, told what stands behind the path's `?`, as it was sent.
    #[must_use]
    pub fn post_query<F, R>(self, path: &'static str, run: F) -> Self
    where
        F: Fn(Option<&str>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Value, CallError>> + Send + 'static,
    {
        self.add(Method::POST, path, run)
    }

    fn add<F, R>(mut self, method: Method, path: &'static str, run: F) -> Self
    where
        F: Fn(Option<&str>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Value, CallError>> + Send + 'static,
    {
        let run: Run = Arc::new(move |query| Box::pin(run(query)));
        self.0.push((method, path, run));
        self
    }

    /// Their routes.
    pub(crate) fn routes(self) -> Router {
        let mut router = Router::new();
        for (method, path, run) in self.0 {
            let filter = if method == Method::POST {
                axum::routing::MethodFilter::POST
            } else {
                axum::routing::MethodFilter::GET
            };
            let answer = move |request: Request| {
                let run = Arc::clone(&run);
                async move {
                    let busy = request.extensions().get::<Busy>().cloned();
                    let _busy = busy.as_ref().map(Busy::begin);
                    answer(request.headers(), request.uri().query(), &run).await
                }
            };
            router = router.route(path, on(filter, answer));
        }
        router
    }
}

async fn answer(headers: &HeaderMap, query: Option<&str>, run: &Run) -> Response {
    if headers.contains_key(header::ORIGIN) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let (status, value) = match run(query).await {
        Ok(value) => (StatusCode::OK, value),
        Err(error) => {
            let status = match error {
                CallError::Busy(_) => StatusCode::CONFLICT,
                CallError::Absent(_) => StatusCode::NOT_FOUND,
                CallError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, serde_json::json!({ "error": error.to_string() }))
        }
    };
    (status, axum::Json(value)).into_response()
}

/// Why a running node gave no result.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there: the node does not run.
    #[error("no node listens on {addr}")]
    NotRunning {
        /// Its admin address.
        addr: AdminAddr,
    },
    /// The node said no.
    #[error("the node on {addr} says: {message}")]
    Refused {
        /// Its admin address.
        addr: AdminAddr,
        /// Its words.
        message: String,
    },
    /// The conversation broke off.
    #[error("asking the node on {addr}: {why}")]
    Broken {
        /// Its admin address.
        addr: AdminAddr,
        /// How.
        why: String,
    },
}

/// Asks the node that listens on `addr`. Waits for as long as the call takes; dropping the future ends the call.
///
/// # Errors
/// [`AskError`].
pub async fn ask(addr: &AdminAddr, method: Method, path: &str) -> Result<Value, AskError> {
    let broken = |why: &dyn fmt::Display| AskError::Broken {
        addr: addr.clone(),
        why: why.to_string(),
    };
    let (status, bytes) = match addr {
        AdminAddr::Tcp(to) => match connected(TcpStream::connect(to)).await {
            Ok(stream) => exchange(stream, method, path).await,
            Err(error) => return Err(unconnected(addr, &error)),
        },
        AdminAddr::Unix(to) => match connected(UnixStream::connect(to)).await {
            Ok(stream) => exchange(stream, method, path).await,
            Err(error) => return Err(unconnected(addr, &error)),
        },
    }
    .map_err(|error| broken(&error))?;
    let value: Option<Value> = serde_json::from_slice(&bytes).ok();
    match (status.is_success(), value) {
        (true, Some(value)) => Ok(value),
        (true, None) => Err(broken(&"its answer is no JSON")),
        (false, value) => {
            let said = value.as_ref().and_then(|value| value.get("error"));
            let message = said
                .and_then(Value::as_str)
                .map_or_else(|| status.to_string(), ToOwned::to_owned);
            Err(AskError::Refused {
                addr: addr.clone(),
                message,
            })
        }
    }
}

async fn connected<T>(connect: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(CONNECT_TIMEOUT, connect)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn unconnected(addr: &AdminAddr, error: &io::Error) -> AskError {
    let addr = addr.clone();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NotRunning { addr },
        _ => AskError::Broken {
            addr,
            why: error.to_string(),
        },
    }
}

type Exchanged = Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>>;

async fn exchange<S>(stream: S, method: Method, path: &str) -> Exchanged
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        Ok((status, body.collect().await?.to_bytes()))
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    let mut is_open = true;
    loop {
        tokio::select! {
            // Neither is dropped by the other's progress.
            exchanged = &mut exchange => return exchanged,
            ended = &mut connection, if is_open => {
                ended?;
                is_open = false;
            }
        }
    }
}
