//! The answering side of the bench exchanges (`exchange.rs`): what `stoq-bench stoq-server` runs.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use stoq::identity::{Identity, IdentityError};
use stoq::peer::{
    ExchangeError, Handler, IncomingRequest, PeerInfo, PeerServer, SendHalf, ServeConfig,
};
use stoq::quic::{CidKeys, Endpoint, EndpointConfig, WorkerSocket};
use stoq_mesh::{EXCHANGES_MAX, between_nodes};

use super::exchange::{Call, MALFORMED, Refused};
use super::pattern::Pattern;

/// Patterns kept: 8 × 1.1 MiB, of the seeds last asked with.
const PATTERNS_MAX: usize = 8;
/// What exchanges under way are given at the end.
const GRACE: Duration = Duration::from_secs(1);

/// Why a worker does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The node's papers make no TLS.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The socket cannot be used.
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// Answers bench exchanges on one worker's socket, on the current runtime, until `stop` is done; then lets what is
/// under way end for a second. `keys` are shared by all workers of a socket group. UDP payloads grow to `mtu` bytes, or
/// what nodes use.
///
/// # Errors
/// [`ServerError`], before anything was served.
pub async fn serve(
    socket: WorkerSocket,
    identity: Identity,
    keys: CidKeys,
    mtu: Option<u16>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let mut config = EndpointConfig::new(keys);
    config.server = Some(identity.server_tls()?);
    config.transport = between_nodes();
    config.transport.mtu_max = mtu.unwrap_or(config.transport.mtu_max);
    let endpoint = Endpoint::new(socket, config)?;
    let server = PeerServer::new(
        endpoint.clone(),
        identity,
        Arc::new(Answerer::default()),
        ServeConfig {
            exchanges: EXCHANGES_MAX as usize,
            ..ServeConfig::default()
        },
    );
    // The second never ends: it is cancelled when the drain it began is over.
    tokio::select! {
        () = server.serve() => {}
        () = async {
            stop.await;
            server.drain(GRACE);
            pending().await
        } => {}
    }
    endpoint.close(0, b"");
    Ok(())
}

#[derive(Debug, Default)]
struct Answerer {
    patterns: Mutex<VecDeque<(u64, Pattern)>>,
}

impl Answerer {
    fn pattern(&self, seed: u64) -> Pattern {
        let mut patterns = self.patterns.lock();
        if let Some((_, pattern)) = patterns.iter().find(|(known, _)| *known == seed) {
            return pattern.clone();
        }
        let pattern = Pattern::of(seed);
        if patterns.len() == PATTERNS_MAX {
            patterns.pop_front();
        }
        patterns.push_back((seed, pattern.clone()));
        pattern
    }

    async fn answer(&self, request: IncomingRequest) -> Result<(), ExchangeError> {
        let IncomingRequest {
            kind,
            control,
            mut body,
            reply,
            ..
        } = request;
        let (call, pattern) = match self.read(kind, &control) {
            Ok(read) => read,
            Err(Refused { code, text }) => return reply.abort(code, &text).await,
        };
        if body.next().await?.is_some() {
            return reply.abort(MALFORMED, "a body, where none belongs").await;
        }
        send(call, &pattern, reply).await
    }

    fn read(&self, kind: u16, control: &bytes::Bytes) -> Result<(Call, Pattern), Refused> {
        let (seed, call, filling) = Call::decode(kind, control)?;
        let pattern = self.pattern(seed);
        if pattern.is_at(0, &filling) {
            Ok((call, pattern))
        } else {
            Err(Refused {
                code: MALFORMED,
                text: "the request is not the pattern of its seed".to_owned(),
            })
        }
    }
}

async fn send(call: Call, pattern: &Pattern, mut reply: SendHalf) -> Result<(), ExchangeError> {
    match call {
        Call::Rpc { .. } => {
            reply
                .head(pattern.slice(call.begins(), call.length()))
                .await?;
        }
        Call::Bulk(length) => {
            let mut head = BytesMut::with_capacity(8);
            head.put_u64(length);
            reply.head(head.freeze()).await?;
            let mut at = 0;
            while at < length {
                let piece = pattern.slice(at, length - at);
                at += piece.len() as u64;
                reply.data(piece).await?;
            }
        }
    }
    reply.finish().await
}

impl Handler for Answerer {
    fn handle<'a>(&'a self, _peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // An error means that the asker knows already: what was not finished is reset when it is dropped.
            if let Err(error) = self.answer(request).await {
                tracing::debug!(%error, "an exchange was not answered");
            }
        })
    }
}
