//! HTTP/3: one task a connection, hits answered on it.
//!
//! ```text
//! accept ─▶ handshake ─▶ connection.rs  takes streams, polls each request once where it stands
//!                          ├▶ express.rs  a plain hit: bytes in, bytes out, within one call
//!                          └▶ request.rs  head → try_hit → answer; or serve → answer; then the rest of the request
//!                               way.rs  the stream an answer is sent on
//!                               qpack.rs  response heads as frames
//!                               guard.rs, gate.rs  what stands between the client's bytes and the h3 library
//! ```

mod body;
mod connection;
mod express;
mod gate;
mod guard;
mod qpack;
mod ready;
mod request;
mod way;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use h3::error::Code;
use stoq::quic::{Connecting, Endpoint};
use tokio::task::JoinSet;

use super::Context;
use super::metrics::Refusal;
use crate::service::{ListenerKind, Service};

/// How long the peers are given to hear of a close, once everything is done.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Serves HTTP/3 on one worker's endpoint until the process has drained: newcomers are refused from the beginning of the
/// drain on, connections end when their requests have, at the latest at the drain's end.
///
/// Runs on the worker's runtime, on which it spawns a task a connection; all have ended when it returns.
pub async fn serve<S: Service>(context: Arc<Context<S>>, endpoint: Endpoint) {
    let local = endpoint
        .local_addr()
        .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    if let Some(witness) = &context.witness {
        witness.doorstep().add(endpoint.counters());
    }
    let mut connections = JoinSet::new();
    loop {
        // Every branch may be cancelled.
        tokio::select! {
            biased;
            () = context.drain.begun() => break,
            connecting = endpoint.accept() => match connecting {
                Some(connecting) => {
                    connections.spawn(greet(context.clone(), connecting, local));
                }
                None => break,
            },
            Some(ended) = connections.join_next(), if !connections.is_empty() => report(ended),
        }
    }
    endpoint.set_server(None);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
    endpoint.close(Code::H3_NO_ERROR.value(), b"drained");
    let _ = tokio::time::timeout(CLOSE_WAIT, endpoint.wait_idle()).await;
}

async fn greet<S: Service>(context: Arc<Context<S>>, connecting: Connecting, local: SocketAddr) {
    let _tracked = context.drain.track();
    let Some(_slot) = context.cap.take() else {
        // Dropped, the handshake is refused.
        context.metrics.refused(ListenerKind::Quic, Refusal::Full);
        return;
    };
    let established = tokio::select! {
        established = connecting.establish() => established,
        () = context.drain.ended() => return,
    };
    match established {
        Ok(connection) => {
            if let Some(witness) = &context.witness {
                witness.completed(connection.remote_addr().ip());
            }
            context.metrics.handshake(ListenerKind::Quic);
            context.metrics.opened(ListenerKind::Quic);
            connection::run(context.clone(), connection, local).await;
            context.metrics.closed(ListenerKind::Quic);
        }
        Err(stoq::quic::ConnectError::HandshakeTimeout) => {
            context
                .metrics
                .refused(ListenerKind::Quic, Refusal::HandshakeTimeout);
        }
        Err(error) => {
            tracing::debug!(%error, "QUIC handshake failed");
            context
                .metrics
                .refused(ListenerKind::Quic, Refusal::Handshake);
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; its connection is closed, the others go on");
    }
}
