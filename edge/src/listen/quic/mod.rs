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
#[cfg(test)]
mod moving;
mod qpack;
mod ready;
mod request;
mod way;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use h3::error::Code;
use stoq::quic::{ConnectError, Connecting, ConnectionError, Endpoint};
use tokio::task::JoinSet;

use super::Context;
use super::metrics::Refusal;
use crate::service::{ListenerKind, Service};
use crate::xdp::Miscarried;

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
    let (peer, proven) = (connecting.remote_addr(), connecting.is_proven());
    let established = tokio::select! {
        established = connecting.establish() => established,
        () = context.drain.ended() => return,
    };
    match established {
        Ok(connection) => {
            if let Some(witness) = &context.witness {
                witness.completed(peer.ip());
            }
            context.metrics.handshake(ListenerKind::Quic);
            context.metrics.opened(ListenerKind::Quic);
            connection::run(context.clone(), connection, peer, local).await;
            context.metrics.closed(ListenerKind::Quic);
        }
        Err(ConnectError::HandshakeTimeout) => {
            held_against(&context, peer.ip(), proven, Miscarried::Unfinished);
            context
                .metrics
                .refused(ListenerKind::Quic, Refusal::HandshakeTimeout);
        }
        Err(error) => {
            tracing::debug!(%error, "QUIC handshake failed");
            if is_foreign(&error) {
                held_against(&context, peer.ip(), proven, Miscarried::Foreign);
            }
            context
                .metrics
                .refused(ListenerKind::Quic, Refusal::Handshake);
        }
    }
}

/// Tells the packet limiter of a handshake that came to nothing, where the client cannot have lied about its address.
fn held_against<S>(context: &Context<S>, peer: IpAddr, proven: bool, how: Miscarried) {
    if let Some(witness) = context.witness.as_ref().filter(|_| proven) {
        witness.miscarried(peer, how);
    }
}

/// Whether the client wanted a protocol that is not spoken here.
fn is_foreign(error: &ConnectError) -> bool {
    //= https://www.rfc-editor.org/rfc/rfc9001#section-8.1
    //# When using ALPN, endpoints MUST immediately close a connection […] with a no_application_protocol TLS
    //# alert (QUIC error code 0x0178; see Section 4.8) if an application protocol is not negotiated.
    const NO_APPLICATION_PROTOCOL: u64 = 0x178;
    matches!(
        error,
        ConnectError::Connection(ConnectionError::TransportClosed {
            code: NO_APPLICATION_PROTOCOL,
            by_peer: false,
            ..
        })
    )
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; its connection is closed, the others go on");
    }
}
