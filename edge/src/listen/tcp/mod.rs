//! HTTP/2 and HTTP/1.1 over TLS, and HTTP/1.1 in the clear, all through hyper and the one service.
//!
//! ```text
//! accept ─▶ TLS handshake ─▶ connection.rs  one hyper connection: idle, drain
//!                               ├▶ service.rs  head → try_hit → answer, on the connection's task; or serve → answer
//!                               ├▶ body.rs     bodies in both directions
//!                               ├▶ head_limit.rs  HTTP/1.1: how long a head may take
//!                               └▶ wire.rs     the socket: stalls, and how a broken connection is broken
//! ```

mod body;
mod connection;
mod head_limit;
mod inline;
mod interim;
mod service;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use self::wire::Wire;
use super::Context;
use super::metrics::Refusal;
use super::wait::{TooLong, at_most};
use crate::alt_svc::AltSvc;
use crate::service::{ListenerKind, Service};
use crate::xdp::Miscarried;

/// First and longest pause after the system refused to accept: out of descriptors, trying again at once would only burn.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What a listening socket speaks.
#[derive(Debug, Clone)]
pub enum Door {
    /// TLS, then what ALPN says.
    Tls {
        /// The certificates and protocols.
        config: Arc<ServerConfig>,
        /// What is said of HTTP/3 beside it.
        alt_svc: Arc<AltSvc>,
    },
    /// HTTP/1.1 in the clear.
    Plain {
        /// What it counts as (`listen.http_scheme`).
        scheme: Scheme,
    },
}

impl Door {
    fn kind(&self) -> ListenerKind {
        match self {
            Self::Tls { .. } => ListenerKind::Tls,
            Self::Plain { .. } => ListenerKind::Plain,
        }
    }
}

/// Serves one worker's listening socket until the process has drained: the socket is closed when the drain begins,
/// connections end when their requests have, at the latest at the drain's end.
///
/// Runs on the worker's runtime, on which it spawns a task a connection; all have ended when it returns.
///
/// # Errors
/// If the socket cannot be used with the runtime.
pub async fn serve<S: Service>(
    context: Arc<Context<S>>,
    listener: std::net::TcpListener,
    door: Door,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    let mut pause = BACKOFF.0;
    loop {
        // Every branch may be cancelled.
        tokio::select! {
            biased;
            () = context.drain.begun() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    pause = BACKOFF.0;
                    connections.spawn(greet(context.clone(), stream, peer, door.clone()));
                }
                Err(error) if is_one_clients(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, ?pause, "cannot accept connections");
                    context.metrics.refused(door.kind(), Refusal::Accept);
                    tokio::select! {
                        () = context.drain.begun() => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(BACKOFF.1);
                }
            },
            Some(ended) = connections.join_next(), if !connections.is_empty() => report(ended),
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
    Ok(())
}

/// Errors of `accept` that are about the one connection only.
fn is_one_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

async fn greet<S: Service>(
    context: Arc<Context<S>>,
    stream: TcpStream,
    peer: SocketAddr,
    door: Door,
) {
    let kind = door.kind();
    let _tracked = context.drain.track();
    let Some(_slot) = context.cap.take() else {
        context.metrics.refused(kind, Refusal::Full);
        return;
    };
    let _place = match (&door, context.limits.per_prefix) {
        // Behind a local terminator all have one address.
        (Door::Tls { .. }, Some(max)) => match context.limits.prefixes.take(peer.ip(), max) {
            Some(place) => Some(place),
            None => {
                context.metrics.refused(kind, Refusal::Prefix);
                return;
            }
        },
        (Door::Tls { .. }, None) | (Door::Plain { .. }, _) => None,
    };
    let Ok(local) = stream.local_addr() else {
        return;
    };
    // Heads and bodies are written in pieces that are meant to leave at once.
    let _ = stream.set_nodelay(true);
    let (wire, signals) = Wire::new(stream, &context.limits);
    match door {
        Door::Plain { scheme } => {
            context.metrics.opened(kind);
            let info = context.connection(local, kind, None);
            let at = connection::At {
                info,
                peer,
                scheme,
                alt_svc: None,
                signals,
            };
            connection::http1(&context, wire, at).await;
            context.metrics.closed(kind);
        }
        Door::Tls { config, alt_svc } => {
            let shaking = context
                .witness
                .as_ref()
                .map(|witness| witness.doorstep().shaking());
            let handshake = at_most(
                context.limits.handshake_timeout,
                TlsAcceptor::from(config).accept(wire),
            );
            let shaken = tokio::select! {
                shaken = handshake => shaken,
                () = context.drain.ended() => return,
            };
            let stream = match shaken {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "TLS handshake failed");
                    if let (Some(witness), Some(how)) = (&context.witness, miscarried(&error)) {
                        witness.miscarried(peer.ip(), how);
                    }
                    context.metrics.refused(kind, Refusal::Handshake);
                    return;
                }
                Err(TooLong) => {
                    if let Some(witness) = &context.witness {
                        witness.miscarried(peer.ip(), Miscarried::Unfinished);
                    }
                    context.metrics.refused(kind, Refusal::HandshakeTimeout);
                    return;
                }
            };
            drop(shaking);
            if let Some(witness) = &context.witness {
                witness.completed(peer.ip());
            }
            context.metrics.handshake(kind);
            context.metrics.opened(kind);
            let tls = stream.get_ref().1;
            let server_name = tls.server_name().map(str::to_owned);
            let is_h2 = tls.alpn_protocol() == Some(b"h2");
            let info = context.connection(local, kind, server_name);
            let at = connection::At {
                info,
                peer,
                scheme: Scheme::HTTPS,
                alt_svc: Some(alt_svc),
                signals,
            };
            if is_h2 {
                connection::http2(&context, stream, at).await;
            } else {
                connection::http1(&context, stream, at).await;
            }
            context.metrics.closed(kind);
        }
    }
}

/// What a handshake that failed says against the client, if anything. That it does not like our certificate does not.
fn miscarried(error: &io::Error) -> Option<Miscarried> {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (error.kind(), tls) {
        (_, Some(rustls::Error::NoApplicationProtocol)) => Some(Miscarried::Foreign),
        (io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset, _) => {
            Some(Miscarried::Unfinished)
        }
        _ => None,
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; its connection is closed, the others go on");
    }
}
